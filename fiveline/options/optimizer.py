"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

import utils
from fiveline.jobs.sharded import spread

MOMENTS = {
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
    "RMSprop": {"step", "square_avg"},
}  # what torch keeps of each weight, momentum aside
FUSED_DEVICES = ("cpu", "cuda", "mps")
# one_cycle, as in torch.optim.lr_scheduler.OneCycleLR: starts at 1/25 of the rate, ends at 1/10000 of that
ONE_CYCLE_WARMUP, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25e4


def fetch_optimizer(model: nn.Module, params: utils.Params) -> torch.optim.Optimizer:
    """Return the optimizer that params.optimizer names, over the weights that are trained.

    Raises:
        InputError: nothing is left to train
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise utils.InputError("the net has no weights to train")
    settings: dict[str, Any] = {"lr": params.learning_rate, "weight_decay": params.weight_decay}
    fused = weights[0].device.type in FUSED_DEVICES
    optimizer: torch.optim.Optimizer
    if params.optimizer == "sgd":
        fused = fused and not hasattr(weights[0], "full_tensor")  # torch has none for weights that are spread
        optimizer = torch.optim.SGD(
            weights, momentum=params.momentum, nesterov=params.nesterov, fused=fused, **settings
        )
    elif params.optimizer == "rmsprop":
        optimizer = torch.optim.RMSprop(weights, momentum=params.momentum, **settings)
    elif params.optimizer == "adamw":
        optimizer = torch.optim.AdamW(weights, fused=fused, **settings)
    else:
        optimizer = torch.optim.Adam(weights, fused=fused, **settings)
    return optimizer


def load_moments(optimizer: torch.optim.Optimizer, state: Any, path: Path | str) -> None:
    """Load the state of an optimizer, and check it: torch notices only in the next step that it does not fit.

    Raises:
        InputError: the state is of other weights or another optimizer; names the checkpoint
    """
    with utils.fitting(path, "optim_dict"):
        optimizer.load_state_dict(spread(state, optimizer))
        _check_moments(optimizer)


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    needed = MOMENTS.get(type(optimizer).__name__, set())
    if optimizer.param_groups[0].get("momentum"):
        needed = {*needed, "momentum_buffer"}
    for weight, moments in optimizer.state.items():
        missing = needed - moments.keys()
        if not isinstance(weight, torch.Tensor) or missing:
            raise ValueError(
                f"the state of a weight lacks {', '.join(sorted(missing))}" if missing else "other weights"
            )
        for name, moment in moments.items():
            is_fitting = moment is None or (moment.is_floating_point() and moment.shape in (weight.shape, ()))
            if not is_fitting or (moment is None and name in needed):
                raise ValueError(f"{name} is of another shape or kind than the weight")


class Schedule:
    """The learning rate of each step: params.learning_rate times a factor that depends on the step's number alone.

    Only `plateau` looks at results: it lowers the rate after params.schedule_epochs epochs without a new best.
    Because the factor is computed and not accumulated, a run can be continued with another number of epochs.

    Args:
        optimizer: whose learning rate is set, from now on
        params: schedule, warmup_epochs, schedule_epochs, schedule_factor, learning_rate, num_epochs
        steps_per_epoch: optimizer steps in an epoch
    """

    def __init__(self, optimizer: torch.optim.Optimizer, params: utils.Params, steps_per_epoch: int) -> None:
        self.optimizer, self.params, self.steps_per_epoch = optimizer, params, steps_per_epoch
        self.num_steps = 0
        self.epochs_since_best = 0
        self.num_drops = 0
        self.is_constant = params.schedule == "constant" and not params.warmup_epochs
        self._set()

    def factor(self, step: int) -> float:
        """Return what the learning rate of a step (from 0) is multiplied by, drops of `plateau` aside."""
        params, total = self.params, self.params.num_epochs * self.steps_per_epoch
        if params.schedule == "one_cycle":
            rise = (
                ONE_CYCLE_WARMUP * total
                if params.warmup_epochs is None
                else params.warmup_epochs * self.steps_per_epoch
            )
            if step <= rise - 1:
                return _between(ONE_CYCLE_START, 1.0, step / (rise - 1) if rise > 1 else 1.0)
            return _between(1.0, ONE_CYCLE_END, (step - rise + 1) / (total - rise) if total > rise else 1.0)
        warmup = (params.warmup_epochs or 0) * self.steps_per_epoch
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if params.schedule == "cosine":
            return _between(1.0, 0.0, (step - warmup) / (total - warmup) if total > warmup else 1.0)
        if params.schedule == "step":
            return float(params.schedule_factor ** (step // (params.schedule_epochs * self.steps_per_epoch)))
        return 1.0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 over all epochs."""
        return self.params.learning_rate * self.factor(step) * float(self.params.schedule_factor**self.num_drops)

    def step(self) -> None:
        """Set the learning rate of the next step; called once after each optimizer step."""
        self.num_steps += 1
        if not self.is_constant:
            self._set()

    def end_epoch(self, is_best: bool) -> None:
        """Take note of an epoch's outcome; `plateau` may lower the rate."""
        self.epochs_since_best = 0 if is_best else self.epochs_since_best + 1
        if self.params.schedule == "plateau" and self.epochs_since_best >= self.params.schedule_epochs:
            self.num_drops += 1
            self.epochs_since_best = 0
            self._set()

    def _set(self) -> None:
        rate = self.rate(self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint needs."""
        return {name: getattr(self, name) for name in ("num_steps", "epochs_since_best", "num_drops")}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken."""
        self.num_steps, self.epochs_since_best, self.num_drops = (
            state[name] for name in ("num_steps", "epochs_since_best", "num_drops")
        )
        self._set()


def _between(start: float, end: float, share: float) -> float:
    """Go from start to end along half a cosine wave."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2
