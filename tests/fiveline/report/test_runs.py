"""Run directories are read whatever they hold, and runs that only say they are running are recognised."""

import json
import os
import signal
import subprocess
import sys

import pytest

import evaluate
import train
import utils
from fiveline.report.columns import group_by_seed, hyperparameters_that_differ
from fiveline.report.predictions import describe, read_per_class, read_predictions
from fiveline.report.runs import Run, read_history, read_runs
from tests.support.results import synthesize, write_run


def read_one(parent_dir):
    (run,), problems = read_runs(parent_dir)
    return run, problems


def test_a_run_of_train_and_evaluate_is_read_and_its_intervals_are_in_the_table(make_run, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    model_dir = make_run("runs/one")
    for script in (train, evaluate):
        script.main(["--model_dir", str(model_dir), "--disable_cuda"])
    printed = dict(line.split(maxsplit=2)[::2] for line in capsys.readouterr().out.splitlines() if " to " in line)
    run, problems = read_one(tmp_path / "runs")
    files = ("run.json", "metrics_val_best_weights.json", "metrics_test_best.json")
    record, val, test = (json.loads((model_dir / name).read_text()) for name in files)
    assert (run.name, run.path, run.val, run.test) == ("one", model_dir, val, test)
    assert run.params == {**record["params"], "restore_file": None}
    assert (run.status, run.epochs, run.best_epoch, run.monitor) == ("finished", 2, record["best_epoch"], "accuracy")
    history = read_history(run, problems)
    assert [row["epoch"] for row in history] == [1, 2]
    assert run.seconds == pytest.approx(sum(row["seconds"] for row in history))
    assert len(read_predictions(run, problems)) == 16 and len(read_per_class(run, problems)) == 3 and problems == []
    (row,) = synthesize(tmp_path / "runs", "--columns", "test accuracy, test loss")
    shown = capsys.readouterr().out
    for name in ("accuracy", "loss"):
        low, high = (float(row[f"test {name} {end}"]) for end in ("low", "high"))
        assert f"{low:.4f} to {high:.4f}" == printed[name] and float(row[f"test {name}"]) == run.test[name]
        assert f"{run.test[name]:.4g} [{low:.3g}, {high:.3g}]" in shown


KILLED = "import os, sys, pathlib, utils\nwith utils.RunDirectory(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"


def test_a_run_that_died_is_stale_and_one_at_work_is_running(tmp_path):
    folder = write_run(tmp_path / "run", {"seed": 1}, status="running")
    assert read_one(tmp_path)[0].status == "stale"
    assert subprocess.run([sys.executable, "-c", KILLED, folder]).returncode == -signal.SIGKILL
    assert (folder / ".lock.json").exists() and read_one(tmp_path)[0].status == "stale"
    with utils.RunDirectory(folder):  # looking has not taken the lock for good
        assert read_one(tmp_path)[0].status == "running"
    (folder / ".lock.json").write_text(json.dumps({"host": "another-machine", "process": 1, "since": "now"}))
    assert read_one(tmp_path)[0].status == "running"  # this machine cannot know


def test_hyperparameters_of_other_code_and_of_old_names_are_shown(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "hydra/run", val={"accuracy": 0.5})
    text = "optimizer:\n  name: adam\n  lr: 1e-3\nbetas: [0.9, 0.999]\nday: 2020-01-01\nempty: {}\n"
    (folder / "params.yaml").write_text(text)
    run, problems = read_one(tmp_path / "hydra")
    short = {"optimizer": "{'lr': 0.001, 'name': 'adam'}", "day": "2020-01-01", "empty": "{}"}
    assert run.params == {**short, "betas": [0.9, 0.999]} and problems == []
    monkeypatch.setattr(utils.Params, "RENAMED", {"lr": "learning_rate"})
    for number, params in enumerate([{"lr": 0.1, "tensorboard": True}, {"learning_rate": 0.2}]):
        for task in ("vision", "gone"):
            write_run(tmp_path / f"renamed/{task}_{number}", {"task": task, **params})
    runs, problems = read_runs(tmp_path / "renamed")
    assert [run.params["learning_rate"] for run in runs] == [0.1, 0.2] * 2 and problems == []
    assert not any({"lr", "tensorboard"} & run.params.keys() for run in runs)


BROKEN = [
    (b'{"accuracy": 0.', "not valid JSON"),
    (b'{"accuracy": "0.95", "loss": null}', "accuracy: expected a number, found '0.95'"),  # null is how NaN is saved
    (b'{"accuracy": true}', "accuracy: expected a number, found True"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_a_broken_file_is_named_and_costs_its_own_values_only(tmp_path, capsys, content, message):
    folder = write_run(tmp_path / "run", {"seed": 1}, test={"accuracy": 0.5})
    (folder / "metrics_val_best_weights.json").write_bytes(content)
    run, problems = read_one(tmp_path)
    assert len(problems) == 1 and "metrics_val_best_weights.json" in problems[0] and message in problems[0]
    assert (run.status, run.val, run.test) == ("finished", {}, {"accuracy": 0.5})
    with pytest.raises(SystemExit) as stopped:
        synthesize(tmp_path)
    output = capsys.readouterr()
    assert stopped.value.code == 1 and output.err == f"skipped: {problems[0]}\n" and "| run" in output.out


@pytest.mark.parametrize("names", [("a", "z"), ("z", "a")])
def test_links_and_pipes_stop_nothing_and_each_run_is_read_once(tmp_path, names):
    for number in range(3):
        write_run(tmp_path / f"disk/run_{number}", {"seed": number})
    runs = tmp_path / "runs"
    (tmp_path / "disk/run_0/back").symlink_to(runs, target_is_directory=True)
    os.mkfifo(write_run(runs / "pipe") / "run.json")
    (write_run(runs / "dead") / "run.json").symlink_to(tmp_path / "nowhere")
    good = write_run(runs / "good", {"seed": 3}, {"accuracy": 0.5})
    for link, target in (("good/again", runs), ("latest", good), ("all", "/"), ("again", tmp_path / "disk")):
        (runs / link).symlink_to(target)
    (runs / names[0]).symlink_to(tmp_path / "disk")
    (runs / names[1]).symlink_to(tmp_path / "disk/run_1")  # hides no run beside it
    found, problems = read_runs(runs)
    assert sorted(run.params["seed"] for run in found if run.params) == [0, 1, 2, 3]
    assert [run.name for run in found if "/" not in run.name and run.name != names[1]] == ["dead", "good", "pipe"]
    assert sorted(line.split(": ")[0] for line in problems) == [f"{runs}/{name}/run.json" for name in ("dead", "pipe")]


def test_only_what_differs_in_the_seed_alone_is_one_group():
    def make(name, status="finished", **params):
        return Run(model_dir=name, name=name, params=params, val={"accuracy": 0.5}, status=status)

    runs = [make("a", lr=1, flag=True, layers=[1], only_here=3), make("b", lr=1.0, flag=1, layers=[1, 2])]
    assert hyperparameters_that_differ(runs) == ["flag", "layers"]
    runs = [make("a", lr=1, seed=1), make("b", lr=2, seed=1), make("c", lr=1, seed=2), make("d", lr=1, seed=2)]
    runs += [make("e", lr=1), make("f", "running", lr=1, seed=3), make("g", lr=True, seed=4)]
    runs += [make("h", lr=1, seed=5, restore_file="best")]
    groups = group_by_seed(runs, hyperparameters_that_differ([*runs, make("i", restore_file=None)]))
    assert [[run.name for run in group] for group in groups] == [["a", "c"], *([name] for name in "bdefgh")]


@pytest.mark.parametrize("num_masks", [2, 30])
def test_masks_in_the_predictions_do_not_swell_the_page(num_masks):
    masks = [str([[number] * 256] * 256) for number in range(num_masks + 1)]
    pairs = enumerate(zip(masks, masks[1:], strict=False))
    rows = [{"id": str(i), "label": label, "prediction": guess, "loss": "1.0"} for i, (label, guess) in pairs]
    detail = describe(rows, [{"class": "road", "iou": "0.5"}])
    assert detail["mistakes"] == num_masks and len(json.dumps(detail)) < 300_000
