"""Checks of the hyperparameters: does each one that was set reach any code? Does the loss fall at the learning rate?"""

from __future__ import annotations

import functools
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import utils
from fiveline.sanity import Finding
from fiveline.sanity.context import Context

PROJECT = Path(__file__).resolve().parents[2]
LOWEST, HIGHEST = 1e-6, 10.0
NUM_STEPS, NUM_EXAMPLES, SHORT_STEPS, LONG_STEPS = 120, 2000, 40, 300
SMOOTHING = 0.9  # weight of the mean so far in the curve
FIRST = 10  # steps too small to change anything: they show the loss at the start
FALLEN = 0.95  # a smaller share of the first loss counts as fallen
SAFE, DECADE = 10, 10  # the advised range ends at a tenth of the rate with the least loss, and spans a factor of ten
TOO_LOW = 1 / 1000  # times the rate with the least loss


def hyperparameters(context: Context) -> Finding:
    """Is each hyperparameter that was set read on the way to the first steps and the first evaluation?"""
    watched, names_read = recorded(context.run_params)
    context.dry_run(watched)
    params, fields = context.params, type(context.params).model_fields
    machine = utils.machine_settings(utils.Params)  # for example how often to save: two steps read none of them
    unread = sorted(params.model_fields_set - names_read - machine - {"task", "num_steps"})  # it sets num_epochs
    nowhere = [name for name in unread if not _is_in_code(name, params.task)]
    # a default does no harm: a file may name all hyperparameters
    idle = [name for name in unread if name not in nowhere and getattr(params, name) != fields[name].default]
    values = {"unread": unread}
    if nowhere:
        explanation = f"no line of model/{params.task} or of the engine reads {', '.join(nowhere)}"
        return Finding("FAIL", explanation, "use it in the code, or remove it from params.py and the file", values)
    if idle:
        words = ", ".join(f"{name}={getattr(params, name)}" for name in idle)
        advice = "another hyperparameter switches it off: change that one, or leave this one out"
        return Finding("WARN", f"set, but without effect beside the others: {words}", advice, values)
    if warnings := params.warnings():
        return Finding("WARN", "; ".join(warnings), "change one of the two, or leave this one out", values)
    return Finding("PASS", f"all {len(params.model_fields_set)} that are set are read", values=values)


def _is_in_code(name: str, task: str) -> bool:
    """Return whether the scripts, the engine or the task read an attribute of this name, such as `params.x`."""
    paths = [path for pattern in ("*.py", "fiveline/**/*.py", f"model/{task}/*.py") for path in PROJECT.glob(pattern)]
    codes = (path.read_text(encoding="utf-8") for path in paths if path.name != "params.py")  # it only declares them
    return any(re.search(rf"\.{name}\b", code) for code in codes)


def recorded(params: utils.Params) -> tuple[utils.Params, set[str]]:
    """Return a copy, and the set of the names that are read from it or its copies; `model_dump` does not count."""
    names, cls = set[str](), type(params)
    fields = frozenset(cls.model_fields)

    class Recorded(cls):  # type: ignore[valid-type, misc]
        def __getattribute__(self, name: str) -> Any:
            if name in fields:
                names.add(name)
            return super().__getattribute__(name)

    copy = params.model_copy()
    object.__setattr__(copy, "__class__", Recorded)
    return copy, names


def learning_rate(context: Context) -> Finding:
    """Is the learning rate one at which the loss falls?"""
    curve, mine = range_test(context), context.params.learning_rate
    losses, least, (low, high) = curve["losses"], curve["least"], advised_range(curve)
    summary = f"{curve['optimizer']}: steepest descent at {curve['steepest']:.1e}, minimum at {least:.1e}"
    summary += f", diverges at {curve['burst']:.1e}" if curve["burst"] else ""
    advice = f"start with a learning_rate in {low:.1e} to {high:.1e}"
    if min(losses) > FALLEN * statistics.mean(losses[:FIRST]):
        if _falls_at(context, mine, LONG_STEPS):
            explanation = f"the loss falls at {mine:.1e} within {LONG_STEPS} steps; too slowly for the range test"
            return Finding("PASS", f"{explanation}: {summary}", values=curve)
        advice = "see initial_loss, gradients, overfit_batch"
        return Finding("FAIL", f"the loss falls at no rate: {summary}", advice, curve)
    if mine > least:
        status, verdict = ("WARN", "high") if _falls_at(context, mine) else ("FAIL", "too high, the loss does not fall")
        return Finding(status, f"{mine:.1e} is {verdict}: {summary}", advice, curve)
    if mine < TOO_LOW * least:
        return Finding("WARN", f"{mine:.1e} is low, and training will be slow: {summary}", advice, curve)
    verdict = "in" if low <= mine <= high else f"usable, but {'above' if mine > high else 'below'}"
    explanation = f"{mine:.1e} is {verdict} the advised range, {low:.1e} to {high:.1e}: {summary}"
    return Finding("PASS", explanation, values=curve)


def advised_range(curve: dict[str, Any]) -> tuple[float, float]:
    """Return the lowest and the highest learning rate that a whole run should start from.

    Source: Howard and Gugger, fastai (2020) divide the rate at the minimum by ten: it would ruin a longer run.
    """
    return curve["least"] / (SAFE * DECADE), curve["least"] / SAFE


@functools.lru_cache(maxsize=1)
def range_test(context: Context) -> dict[str, Any]:
    """Train with a rate that grows from step to step, until the loss diverges.

    Returns:
        `rates` and the smoothed `losses`; `steepest`, the rate where it falls fastest; `least`, where it is least;
        `burst`, where it exceeds the first loss by as much as it had fallen, and by half of it, or None

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
