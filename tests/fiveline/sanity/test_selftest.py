"""The proofs that a user can run: they pass on what is right, and they find what is wrong."""

import re
import shutil
import subprocess
import sys

import pytest

import utils
from fiveline.record.atomic import write_lines
from fiveline.sanity.selftest import NOT_REPEATED, NOT_SAVED, differences, selftest, unreadable
from fiveline.tasks import fetch_params
from tests.support.runs import DIGITS, finish, write_params


def test_two_runs_of_one_seed_differ_in_nothing(make_run):
    first, second = finish(make_run("first")), finish(make_run("second", save_summary_steps=3))
    assert differences(first, second) == [] and unreadable(first) == []


def test_each_kind_of_difference_is_named(make_run):
    first, second = finish(make_run("first")), finish(make_run("second"))
    state = utils.read_checkpoint(second / "last.pth.tar")
    state["state_dict"]["fc2.bias"][1] += 2**-20
    state["optim_dict"]["param_groups"][0]["lr"] = 1.0
    del state["generators"]
    utils.write_checkpoint(state, second / "last.pth.tar")
    found = differences(first, second)
    assert [line for line in found if "in one of them" in line] == ["last.pth.tar generators: in one of them only"]
    utils.write_checkpoint({**state, "generators": None}, second / "last.pth.tar")
    rows = utils.read_lines(second / "history.jsonl")
    rows[1]["val"]["loss"] += 1e-12
    write_lines(second / "history.jsonl", rows)
    (second / "metrics_val_last_weights.json").write_text("{}")
    found = differences(first, second)
    assert re.match(r"last.pth.tar state_dict fc2.bias: 1 of 3 numbers differ, by up to ", found[0])
    assert found[1] == "last.pth.tar optim_dict param_groups 0 lr: 0.01 and 1.0"
    assert found[2].startswith("history.jsonl 1 val loss: ")
    assert found[3:] == ["metrics_val_last_weights.json: other metrics"]


def test_files_that_cannot_be_read_are_named(make_run):
    folder = finish(make_run())
    for name in ("best.pth.tar", "run.json", "history.jsonl"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-2])
    assert unreadable(folder) == [f"{name} cannot be read" for name in ("best.pth.tar", "history.jsonl", "run.json")]


@pytest.mark.thorough
def test_selftest_passes_on_a_shipped_run(run_script):
    done = run_script("train.py", "--selftest_resume", "num_channels=8")
    assert done.returncode == 0, done.stderr
    assert "- kill 1 after " in done.stdout and "The same bits after " in done.stdout


def test_selftest_claims_nothing_where_all_kills_came_too_late(make_run, monkeypatch, capsys):
    """Each kill comes after the run was complete, so nothing was ever resumed."""
    monkeypatch.setattr("fiveline.sanity.selftest.MAX_TRIES", 5)
    monkeypatch.setattr("fiveline.sanity.selftest.finish", lambda folder, flags: bool(finish(folder)) * 0.5)
    monkeypatch.setattr("fiveline.sanity.selftest.kill_after", lambda delay, folder, flags: bool(finish(folder)))
    with pytest.raises(utils.Stop, match="each of 5 kills came before the first save or after the last"):
        selftest(fetch_params(make_run()))
    printed = capsys.readouterr().out
    assert printed.count(": all of it was saved") == 5 and "The same bits" not in printed


FORWARD = "model/vision/net.py", "    def forward(self, s: Tensor) -> Tensor:\n"
LABELS = "model/vision/data_loader.py", "        labels = self.labels.index_select(0, positions)\n"
COUNTER = """
        self.calls = getattr(self, 'calls', 0) + self.training
        s = s * (1 + 1e-4 * self.calls)
"""
GENERATOR = """
        self.own = getattr(self, 'own', None) or torch.Generator().manual_seed(1)
        labels = labels.where(torch.rand(len(labels), generator=self.own) < 0.9, 0)
"""
NOISE = """
        s = s + __import__('random').SystemRandom().random() / 1000
"""


@pytest.mark.parametrize(
    ("place", "fault", "cause"),
    [
        pytest.param(FORWARD, COUNTER, NOT_SAVED, id="counter", marks=pytest.mark.slow),
        pytest.param(LABELS, GENERATOR, NOT_SAVED, id="generator", marks=pytest.mark.thorough),
        pytest.param(FORWARD, NOISE, NOT_REPEATED, id="noise", marks=pytest.mark.thorough),
    ],
)
def test_selftest_finds_what_does_not_continue_and_tells_why(project, tmp_path, place, fault, cause):
    (name, line), copy = place, tmp_path / "copy"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".*", "tests", "__pycache__"))
    source = (copy / name).read_text()
    assert line in source
    (copy / name).write_text(source.replace(line, line + fault, 1))
    folder = write_params(tmp_path / "run", **DIGITS)
    command = [sys.executable, "train.py", "--model_dir", str(folder), "--selftest_resume"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "ended differently:\n  last.pth.tar state_dict conv1.weight: " in done.stderr
    assert done.stderr.rstrip().endswith(cause)
    assert sorted(path.name for path in folder.iterdir()) == ["params.json"]


@pytest.mark.thorough
def test_soak_loses_nothing(project):
    command = [sys.executable, "-m", "benchmarks.soak", "--kills", "6", "--jobs", "2"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kills in " in done.stdout and "nothing lost" in done.stdout


@pytest.mark.thorough
def test_a_full_disk_loses_nothing(project):
    command = [sys.executable, "-m", "benchmarks.soak", "--full_disk", "2"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "times full" in done.stdout and "nothing lost" in done.stdout
