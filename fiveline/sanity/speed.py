"""Checks of time and memory: what a step is spent on, the largest batch that fits, how long the run will take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import evaluate
import train
from fiveline.device import map_tensors
from fiveline.loader import fetch_dataloader
from fiveline.sanity.context import Context, FewSteps, Finding
from fiveline.state import Training, fetch_training

PHASES = ("loading", "forward", "backward", "optimizer", "rest")
NUM_STEPS, WARM_UP, MOST_SECONDS = 30, 5, 8.0
STARVED = 0.5  # share of loading, beyond which the net waits for data
COPIES = {"adam": 4, "adamw": 4, "sgd": 3, "rmsprop": 4}  # of the weights: themselves, gradients, what is remembered
SPARE = 0.8  # share of the free memory that is promised
MEGABYTE = 2**20


class Clock(FewSteps):
    """Stands in the place of train.py's keeper, and notes what each step is spent on.

    Args:
        training: whose net and optimizer to watch
        num_steps: after which the epoch is over, or sooner, after MOST_SECONDS
    """

    def __init__(self, training: Training, num_steps: int) -> None:
        super().__init__(num_steps, MOST_SECONDS)
        self.device, self.steps = training.device, list[dict[str, float]]()
        self._last = 0.0
        model, optimizer = training.model, training.optimizer
        model.register_forward_pre_hook(lambda *_: self._note("rest" if self._is_fresh() else "backward"))
        model.register_forward_hook(lambda *_: self._note("forward"))
        optimizer.register_step_pre_hook(lambda *_: self._note("backward"))
        optimizer.register_step_post_hook(lambda *_: self._note("optimizer"))

    def watched(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield batches, timing each fetch and what is done between two."""
        self._now()
        for batch in super().watched(batches):
            self.steps.append(dict.fromkeys(PHASES, 0.0))
            self._note("loading")
            yield batch
            self._note("rest")

    def _is_fresh(self) -> bool:
        return self.steps[-1]["forward"] == 0.0

    def _note(self, phase: str) -> None:
        last = self._last
        self.steps[-1][phase] += self._now() - last

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        self._last = time.perf_counter()
        return self._last

    def seconds(self) -> dict[str, float]:
        """Return the median seconds of each phase, the first steps aside."""
        steps = self.steps[WARM_UP:] or self.steps[-1:]
        return {phase: statistics.median(step[phase] for step in steps) for phase in PHASES}


def time_steps(context: Context) -> dict[str, float]:
    """Train for a few steps as train.py does, with the run's own settings, and return the seconds of each phase."""
    training, loader = _as_configured(context)
    clock = Clock(training, NUM_STEPS)
    training.begin_epoch()
    train.train(training, loader, clock)  # type: ignore[arg-type]
    return {**clock.seconds(), "num_steps": len(loader)}


def _as_configured(context: Context) -> tuple[Training, Any]:
    loader = fetch_dataloader(["train"], context.data_dir, context.params, context.device)["train"]
    return fetch_training(context.fetch_model(context.params), context.net, context.params, len(loader)), loader


def step_time(context: Context) -> Finding:
    """What is a step spent on?"""
    seconds = context.once(time_steps)
    phases = {phase: seconds[phase] for phase in PHASES}
    total = sum(phases.values())
    told = ", ".join(f"{phase} {share / total:.0%}" for phase, share in phases.items())
    bottleneck = max(phases, key=lambda phase: phases[phase])
    told = f"{1000 * total:.3g} ms a step of {context.params.batch_size} examples: {told}"
    told += "; compiled, it will be less" if context.params.compile else ""
    advice = {
        "loading": "num_workers=2 or more, data decoded once, or __getitems__ for whole batches",
        "forward": "precision=bf16 or compile=true, a smaller net, or a GPU",
        "backward": "precision=bf16 or compile=true, a smaller net, or a GPU",
        "optimizer": "a larger batch_size has fewer steps",
        "rest": "the metrics and the loop: a larger batch_size has fewer steps",
    }[bottleneck]
    status = "WARN" if phases["loading"] > STARVED * total else "PASS"
    return Finding(status, told, f"the bottleneck is {bottleneck}: {advice}", {**phases, "bottleneck": bottleneck})


