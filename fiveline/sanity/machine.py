"""Checks of time and memory: the phases of a step, the largest batch that fits, the duration of the run."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from fiveline.device import map_tensors, to_device
from fiveline.metrics import MetricSums
from fiveline.sanity import Finding
from fiveline.sanity.context import Context

PHASES = ("loading", "forward", "backward", "optimizer", "rest")
NUM_STEPS, WARM_UP = 20, 5
STARVED = 0.5  # share of loading above which the net waits for data
COPIES = {"adam": 4, "adamw": 4, "sgd": 3, "rmsprop": 4}  # of the weights: themselves, gradients, moments
SPARE = 0.8  # share of the free memory that may be used


class Clock:
    """Adds up the seconds of each phase of a step.

    Args:
        device: to wait for before the time is read
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.steps, self._last = device, list[dict[str, float]](), 0.0

    def begin(self) -> None:
        """Begin a step."""
        self.steps.append(dict.fromkeys(PHASES, 0.0))

    def note(self, phase: str) -> None:
        """Count the time since the last note to a phase."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        if self._last:
            self.steps[-1][phase] += now - self._last
        self._last = now


@functools.lru_cache(maxsize=1)
def time_steps(context: Context) -> dict[str, float]:
    """Train for a few steps with the run's own settings; return the median seconds of each phase, and `num_steps`."""
    loader, trainer = context.fetch_loader("train"), context.fetch_own_trainer(context.params)
    clock, sums = Clock(context.device), MetricSums(context.metrics)
    # between two forward passes (microbatches) there is a backward pass
    trainer.model.register_forward_pre_hook(lambda *_: clock.note("backward" if clock.steps[-1]["forward"] else "rest"))
    trainer.model.register_forward_hook(lambda *_: clock.note("forward"))
    trainer.state.optimizer.register_step_pre_hook(lambda *_: clock.note("backward"))
    trainer.state.optimizer.register_step_post_hook(lambda *_: clock.note("optimizer"))
    batches = iter(loader)
    clock.begin()
    clock.note("loading")
    for batch in itertools.islice(batches, NUM_STEPS):
        clock.note("loading")
        inputs, labels = to_device(batch, context.device)
        outputs, loss = trainer.step(inputs, labels)
        sums.add(outputs, labels, loss)
        clock.note("rest")
        clock.begin()
    steps = clock.steps[WARM_UP:-1] or clock.steps[:1]
    return {**{phase: statistics.median(step[phase] for step in steps) for phase in PHASES}, "num_steps": len(loader)}


def step_time(context: Context) -> Finding:
    """What is a step's time spent on?"""
    seconds = time_steps(context)
    phases = {phase: seconds[phase] for phase in PHASES}
    total, bottleneck = sum(phases.values()), max(phases, key=lambda phase: phases[phase])
    shares = ", ".join(f"{phase} {share / total:.0%}" for phase, share in phases.items())
    summary = f"{1000 * total:.3g} ms a step of {context.params.batch_size} examples: {shares}"
    summary += "; compiled, it will be less" if context.params.compile else ""
    values = {**phases, "bottleneck": bottleneck}
    if phases["loading"] > STARVED * total:
        advice = "num_workers=2 or more, data decoded once, or __getitems__ for whole batches"
        return Finding("WARN", f"the net waits for its data: {summary}", advice, values)
    return Finding("PASS", summary, values=values)


def duration(context: Context) -> Finding:
    """How long will the run take?"""
    seconds, params = time_steps(context), context.params
    few = context.batches("val", context.choose("val", 4 * params.batch_size), params.batch_size)
    model, start = context.fetch_own_trainer(params).model, time.perf_counter()
    context.evaluate(model, few)
    evaluating = (time.perf_counter() - start) * len(context.fetch_loader("val")) / len(few)
    epoch = seconds["num_steps"] * sum(seconds[phase] for phase in PHASES) + evaluating
    total = params.num_epochs * epoch
    summary = f"about {params.num_epochs} epochs of {_time(epoch)} ({_time(evaluating)} of it val): {_time(total)}"
    return Finding("PASS", summary, values={"seconds": total, "seconds_per_epoch": epoch})


def _time(seconds: float) -> str:
    if seconds > 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds > 90 else f"{seconds:.2g} s"


def memory(context: Context) -> Finding:
    """How much memory does a step take, and which batch is the largest that fits?"""
    params, model = context.params, context.fetch_own_trainer(context.params).model
    size = params.microbatch_size or params.batch_size
    few = (max(2, size // 4), max(4, size // 2))
    small, large = (bytes_of_step(context, model, number) for number in few)
    each = max((large - small) / (few[1] - few[0]), 1.0)
    weights = sum(weight.nbytes for weight in model.parameters()) * COPIES.get(params.optimizer, 4)
    fixed = weights + max(small - each * few[0], 0.0)
    needed, free = fixed + each * size, free_bytes(context.device)
    summary = f"a step of {size} examples takes about {_size(needed)}: weights, gradients and optimizer "
    summary += f"{_size(weights)}, {_size(each)} for each example"
    values = {"bytes": needed, "bytes_per_example": each, "bytes_of_weights": weights, "free_bytes": free}
    if free is None:
        return Finding("PASS", f"{summary}; how much is free is not known here", values=values)
    most = int((SPARE * free - fixed) // each)
    enough = "all of train" if most >= len(context.datasets["train"]) else f"about {max(most, 0):,}"
    summary += f"; {_size(free)} are free, enough for {enough} at once (estimated from {few[0]} and {few[1]})"
    values["largest_batch"] = most
    if needed > SPARE * free:
        advice = f"microbatch_size={max(1, most)} takes the same step in pieces; or activation_checkpointing=true"
        return Finding("FAIL" if needed > free else "WARN", summary, advice, values)
    return Finding("PASS", summary, values=values)


def bytes_of_step(context: Context, model: nn.Module, number: int) -> float:
    """Return the bytes of a batch and of all that is kept of it for the backward pass."""
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
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = context.loss_fn(model.train()(inputs), labels)
    total = float(sum(storages.values()))
    del loss  # only now: freed memory may be used again, at the same address
    return total


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device; None where it is not known."""
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
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8"))
        return min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # no container, or `max`
        return free


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GB" if number >= 2**30 else f"{number / 2**20:.3g} MB"
