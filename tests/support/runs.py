"""Short runs on the digits that ship with the project, and how two of them are compared."""

import json
from pathlib import Path

import torch

import train
import utils

PROJECT = Path(__file__).resolve().parents[2]
QUICK = {
    "image_size": 8, "image_channels": 1, "num_channels": 4, "dropout_rate": 0.3, "horizontal_flip": False, "shift": 1,
    "batch_size": 100, "num_epochs": 3, "learning_rate": 0.01, "data_dir": str(PROJECT / "data/digits"),
}  # fmt: skip


def write_run(folder, **params):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps({**QUICK, **params}))
    return folder


def run_train(folder, *words, **params):
    train.main(["--model_dir", str(write_run(folder, **params)), *words])
    return folder


def read_state(folder, name="last"):
    return utils.read_checkpoint(folder / f"{name}.pth.tar")


def assert_same_bits(first, second):
    """Compare nested dicts and lists of tensors and plain values, to the bit."""
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same_bits(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same_bits(one, other)
    else:
        assert first == second


def without_times(history):
    return [{k: v for k, v in row.items() if k not in ("seconds", "examples_per_second")} for row in history]
