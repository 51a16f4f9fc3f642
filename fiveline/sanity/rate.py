"""The learning-rate range test: train with a rate that grows at each step; see where the loss falls and diverges."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

import train
import utils
from fiveline.sanity.context import Context, Finding

LOWEST, HIGHEST = 1e-6, 10.0
NUM_STEPS, NUM_EXAMPLES = 120, 2000
SMOOTHING = 0.9  # of the curve: what the mean so far weighs
FIRST = 10  # steps that are too small to change anything: what the loss is at the start
FALLEN = 0.95  # of the first loss
SHORT_STEPS = 40
SAFE, DECADE = 10, 10  # the advised range ends a tenth below the rate of the least loss, and covers a factor of ten
TOO_LOW = 1 / 1000  # of the rate of the least loss
MOST_SECONDS = 30.0
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24  # bars of the curve


def learning_rate(context: Context) -> Finding:
    """Is the learning rate one at which the loss falls?"""
    curve = context.once(range_test)
    rates, losses, mine = curve["rates"], curve["losses"], context.params.learning_rate
    least, (low, high) = curve["least"], advised_range(curve)
    told = f"{curve['optimizer']} from {rates[0]:.0e} to {rates[-1]:.0e}: {bars(losses)}"
    told += f"; steepest descent at {curve['steepest']:.1e}, minimum at {least:.1e}"
    told += f", diverges at {curve['burst']:.1e}" if curve["burst"] else ""
    advised = f"{low:.1e} to {high:.1e}"
    advice = f"start with a learning_rate in {advised}"
    if curve["burst"] is None and rates[-1] < min(mine, HIGHEST / 2):
        return Finding("WARN", f"out of time: {told}", "the steps are long here: try it on a smaller batch", curve)
    if min(losses) > FALLEN * losses[0]:
        return Finding(
            "FAIL", f"the loss falls at no rate: {told}", "see initial_loss, gradients, overfit_batch", curve
        )
    if mine > least and not _falls_at(context, mine):
        return Finding("FAIL", f"{mine:.1e} is too high, the loss does not fall: {told}", advice, curve)
    if mine > least:
        return Finding("WARN", f"{mine:.1e} is high: {told}", advice, curve)
    if mine < TOO_LOW * least:
        return Finding("WARN", f"{mine:.1e} is low, and training will be slow: {told}", advice, curve)
    if low <= mine <= high:
        return Finding("PASS", f"{mine:.1e} is in the advised range, {advised}: {told}", "keep it", curve)
    side = "above" if mine > high else "below"
    return Finding("PASS", f"{mine:.1e} is usable, but {side} the advised range: {told}", advice, curve)


def advised_range(curve: dict[str, Any]) -> tuple[float, float]:
    """Return the lowest and the highest learning rate that a whole run should start from.

    The minimum itself is too high: a rate that is good for the few steps of the test can ruin a longer run.

    Args:
        curve: from `range_test`

    Source: the rate at the minimum, divided by ten, is the suggestion of Howard and Gugger, fastai (2020).
    """
    return curve["least"] / (SAFE * DECADE), curve["least"] / SAFE


def range_test(context: Context) -> dict[str, Any]:
    """Train with a rate that grows from step to step, until the loss bursts.

    Returns:
        `rates` and the smoothed `losses`; `steepest`, the rate where it falls fastest; `least`, where it is least;
        `burst`, where it is worse than at the start by as much as it had fallen, and by a half, or None

    Raises:
        DivergedError: the first loss is not finite

    Source: Smith, Cyclical Learning Rates for Training Neural Networks (2017).
    """
    highest = max(HIGHEST, context.params.learning_rate * 10)
    rates = torch.logspace(math.log10(LOWEST), math.log10(highest), NUM_STEPS).tolist()
    size = max(context.few, min(context.params.batch_size, 64))
    training = context.fetch_training(learning_rate=LOWEST)
    indices = context.choose("train", NUM_EXAMPLES)
    losses: list[float] = []
    mean, burst = 0.0, None
    training.model.train()
    batches = context.train_batches(indices, size, NUM_STEPS)
    end = time.monotonic() + MOST_SECONDS
    for step, (rate, (inputs, labels)) in enumerate(zip(rates, batches, strict=True)):
        if time.monotonic() > end and step > FIRST:
            break
        for group in training.optimizer.param_groups:
            group["lr"] = rate
        try:
            loss = train.train_step(training.model, training.optimizer, training.loss_fn, inputs, labels)[1].item()
        except utils.DivergedError:  # a gradient that is not finite, where gradients are clipped
            loss = math.inf
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth = mean / (1 - SMOOTHING ** (step + 1))
        first = sum(losses[:FIRST]) / max(len(losses[:FIRST]), 1)
        fallen = first - min(losses, default=0.0)
        if not math.isfinite(smooth) or (step >= FIRST and smooth > first + max(fallen, 0.5 * abs(first))):
            burst = rate
            break
        losses.append(smooth)
    if not losses:
        raise utils.DivergedError(f"the loss of the first step is {loss}; see initial_loss, input_scale")
    return {"optimizer": context.params.optimizer, "burst": burst, **_read_off(rates[: len(losses)], losses)}


def _falls_at(context: Context, rate: float) -> bool:
    """Return whether the loss falls when a rate is kept for some steps."""
    training = context.fetch_training(learning_rate=rate)
    indices = context.choose("train", NUM_EXAMPLES)
    losses: list[float] = []
    training.model.train()
    for inputs, labels in context.train_batches(indices, context.few, SHORT_STEPS):
        try:
            step = train.train_step(training.model, training.optimizer, training.loss_fn, inputs, labels)
        except utils.DivergedError:
            return False
        losses.append(step[1].item())
    return sum(losses[-FIRST:]) / FIRST < FALLEN * losses[0]  # of NaN, this is false


def _read_off(rates: list[float], losses: list[float]) -> dict[str, Any]:
    least = min(range(len(losses)), key=lambda step: losses[step])
    falls = [losses[step - 2] - losses[step + 2] for step in range(2, least - 1)]
    steepest = 2 + max(range(len(falls)), key=lambda step: falls[step]) if falls else least
    return {"rates": rates, "losses": losses, "steepest": rates[steepest], "least": rates[least]}


def bars(losses: list[float]) -> str:
    """Return a curve as a row of bars."""
    chosen = [losses[place * (len(losses) - 1) // (WIDTH - 1)] for place in range(WIDTH)]
    low, high = min(chosen), max(chosen)
    return "".join(BARS[int((loss - low) / (high - low + 1e-12) * (len(BARS) - 1) + 0.5)] for loss in chosen)
