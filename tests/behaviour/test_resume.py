"""Stopping anywhere, by real signals and real kills, and continuing to the same bits."""

import functools
import itertools
import os
import signal
import time

import pytest
import torch

import evaluate
import train
import utils
from tests.support.processes import log_of, start, wait_until
from tests.support.runs import DIGITS, assert_same_end, finish, read_state, run_train, write_params

SMALL = {**DIGITS, "image_size": 8, "num_channels": 4}
BY_FILE = {**SMALL, "num_workers": 2, "cache": "none", "save_summary_steps": 5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return finish(write_params(tmp_path_factory.mktemp("whole") / "run", **SMALL))


@pytest.mark.parametrize(
    ("number", "num_workers"), [(signal.SIGTERM, 2), pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow)]
)
def test_a_run_that_is_stopped_by_a_signal_and_then_killed_continues_to_the_same_bits(
    tmp_path, whole, number, num_workers
):
    folder = write_params(tmp_path / "run", **{**BY_FILE, "num_workers": num_workers})
    process = start(folder)
    wait_until(lambda: "- step 10/" in log_of(folder), process)
    os.killpg(process.pid, number)  # to data loading processes too, as a batch system and Ctrl-C send it
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + number, output
    assert "the same command" in output and "Traceback" not in output
    record, state = utils.read_json(folder / "run.json"), read_state(folder)
    assert record["status"] == "interrupted" and (state["epoch"], state["step"] > 0) == (0, True)

    process = start(folder, "num_workers=0")
    wait_until(lambda: f"- step {state['step'] // 5 * 5 + 30}/" in log_of(folder), process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    finish(folder)
    assert f"Continuing after epoch 0, step {state['step']}" in log_of(folder)
    assert_same_end(whole, folder)


@pytest.mark.slow
def test_a_second_signal_quits_at_once(tmp_path):
    # one step an epoch, and it takes seconds
    settings = {**DIGITS, "image_size": 64, "num_channels": 16, "batch_size": 1258, "num_epochs": 50}
    folder = write_params(tmp_path / "run", **settings)
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

    def drawn(calls, stop_at, *args):
        drawn = torch.rand(()).item()  # as a dataset may
        if next(calls) == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return {"drawn": drawn, **evaluate.evaluate(*args)}

    monkeypatch.setattr(train, "evaluate", functools.partial(drawn, itertools.count(1), None))
    whole = run_train(tmp_path / "whole", **settings)
    monkeypatch.setattr(train, "evaluate", functools.partial(drawn, itertools.count(1), 2))
    with pytest.raises(utils.InterruptedRun, match="in epoch 2, step 4"):  # of 4: the steps are not done again
        run_train(tmp_path / "run", **settings)
    assert utils.read_json(tmp_path / "run/run.json")["status"] == "interrupted"
    assert_same_end(whole, run_train(tmp_path / "run", **settings))
