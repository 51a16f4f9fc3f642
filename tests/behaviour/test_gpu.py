"""What a GPU asks of the loop: seen by shapes alone on torch's `meta` device, and for real where there is a GPU.

A tensor on `meta` has a shape and no numbers, so whatever would wait for a GPU to tell one is an error there.
"""

import csv
import logging
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train
import utils
from fiveline import device as runtime
from fiveline.jobs import processes
from fiveline.loader import fetch_dataloader, fetch_facts
from fiveline.metrics import MetricSums
from fiveline.options.set_up import set_up
from fiveline.record.start import Start
from fiveline.sanity.selftest import _compare
from fiveline.saving import Keeper
from fiveline.tasks import fetch_params
from model.vision.data_loader import ImageDataset

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
JITTERED = {"jitter": 0.3, "shift": 1, "horizontal_flip": True, "normalize": "train"}
SETTINGS = {
    "rows": {"task": "tabular", "data_dir": "data/digits_rows"},
    "a quantity": {"task": "tabular", "data_dir": "data/diabetes", "target": "progression", "target_type": "number"},
    "tokens": {"task": "ner", "data_dir": "data/ner_small"},
    "images": JITTERED,
    "images that are decoded": {**JITTERED, "cache": "none"},
    "classes of other weights": {"class_weights": "balanced", "label_smoothing": 0.1},
    "another optimizer": {"optimizer": "sgd", "nesterov": True, "clip_grad_norm": 1.0, "schedule": "one_cycle"},
    "tokens and averaged weights": {"task": "ner", "data_dir": "data/ner_small", "ema_decay": 0.9},
    "averaged weights": {"ema_decay": 0.9, "num_epochs": 3, "activation_checkpointing": True},
}
NEVER_KEPT = ("tokens", "tokens and averaged weights", "images that are decoded")


class BlockingCopies(TorchDispatchMode):
    """Notes where a tensor is copied from one device to another in such a way that both have to be ready for it."""

    def __init__(self):
        super().__init__()
        self.step, self.found = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        is_copy = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if is_copy and not kwargs.get("non_blocking"):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            if source.device != result.device:
                self.found.append((self.step, tuple(source.shape)))
        return result


@pytest.fixture
def make_any_run(make_run, tmp_path, project):
    """Return a function that writes the directory of a run: of a shipped dataset, or of the tests' tiny images."""

    def make(**values):
        if "task" not in values:
            return make_run(**values)
        model_dir = tmp_path / "run"
        model_dir.mkdir()
        here = {"data_dir": str(project / values["data_dir"])}
        utils.save_dict_to_json({**values, **here}, model_dir / "params.json")
        return model_dir

    return make


