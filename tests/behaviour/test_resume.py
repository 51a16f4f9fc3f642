"""Stopping anywhere, by real signals and real kills, and continuing to the same bits."""

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import evaluate
import train
import utils
from tests.support.runs import assert_same_bits, read_state, run_train, without_times

PROJECT = Path(__file__).resolve().parents[2]
TASKS = {
    "vision": {
        "data_dir": str(PROJECT / "data/digits"), "image_size": 16, "image_channels": 1, "num_channels": 8,
        "dropout_rate": 0.5, "shift": 2, "jitter": 0.2, "schedule": "one_cycle", "batch_size": 16, "num_epochs": 2,
        "checkpoint_minutes": 0.005,
    },
}  # fmt: skip


def write_run(folder, **params):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def start(folder, *words):
    command = [sys.executable, "train.py", "--model_dir", str(folder), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_until(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def log_of(folder):
    return (folder / "train.log").read_text() if (folder / "train.log").exists() else ""


def assert_same_run(first, second):
    for name in ("last", "best"):
        states = [read_state(folder, name) for folder in (first, second)]
        for state in states:
            state.pop("seconds")
            for machine in ("num_workers", "save_summary_steps"):
                state["params"].pop(machine)
        assert_same_bits(*states)
    histories = [without_times(utils.read_lines(folder / "history.jsonl")) for folder in (first, second)]
    assert histories[0] == histories[1] and histories[0]
    for name in ("metrics_val_best_weights.json", "metrics_val_last_weights.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("whole") / "run", **TASKS["vision"])
    process = start(folder)
    assert process.wait() == 0, process.communicate()[0]
    return folder


@pytest.mark.parametrize(
    ("number", "num_workers"),
    [
        (signal.SIGTERM, 2),
        pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
    ],
)
def test_a_signal_within_an_epoch_saves_and_the_same_command_continues_to_the_same_bits(
    tmp_path, whole, number, num_workers
):
    settings = {**TASKS["vision"], "num_workers": num_workers, "cache": "none", "save_summary_steps": 5}
    folder = write_run(tmp_path / "run", **settings)
    process = start(folder)
    wait_until(lambda: "- step 10/" in log_of(folder), process)
    process.send_signal(number)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + number, output
    assert "the same command" in output and "Traceback" not in output
    record, state = utils.read_json(folder / "run.json"), read_state(folder)
    assert record["status"] == "interrupted" and (state["epoch"], state["step"] > 0) == (0, True)

    process = start(folder)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert f"Continuing after epoch 0, step {state['step']}" in output
    for name in ("last", "best"):  # what differs by design: how the images are read
        assert read_state(folder, name)["params"].pop("cache") == "none"
    first = {**read_state(whole)["state_dict"]}
    assert_same_bits(first, read_state(folder)["state_dict"])
    assert_same_bits(read_state(whole)["optim_dict"], read_state(folder)["optim_dict"])
    histories = [without_times(utils.read_lines(path / "history.jsonl")) for path in (whole, folder)]
    assert histories[0] == histories[1]


def test_sigkill_at_several_moments_continues_to_the_same_bits(tmp_path, whole):
    folder = write_run(tmp_path / "run", **TASKS["vision"])
    kills = 0
    for delay in (0.15, 0.4):
        process = start(folder)
        before = log_of(folder).count("Epoch ")
        wait_until(lambda before=before: log_of(folder).count("Epoch ") > before, process)
        time.sleep(delay)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert kills >= 1
    process = start(folder)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert_same_run(whole, folder)


def test_a_second_signal_quits_at_once(tmp_path):
    # one step an epoch, and it takes seconds
    settings = {**TASKS["vision"], "image_size": 64, "num_channels": 16, "batch_size": 1258, "num_epochs": 50}
    folder = write_run(tmp_path / "run", **settings)
    process = start(folder)
    wait_until(lambda: "Epoch 1/" in log_of(folder), process)
    time.sleep(0.7)  # into the step
    for _ in range(200):  # Python hears of a signal between two operations: of several within one, only once
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        if process.poll() is not None:
            break
    assert process.wait(timeout=20) == -signal.SIGTERM  # by the signal itself: nothing was waited for
    process.stdout.close()


def test_a_run_that_was_stopped_in_validation_records_the_same_history(tmp_path, monkeypatch):
    settings = {"batch_size": 400, "num_epochs": 3, "schedule": "one_cycle"}
    calls = itertools.count(1)

    def drawn(stop_at, *args):
        drawn = torch.rand(()).item()  # as a dataset may
        if next(calls) == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return {"drawn": drawn, **evaluate.evaluate(*args)}

    monkeypatch.setattr(train, "evaluate", functools.partial(drawn, None))
    whole = run_train(tmp_path / "whole", **settings)
    calls = itertools.count(1)
    monkeypatch.setattr(train, "evaluate", functools.partial(drawn, 2))
    with pytest.raises(utils.InterruptedRun, match="in epoch 2, step 4"):
        run_train(tmp_path / "run", **settings)
    run_train(tmp_path / "run", **settings)
    assert_same_run(whole, tmp_path / "run")
