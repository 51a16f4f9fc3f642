"""What a GPU asks of the loop: seen by shapes alone on torch's `meta` device, and for real where there is a GPU.

A tensor on `meta` has a shape and no numbers, so whatever would wait for a GPU to tell one is an error there.
"""

import functools
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train
import utils
from fiveline.jobs.one import OneProcess
from fiveline.metrics import MetricSums
from fiveline.options.set_up import fetch_step, set_up
from fiveline.record.script import Signals
from fiveline.record.start import Start
from fiveline.saving import Saver
from fiveline.tasks import fetch_params
from tests.support.data import read_csv
from tests.support.runs import write_params
from tests.support.tasks import PROJECT

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
JITTERED = {"jitter": 0.3, "shift": 1, "horizontal_flip": True, "normalize": "train"}
SETTINGS = {
    "rows": {"task": "tabular", "data_dir": str(PROJECT / "data/digits_rows"), "batch_size": 256},
    "tokens": {"task": "ner", "data_dir": str(PROJECT / "data/ner_small"), "batch_size": 120, "ema_decay": 0.9},
    "images": {**JITTERED, "optimizer": "sgd", "nesterov": True, "clip_grad_norm": 1.0, "schedule": "one_cycle"},
    "images that are decoded": {**JITTERED, "cache": "none", "class_weights": "balanced", "label_smoothing": 0.1},
    "averaged weights": {"ema_decay": 0.9, "num_epochs": 3, "activation_checkpointing": True},
}  # fmt: skip


class BlockingCopies(TorchDispatchMode):
    """Notes the step and the shape of each copy from one device to another for which both have to be ready."""

    step, found = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            if source.device != result.device and not (kwargs or {}).get("non_blocking"):
                self.found = [*self.found, (self.step, tuple(source.shape))]
        return result


@pytest.fixture
def make_any_run(make_run, tmp_path):
    """Return a function that writes the directory of a run: of a shipped dataset, or of the tests' tiny images."""
    return lambda **values: write_params(tmp_path / "run", **values) if "task" in values else make_run(**values)


@pytest.fixture
def make_epoch(make_any_run, monkeypatch):
    """Return a function that sets up a run on a device, and returns its state, its number of steps, and its epoch."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)  # a progress bar shows the loss

    def make(device, **values):
        run = utils.RunDirectory(make_any_run(**values))
        state, dataloaders, task = set_up(fetch_params(run.path), run, Start(), torch.device(device), OneProcess())
        step, saver = fetch_step(state, train.train_step, train.train_step_in_pieces), Saver(run, state, Signals())
        epoch = functools.partial(train.train, state, dataloaders["train"], task.train_loss_fn, saver, step)
        return state, len(dataloaders["train"]), epoch

    return make


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_step_waits_for_the_device(make_epoch, monkeypatch, setting):
    monkeypatch.setattr(MetricSums, "result", lambda self: {"loss": 0.0})  # which waits, at the end of the epoch
    state, num_steps, epoch = make_epoch("meta", **SETTINGS[setting])
    copies = BlockingCopies()
    state.optimizer.register_step_post_hook(lambda *_: setattr(copies, "step", copies.step + 1))
    with copies:
        epoch()
    assert state.step == copies.step == num_steps > 2
    of_steps = [found for found in copies.found if 1 < found[0] < num_steps]
    assert not of_steps and len(copies.found) <= 4  # constants are moved with the first batch, and the first metrics


@on_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_no_step_waits_for_a_gpu(make_epoch, setting, precision):
    state, num_steps, epoch = make_epoch("cuda", **SETTINGS[setting], precision=precision)
    # constants are moved with the first batch; what follows the last step waits
    modes = ["default", *["error"] * (num_steps - 3), *["default"] * 2]
    state.optimizer.register_step_post_hook(lambda *_: torch.cuda.set_sync_debug_mode(modes.pop(0)))
    try:
        epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not modes and num_steps > 3


@on_gpu
@pytest.mark.slow
@pytest.mark.parametrize("setting", ["rows", "tokens", "images"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_a_gpu_continues_to_the_same_bits_and_is_scored_alike_on_a_cpu(
    make_any_run, run_script, setting, precision
):
    values = {"num_epochs": 3, **SETTINGS[setting], "precision": precision, "deterministic": True}
    model_dir = make_any_run(**values)
    result = run_script("sanity_check.py", "--model_dir", model_dir, "--selftest_resume")
    assert result.returncode == 0 and "The same bits after" in result.stdout, result.stderr
    assert run_script("train.py", "--model_dir", model_dir, "num_epochs=1", "precision=fp32").returncode == 0
    metrics, predictions = [], []
    for flags in ([], ["--disable_cuda"]):
        assert run_script("evaluate.py", "--model_dir", model_dir, "--split", "val", *flags).returncode == 0
        metrics.append(utils.read_json(model_dir / "metrics_val_best.json"))
        rows = read_csv(model_dir / "predictions_val_best.csv")
        predictions.append([(row["id"], row["prediction"]) for row in rows])
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-3)
    num_alike = sum(first == second for first, second in zip(*predictions, strict=True))
    assert num_alike >= 0.99 * len(predictions[0]) > 0  # of two that are as likely, rounding chooses
