"""The learning-rate range test: train with a rate that grows at each step; see where the loss falls and diverges."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterator
from typing import Any

import torch

import utils
from fiveline.sanity import Finding
from fiveline.sanity.context import Context

LOWEST, HIGHEST = 1e-6, 10.0
NUM_STEPS, NUM_EXAMPLES, SHORT_STEPS, LONG_STEPS = 120, 2000, 40, 300
SMOOTHING = 0.9  # weight of the mean so far in the curve
FIRST = 10  # steps too small to change anything: they show the loss at the start
FALLEN = 0.95  # of the first loss
SAFE, DECADE = 10, 10  # the advised range ends at a tenth of the rate with the least loss, and spans a factor of ten
TOO_LOW = 1 / 1000  # of the rate with the least loss
BARS, WIDTH = "▁▂▃▄▅▆▇█", 24  # the curve, and how many bars it has


def learning_rate(context: Context) -> Finding:
    """Is the learning rate one at which the loss falls?"""
    curve, mine = range_test(context), context.params.learning_rate
    rates, losses, least, (low, high) = curve["rates"], curve["losses"], curve["least"], advised_range(curve)
    summary = f"{curve['optimizer']} from {rates[0]:.0e} to {rates[-1]:.0e}: {bars(losses)}"
    summary += f"; steepest descent at {curve['steepest']:.1e}, minimum at {least:.1e}"
    summary += f", diverges at {curve['burst']:.1e}" if curve["burst"] else ""
    advised = f"{low:.1e} to {high:.1e}"
    advice = f"start with a learning_rate in {advised}"
    if min(losses) > FALLEN * statistics.mean(losses[:FIRST]):
        if _falls_at(context, mine, LONG_STEPS):
            explanation = f"the loss falls at {mine:.1e} within {LONG_STEPS} steps; too slowly for the range test"
            return Finding("PASS", f"{explanation}: {summary}", values=curve)
        advice = "see initial_loss, gradients, overfit_batch"
        return Finding("FAIL", f"the loss falls at no rate: {summary}", advice, curve)
    if mine > least and not _falls_at(context, mine):
        return Finding("FAIL", f"{mine:.1e} is too high, the loss does not fall: {summary}", advice, curve)
    if mine > least:
        return Finding("WARN", f"{mine:.1e} is high: {summary}", advice, curve)
    if mine < TOO_LOW * least:
        return Finding("WARN", f"{mine:.1e} is low, and training will be slow: {summary}", advice, curve)
    verdict = "in" if low <= mine <= high else f"usable, but {'above' if mine > high else 'below'}"
    return Finding("PASS", f"{mine:.1e} is {verdict} the advised range, {advised}: {summary}", values=curve)


def advised_range(curve: dict[str, Any]) -> tuple[float, float]:
    """Return the lowest and the highest learning rate that a whole run should start from.

    The minimum itself is too high: a rate that is good for the few steps of the test can ruin a longer run.

    Source: the rate at the minimum, divided by ten, is the suggestion of Howard and Gugger, fastai (2020).
    """
    return curve["least"] / (SAFE * DECADE), curve["least"] / SAFE


@functools.lru_cache(maxsize=1)
def range_test(context: Context) -> dict[str, Any]:
    """Train with a rate that grows from step to step, until the loss diverges.

    Returns:
        `rates` and the smoothed `losses`; `steepest`, the rate where it falls fastest; `least`, where it is least;
        `burst`, where it exceeds the first loss by as much as it had fallen, and by half of it, or None

    Raises:
        DivergedError: the first loss is not finite

    Source: Smith, Cyclical Learning Rates for Training Neural Networks (2017).
    """
    highest = max(HIGHEST, context.params.learning_rate * 10)
    rates = torch.logspace(math.log10(LOWEST), math.log10(highest), NUM_STEPS).tolist()
    size = max(context.small_batch_size, min(context.params.batch_size, 64))
    losses: list[float] = []
    mean, burst = 0.0, None
    for step, loss in enumerate(_losses_at(context, rates, size)):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth = mean / (1 - SMOOTHING ** (step + 1))
        first = statistics.mean(losses[:FIRST] or [smooth])
        fallen = first - min(losses, default=0.0)
        if not math.isfinite(smooth) or (step >= FIRST and smooth > first + max(fallen, 0.5 * abs(first))):
            burst = rates[step]
            break
        losses.append(smooth)
    if not losses:
        raise utils.DivergedError(f"the loss of the first step is {loss}; see initial_loss, input_scale")
    least = min(range(len(losses)), key=lambda step: losses[step])
    falls = [losses[step - 2] - losses[step + 2] for step in range(2, least - 1)]
    steepest = 2 + max(range(len(falls)), key=lambda step: falls[step]) if falls else least
    found = {"rates": rates[: len(losses)], "losses": losses, "steepest": rates[steepest], "least": rates[least]}
    return {"optimizer": context.params.optimizer, "burst": burst, **found}


def _losses_at(context: Context, rates: list[float], batch_size: int) -> Iterator[float]:
    """Train with one rate after the other, and yield the loss of each step."""
    trainer = context.fetch_trainer(learning_rate=rates[0])
    batches = context.train_batches(context.choose("train", NUM_EXAMPLES), batch_size, len(rates))
    for rate, (inputs, labels) in zip(rates, batches, strict=True):
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        try:
            yield trainer.step(inputs, labels)[1].item()
        except utils.DivergedError:  # a gradient that is not finite, where gradients are clipped
            yield math.inf


def _falls_at(context: Context, rate: float, num_steps: int = SHORT_STEPS) -> bool:
    """Return whether the loss falls when a rate is kept for some steps."""
    losses = list(_losses_at(context, [rate] * num_steps, context.small_batch_size))
    return statistics.mean(losses[-FIRST:]) < FALLEN * losses[0]  # for NaN, this is false


def bars(losses: list[float]) -> str:
    """Return a curve as a row of bars."""
    chosen = [losses[place * (len(losses) - 1) // (WIDTH - 1)] for place in range(WIDTH)]
    low, high = min(chosen), max(chosen)
    return "".join(BARS[int((loss - low) / (high - low + 1e-12) * (len(BARS) - 1) + 0.5)] for loss in chosen)
