"""The self test of resuming: it passes on what is right, and it finds what is wrong and names the cause."""

import re
import shutil
import subprocess
import sys

import pytest

import sanity_check
import utils
from fiveline.record.atomic import write_lines
from fiveline.sanity import selftest
from tests.support.runs import DIGITS, finish, write_params
from tests.support.tasks import PROJECT, need, task_of


def test_each_kind_of_difference_is_named(make_run):
    first, second = finish(make_run("first")), finish(make_run("second", save_summary_steps=3))
    assert selftest.differences(first, second) == [] and selftest.unreadable(first) == []
    state = utils.read_checkpoint(second / "last.pth.tar")
    state["state_dict"]["fc2.bias"][1] += 2**-20
    state["optim_dict"]["param_groups"][0]["lr"] = 1.0
    del state["generators"]
    utils.write_checkpoint(state, second / "last.pth.tar")
    rows = utils.read_lines(second / "history.jsonl")
    rows[1]["val"]["loss"] += 1e-12
    write_lines(second / "history.jsonl", rows)
    (second / "metrics_val_last_weights.json").unlink()
    found = [
        r"metrics_val_last_weights.json: in one of them only", r"last.pth.tar generators: in one of them only",
        r"last.pth.tar state_dict fc2.bias: 1 of 3 numbers differ, by up to ",
        r"last.pth.tar optim_dict param_groups 0 lr: 0.01 and 1.0", r"history.jsonl 1 val loss: ",
    ]  # fmt: skip
    lines = selftest.differences(first, second)
    assert len(lines) == len(found) and all(map(re.match, found, lines)), lines
    for name in ("best.pth.tar", "run.json", "history.jsonl"):
        (first / name).write_bytes((first / name).read_bytes()[:-2])
    assert [line.split()[0] for line in selftest.unreadable(first)] == ["best.pth.tar", "history.jsonl", "run.json"]


def test_selftest_claims_nothing_where_the_first_kill_came_too_late(make_run, monkeypatch, capsys):
    """The kill comes after the run was complete, so nothing was ever resumed."""
    monkeypatch.setattr(selftest, "train_once", lambda folder, *_: (finish(folder) is None, 0.5))
    with pytest.raises(utils.Stop, match="the run ended before the first kill"):
        sanity_check.main(["--model_dir", str(make_run()), "--selftest_resume"])
    assert "The same bits" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("experiment", "words"),
    [pytest.param("base_model", "num_channels=8", marks=pytest.mark.thorough),
     pytest.param("text_characters", "context_length=32 num_layers=1 num_heads=2 width=16 dropout_rate=0.1 "
                  "evaluate_every_steps=100", marks=pytest.mark.slow)],
)  # fmt: skip
def test_selftest_passes_on_a_shipped_run(run_script, experiment, words):
    need(task_of(PROJECT / "experiments" / experiment))
    command = ["sanity_check.py", "--model_dir", f"experiments/{experiment}", "--selftest_resume", *words.split()]
    done = run_script(*command, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "- killed after " in done.stdout and "The same bits after " in done.stdout


COUNTER = "self.calls = getattr(self, 'calls', 0) + 1; s = s * (1 + 1e-4 * self.calls)"
NOISE = "s = s + __import__('random').SystemRandom().random() / 1000"


@pytest.mark.parametrize(
    ("fault", "cause"),
    [pytest.param(COUNTER, selftest.NOT_SAVED, id="counter", marks=pytest.mark.slow),
     pytest.param(NOISE, selftest.NOT_REPEATED, id="noise", marks=pytest.mark.thorough)],
)  # fmt: skip
def test_selftest_finds_what_does_not_continue_and_says_why(tmp_path, fault, cause):
    copy, line = tmp_path / "copy", "    def forward(self, s: Tensor) -> Tensor:\n"
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns(".*", "tests", "__pycache__"))
    source = (copy / "model/vision/net.py").read_text()
    assert line in source
    (copy / "model/vision/net.py").write_text(source.replace(line, f"{line}        {fault}\n", 1))
    folder = write_params(tmp_path / "run", **DIGITS)
    command = [sys.executable, "sanity_check.py", "--model_dir", str(folder), "--selftest_resume"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "ended differently:\n  last.pth.tar " in done.stderr and done.stderr.rstrip().endswith(cause)
    assert [path.name for path in folder.iterdir()] == ["params.json"]


@pytest.mark.thorough
@pytest.mark.parametrize(("words", "summary"), [("--kills 6 --jobs 2", "6 kills in "), ("--full_disk 2", "times full")])
def test_soak_loses_nothing(words, summary):
    command = [sys.executable, "-m", "benchmarks.soak", *words.split()]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary in done.stdout and "nothing lost" in done.stdout