@pytest.fixture
def make_training(make_any_run, monkeypatch):
    """Return a function that sets up a run on a device: its directory, what trains, and the dataloader of train."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)  # a progress bar shows the loss

    def make(device, **values):
        model_dir = make_any_run(**values)
        run = utils.RunDirectory(model_dir)
        training, dataloaders = set_up(fetch_params(model_dir, []), run, Start(), torch.device(device))
        return run, training, dataloaders["train"]

    return make


def epoch_on(run, training, dataloader):
    """Train for one epoch."""
    train.enter_epoch(dataloader, training)
    return train.train(training, dataloader, Keeper(run, training, runtime.Signals()))


@pytest.mark.parametrize("room", [0, 2**30], ids=["sent", "kept"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_no_step_waits_for_the_device(make_training, monkeypatch, setting, room):
    monkeypatch.setattr(runtime, "room_for_data", lambda device: room)
    monkeypatch.setattr(MetricSums, "result", lambda self: self._add_waiting() or {"loss": 0.0})  # which waits, then
    run, training, dataloader = make_training("meta", **SETTINGS[setting])
    is_cut = SETTINGS[setting].get("task") == "tabular" or (room > 0 and setting not in NEVER_KEPT)
    assert bool(dataloader.dataset.numbers_an_example) == is_cut
    copies = BlockingCopies()
    training.optimizer.register_step_post_hook(lambda *_: setattr(copies, "step", copies.step + 1))
    with copies:
        epoch_on(run, training, dataloader)
    assert training.step == copies.step == len(dataloader) > 2
    of_steps = [found for found in copies.found if 0 < found[0] < len(dataloader)]
    assert not of_steps and len(copies.found) <= 4  # constants are moved with the first batch, and the first metrics


def test_what_waits_is_noticed(make_training, monkeypatch):
    run, training, dataloader = make_training("meta")
    monkeypatch.setattr(training, "loss_fn", lambda outputs, labels: outputs.sum() * float(outputs.detach().mean()))
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        epoch_on(run, training, dataloader)
    run, training, dataloader = make_training("meta", name="another")
    plain = training.loss_fn
    training.loss_fn = lambda outputs, labels: plain(outputs, labels) * torch.ones(2).to(outputs.device).mean()
    monkeypatch.setattr(MetricSums, "result", lambda self: {"loss": 0.0})
    with BlockingCopies() as copies:
        epoch_on(run, training, dataloader)
    assert copies.found == [(0, (2,))] * len(dataloader)


@pytest.mark.parametrize("setting", ["rows", "another optimizer", "averaged weights"])
def test_a_state_that_waits_on_the_cpu_is_the_same_to_the_type(make_training, setting):
    run, training, dataloader = make_training("cpu", **SETTINGS[setting])
    epoch_on(run, training, dataloader)
    state = training.state_dict()
    copy = runtime.to_cpu(state, copy=True)
    assert _compare("state", state, copy) == []
    with torch.no_grad():
        for weight in training.evaluated_model.parameters():
            weight.add_(1.0)
    assert len(_compare("state", training.state_dict(), copy)) >= len(list(training.evaluated_model.parameters()))


# ---- splits that a GPU keeps ---------------------------------------------------------------------------------------


def batches_of(dataloader, epoch, step=0):
    dataloader.batch_sampler.set_position(epoch, step)
    return list(dataloader)


@pytest.fixture
def kept_images(make_run, monkeypatch):
    """Return a function that makes two loaders of small images: as for a GPU that keeps them, and as for the CPU."""

    def make(split, **values):
        model_dir = make_run(**{"batch_size": 7, **JITTERED, **values})
        params = fetch_params(model_dir, [])
        data_dir = model_dir.parent / "data"
        params = fetch_facts(data_dir, params)
        monkeypatch.setattr(runtime, "room_for_data", lambda device: 2**30)
        here, move_to = torch.device("cpu"), ImageDataset.move_to
        monkeypatch.setattr(ImageDataset, "move_to", lambda self, device: move_to(self, here))
        kept = fetch_dataloader([split], data_dir, params, torch.device("meta"))[split]
        kept.device = here
        return kept, fetch_dataloader([split], data_dir, params)[split]

    return make


@pytest.mark.parametrize("numbers", [1, 1000, 2**24], ids=["a batch", "some", "the epoch"])
def test_images_that_a_gpu_keeps_are_cut_into_the_same_batches(kept_images, monkeypatch, caplog, numbers):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("fiveline.whole_batches.GPU_WINDOW_NUMBERS", numbers)
    kept, plain = kept_images("train")
    assert "train: kept on meta" in caplog.text
    for epoch in (1, 2):
        expected = batches_of(plain, epoch)
        for step in range(len(expected) + 1):
            batches = batches_of(kept, epoch, step)
            assert len(batches) == len(expected) - step
            for (inputs, labels), (others, other_labels) in zip(batches, expected[step:], strict=True):
                assert inputs.stride() == others.stride() and torch.equal(labels, other_labels)
                torch.testing.assert_close(inputs, others, rtol=0, atol=1e-6)  # a mean in another order


def test_what_is_scored_is_not_cut_and_a_job_takes_shares(kept_images, monkeypatch):
    kept, plain = kept_images("val", normalize="none")
    for (inputs, labels), (others, other_labels) in zip(batches_of(kept, 1), batches_of(plain, 1), strict=True):
        assert torch.equal(inputs, others) and torch.equal(labels, other_labels)
        assert inputs.untyped_storage().nbytes() == inputs.nbytes  # not a part of a window
    kept, plain = kept_images("train", name="another")
    whole = batches_of(plain, 2)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        shares.append(batches_of(kept, 2))
    for (inputs, labels), first, second in zip(whole, *shares, strict=True):
        torch.testing.assert_close(torch.cat([first[0], second[0]]), inputs, rtol=0, atol=1e-6)
        assert torch.equal(torch.cat([first[1], second[1]]), labels)


def test_a_split_that_is_large_or_not_in_memory_is_not_kept(kept_images, make_run, monkeypatch):
    assert kept_images("train", name="decoded", cache="none")[0].dataset.numbers_an_example == 0
    kept, _ = kept_images("train", name="small")
    assert kept.dataset.numbers_an_example == 8 * 8
    num_bytes = kept.dataset.dataset.nbytes
    monkeypatch.setattr(runtime, "room_for_data", lambda device: num_bytes - 1)
    assert not kept.dataset.move_to(torch.device("cpu"))
    assert num_bytes == 40 * 8 * 8


def test_a_cpu_keeps_nothing():
    assert runtime.room_for_data(torch.device("cpu")) == runtime.room_for_data(torch.device("meta")) == 0


# ---- on a GPU ------------------------------------------------------------------------------------------------------


@on_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_no_step_waits_for_a_gpu(make_training, setting, precision):
    run, training, dataloader = make_training("cuda", **SETTINGS[setting], precision=precision)
    num_steps = 0

    def watch(*_):
        nonlocal num_steps
        num_steps += 1
        if num_steps in (2, len(dataloader) - 1):  # constants are moved with the first batch
            torch.cuda.set_sync_debug_mode("error" if num_steps == 2 else "default")

    training.optimizer.register_step_post_hook(watch)
    try:
        epoch_on(run, training, dataloader)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert num_steps == len(dataloader) > 3


@on_gpu
@pytest.mark.slow
@pytest.mark.parametrize("setting", ["rows", "tokens", "images"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_a_gpu_continues_to_the_same_bits(make_any_run, run_script, setting, precision):
    values = {"num_epochs": 3, **SETTINGS[setting], "precision": precision, "deterministic": True}
    result = run_script("train.py", "--model_dir", make_any_run(**values), "--selftest_resume", timeout=900)
    assert result.returncode == 0, result.stderr
    assert "The same bits after" in result.stdout


@on_gpu
@pytest.mark.slow
@pytest.mark.parametrize("setting", ["rows", "tokens", "images"])
def test_a_checkpoint_of_a_gpu_is_scored_alike_on_a_cpu(make_any_run, run_script, setting):
    model_dir = make_any_run(**{"num_epochs": 1, **SETTINGS[setting]})
    assert run_script("train.py", "--model_dir", model_dir).returncode == 0
    metrics, predictions = [], []
    for flags in ([], ["--disable-cuda"]):
        assert run_script("evaluate.py", "--model_dir", model_dir, "--split", "val", *flags).returncode == 0
        metrics.append(utils.read_json(model_dir / "metrics_val_best.json"))
        rows = list(csv.DictReader((model_dir / "predictions_val_best.csv").open(encoding="utf-8")))
        predictions.append([(row["id"], row["prediction"]) for row in rows])
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-3)
    num_alike = sum(first == second for first, second in zip(*predictions, strict=True))
    assert num_alike >= 0.99 * len(predictions[0]) > 0  # of two that are as likely, rounding chooses
