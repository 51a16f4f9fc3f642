"""Short runs in this process: written, trained, stopped at a known moment, and compared with each other."""

import contextlib
import json
import logging
import traceback

import numpy as np
import pytest
import torch

import train
import utils
from fiveline.tasks import DEFAULT_TASK
from tests.support.tasks import PROJECT, need

QUICK = {
    "image_size": 8, "image_channels": 1, "num_channels": 4, "dropout_rate": 0.3, "horizontal_flip": False, "shift": 1,
    "batch_size": 100, "num_epochs": 3, "learning_rate": 0.01, "data_dir": str(PROJECT / "data/digits"),
}  # fmt: skip
DIGITS = {
    "data_dir": str(PROJECT / "data/digits"), "image_size": 16, "image_channels": 1, "num_channels": 8,
    "dropout_rate": 0.5, "shift": 2, "jitter": 0.2, "schedule": "one_cycle", "batch_size": 16, "num_epochs": 2,
    "checkpoint_minutes": 0.005,
}  # fmt: skip
TINY = {
    "image_size": 8, "image_channels": 1, "num_channels": 4, "dropout_rate": 0.0, "horizontal_flip": False,
    "num_epochs": 2, "batch_size": 8, "learning_rate": 0.01,
}  # fmt: skip
EACH_STEP = {"checkpoint_minutes": 1e-6}  # else such short runs are saved at their end only


def write_params(folder, **params):
    """Write a run directory of these params alone."""
    need(params.get("task", DEFAULT_TASK))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def write_run(folder, **params):
    return write_params(folder, **{**QUICK, **params})


def write_tiny_run(folder, name="run", **params):
    """Write a run directory, and beside it `data`: images, whose class says which of three rows is bright."""
    data_dir = folder / "data"
    if not data_dir.exists():
        data_dir.mkdir()
        generator = np.random.default_rng(0)
        for split, number in {"train": 40, "val": 16, "test": 16}.items():
            labels = np.arange(number) % 3
            images = generator.integers(0, 60, size=(number, 8, 8), dtype=np.uint8)
            images[np.arange(number), 2 * labels + 1] += 150
            np.savez(data_dir / f"{split}.npz", images=images, labels=labels)
    return write_params(folder / name, **{**TINY, "data_dir": str(data_dir), **params})


def run_train(folder, *words, **params):
    train.main(["--model_dir", str(write_run(folder, **params)), *words])
    return folder


def finish(model_dir, *words):
    train.main(["--model_dir", str(model_dir), *words])
    return model_dir


def stopped(model_dir, *words, exit_code=1, main=train.main):
    """Return the message that a script stops with, after checking that it is short and plain."""
    with pytest.raises(BaseException) as caught:
        main(["--model_dir", str(model_dir), *map(str, words)])
    stop = caught.value if isinstance(caught.value, utils.InterruptedRun) else utils.explain(caught.value)
    assert stop is not None, repr(caught.value)
    traceback.clear_frames(caught.tb)  # they hold the data loading processes; a script's end lets go of them
    message = str(stop)
    assert stop.exit_code == exit_code, message
    assert len(message.splitlines()) <= 2 and len(message) < 600 and "Traceback" not in message
    return message


@contextlib.contextmanager
def at_log_line(text, action):
    """Do something, once, when a line that begins with some text is logged: a fault at a known moment."""

    def emit(record):
        if record.getMessage().startswith(text):
            logging.getLogger().removeHandler(trigger)
            action()

    trigger = logging.Handler()
    trigger.emit = emit
    logging.getLogger().addHandler(trigger)
    try:
        yield
        assert trigger not in logging.getLogger().handlers, f"{text!r} was never logged"
    finally:
        logging.getLogger().removeHandler(trigger)


def read_state(folder, name="last"):
    return utils.read_checkpoint(folder / f"{name}.pth.tar")


def assert_same_bits(first, second):
    """Compare nested dicts and lists of tensors and plain values, to the bit."""
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    elif isinstance(first, (dict, list, tuple)):
        assert len(first) == len(second)
        for key in first if isinstance(first, dict) else range(len(first)):
            assert_same_bits(first[key], second[key])
    else:
        assert first == second


def without_times(history):
    return [{k: v for k, v in row.items() if k not in ("seconds", "examples_per_second")} for row in history]


def assert_same_end(first, second):
    """Compare two finished runs, except for their times and what may differ between a run and its continuation."""
    for name in ("last", "best"):
        states = [read_state(folder, name) for folder in (first, second)]
        for state in states:
            state.pop("seconds")
            for setting in ("num_epochs", "num_workers", "save_summary_steps", "cache"):
                state["params"].pop(setting, None)
        assert_same_bits(*states)
    histories = [without_times(utils.read_lines(folder / "history.jsonl")) for folder in (first, second)]
    assert histories[0] == histories[1] and histories[0]
    assert {utils.read_json(folder / "run.json")["status"] for folder in (first, second)} == {"finished"}
    for name in ("metrics_val_best_weights.json", "metrics_val_last_weights.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