def duration(context: Context) -> Finding:
    """How long will the run take?"""
    seconds, params = context.once(time_steps), context.params
    epoch = seconds["num_steps"] * sum(seconds[phase] for phase in PHASES)
    loader = fetch_dataloader(["val"], context.data_dir, params, context.device)["val"]
    few = context.batches("val", context.choose("val", 4 * params.batch_size), params.batch_size)
    model = context.fetch_model(params)
    start = time.perf_counter()
    evaluate.evaluate(model, context.net.loss_fn, few, context.metrics)
    evaluating = (time.perf_counter() - start) * len(loader) / len(few)
    total = params.num_epochs * (epoch + evaluating)
    told = f"{params.num_epochs} epochs of {_told(epoch + evaluating)} ({_told(evaluating)} of it val): {_told(total)}"
    values = {"seconds": total, "seconds_per_epoch": epoch + evaluating}
    return Finding(
        "PASS", f"about {told}", "num_epochs, batch_size and the size of the net decide; see step_time", values
    )


def _told(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} hours"
        if seconds > 3600
        else f"{seconds / 60:.1f} minutes"
        if seconds > 90
        else f"{seconds:.2g} s"
    )


def memory(context: Context) -> Finding:
    """How much memory does a step take, and which batch is the largest that fits?"""
    params = context.params
    model = context.fetch_model(params)
    size = params.microbatch_size or params.batch_size
    few = [max(2, size // 4), max(4, size // 2)]
    small, large = (_bytes_of_step(context, model, number) for number in few)
    each = max((large - small) / (few[1] - few[0]), 1.0)
    fixed = max(small - each * few[0], 0.0)
    weights = sum(weight.nbytes for weight in model.parameters()) * COPIES.get(params.optimizer, 4)
    needed, free = weights + fixed + each * size, free_bytes(context.device)
    told = f"a step of {size} examples takes about {_size(needed)}: weights, gradients and optimizer {_size(weights)}, "
    told += f"{_size(each)} for each example"
    values = {"bytes": needed, "bytes_per_example": each, "bytes_of_weights": weights, "free_bytes": free}
    if free is None:
        return Finding("PASS", f"{told}; how much is free is not known here", "watch it in the first epoch", values)
    most = int((SPARE * free - weights - fixed) // each)
    enough = "all of train" if most >= len(context.plain["train"]) else f"about {max(most, 0):,}"
    told += f"; {_size(free)} are free, which would do for {enough} at once (estimated from {few[0]} and {few[1]})"
    values["largest_batch"] = most
    if needed > SPARE * free:
        advice = f"microbatch_size={max(1, most)} takes the same step in pieces; or activation_checkpointing=true"
        return Finding("FAIL" if needed > free else "WARN", told, advice, values)
    return Finding("PASS", told, "a larger batch is not always better: it has fewer steps", values)


def _bytes_of_step(context: Context, model: nn.Module, number: int) -> float:
    """Return what a batch and all that is kept of it for the backward pass take."""
    indices = context.choose("train", number)
    indices = (indices * (number // len(indices) + 1))[:number]
    inputs, labels = next(iter(context.batches("train", indices, number)))
    storages: dict[int, int] = {}
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    map_tensors(keep, [inputs, labels])
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = context.net.loss_fn(model(inputs), labels)
    total = float(sum(storages.values()))
    del loss  # not before: what is freed may be given out again, at the same address
    return total


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that can be had on a device; None where it is not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None  # not Linux
    try:  # a container may have less
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8"))
        return min(free, int(limit) - used) if limit != "max" else free
    except (OSError, ValueError):
        return free


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GB" if number >= 2**30 else f"{number / MEGABYTE:.3g} MB"
