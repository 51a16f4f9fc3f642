"""Stopping anywhere, by real signals and real kills, and continuing to the same bits."""

import functools
import itertools
import signal

import pytest
import torch

import evaluate
import train
import utils
from tests.support.processes import PATIENCE, log_of, start
from tests.support.runs import DIGITS, assert_same_end, finish, read_state, run_train, write_params

SMALL = {**DIGITS, "image_size": 8, "num_channels": 4}
BY_FILE = {**SMALL, "num_workers": 2, "cache": "none", "save_summary_steps": 5}


@pytest.mark.parametrize(
    ("number", "num_workers"), [(signal.SIGTERM, 2), pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow)]
)
def test_a_run_that_is_stopped_by_a_signal_and_then_killed_continues_to_the_same_bits(tmp_path, number, num_workers):
    folder = write_params(tmp_path / "run", **{**BY_FILE, "num_workers": num_workers})
    # to data loading processes too, as a batch system and Ctrl-C send it
    process = start(folder, at="- step 10/", action=f"os.killpg(0, {number:d})")
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 128 + number, output
    assert "the same command" in output and "Traceback" not in output
    record, state = utils.read_json(folder / "run.json"), read_state(folder)
    assert record["status"] == "interrupted" and (state["epoch"], state["step"]) == (0, 10)

    process = start(folder, "num_workers=0", at="- step 40/", action="os.kill(os.getpid(), signal.SIGKILL)")
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == -signal.SIGKILL, output
    finish(folder)
    assert "Continuing after epoch 0, step 10" in log_of(folder)
    assert_same_end(finish(write_params(tmp_path / "whole", **SMALL)), folder)


@pytest.mark.slow
def test_a_second_signal_quits_at_once(make_run):
    both = "signal.raise_signal(signal.SIGTERM), signal.raise_signal(signal.SIGTERM)"
    process = start(make_run(), at="Epoch 1/", action=both)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == -signal.SIGTERM, output  # by the signal itself: nothing was waited for


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
