"""The learning rate of each step. It is computed from the step, not accumulated, so that a run can start anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import utils

# one_cycle, as in torch.optim.lr_scheduler.OneCycleLR: starts at 1/25 of learning_rate, ends at 1/10000 of the start
ONE_CYCLE_WARMUP, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25e4


class Schedule(NamedTuple):
    """A learning-rate schedule, for `State`."""

    steps_per_epoch: int
    rate: Callable[[int], float]  # step, counted from 0 over all epochs -> learning rate
    changes_each_step: bool  # False: only between epochs
    warmup: float  # steps of the rise at the start


def fetch_schedule(params: utils.Params, steps_per_epoch: int) -> Schedule:
    """Return the schedule that params.schedule names; `State` counts the drops of `plateau`."""
    total, is_one_cycle = params.num_epochs * steps_per_epoch, params.schedule == "one_cycle"
    warmup: float | None = params.warmup_steps
    if warmup is None and params.warmup_epochs is not None:
        warmup = params.warmup_epochs * steps_per_epoch
    if warmup is None:
        warmup = ONE_CYCLE_WARMUP * total if is_one_cycle else 0
    rise, fall = warmup, total - warmup  # numbers of steps

    def one_cycle(step: int) -> float:
        if step <= rise - 1:
            return _half_cosine(ONE_CYCLE_START, 1.0, step / (rise - 1) if rise > 1 else 1.0)
        return _half_cosine(1.0, ONE_CYCLE_END, (step - rise + 1) / fall if fall > 0 else 1.0)

    factors: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "plateau": lambda step: 1.0,
        "step": lambda step: float(params.schedule_factor ** (step // (params.schedule_epochs * steps_per_epoch))),
        "cosine": lambda step: _half_cosine(1.0, 0.0, (step - rise) / fall if fall > 0 else 1.0),
        "one_cycle": one_cycle,
    }
    factor, linear_rise = factors[params.schedule], 0 if is_one_cycle else rise
    return Schedule(
        steps_per_epoch,
        lambda step: params.learning_rate * ((step + 1) / (rise + 1) if step < linear_rise else factor(step)),
        changes_each_step=is_one_cycle or params.schedule == "cosine" or rise > 0,
        warmup=warmup,
    )


def _half_cosine(start: float, end: float, share: float) -> float:
    """Go from start to end along half a cosine wave."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2
