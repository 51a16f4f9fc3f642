"""Stopping anywhere, by real signals and real kills, and continuing to the same bits."""

import functools
import itertools
import signal
import time

import pytest
import torch

import evaluate
import train
import utils
from tests.support.processes import log_of, start, wait_until
from tests.support.runs import (
    DIGITS,
    assert_same_bits,
    assert_same_run,
    read_state,
    run_train,
    without_times,
    write_params,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = write_params(tmp_path_factory.mktemp("whole") / "run", **DIGITS)
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
    settings = {**DIGITS, "num_workers": num_workers, "cache": "none", "save_summary_steps": 5}
    folder = write_params(tmp_path / "run", **settings)
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
    folder = write_params(tmp_path / "run", **DIGITS)
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
