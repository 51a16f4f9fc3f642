"""The state of a run in memory, and the same as a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

import utils
from evaluate import MetricSums
from training.optimizer import Schedule, fetch_optimizer


@dataclasses.dataclass
class Training:
    """All that changes while a run trains, and what it needs for that.

    Args:
        model: on its device
        optimizer: over the model's weights
        schedule: of the optimizer's learning rate
        loss_fn: the loss to train on
        metrics: name -> fn(outputs, labels) -> (numerator, denominator)
        params: with facts
        epoch: how many epochs are complete, validation included
        best: the best value of params.monitor so far; None before the first
        best_epoch: the epoch, from 1, that it is of
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loss_fn: Callable[[Any, torch.Tensor], torch.Tensor]
    metrics: Mapping[str, Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]]
    params: utils.Params
    epoch: int = 0
    best: float | None = None
    best_epoch: int = 0

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return next(self.model.parameters()).device

    def new_sums(self) -> MetricSums:
        """Return empty sums for the metrics of an epoch."""
        return MetricSums(self.metrics)

    def end_epoch(self, value: float, is_best: bool) -> None:
        """Take note that an epoch is complete, and of the value of params.monitor after it."""
        self.epoch += 1
        if is_best:
            self.best, self.best_epoch = value, self.epoch
        self.schedule.end_epoch(is_best)

    def stopped_early(self) -> bool:
        """Return whether there was no new best for params.early_stopping_epochs epochs."""
        return has_stopped_early(self.epoch, self.best_epoch, self.params)

    def is_finished(self) -> bool:
        """Return whether nothing is left to do."""
        return self.epoch >= self.params.num_epochs or self.stopped_early()

    def state_dict(self) -> dict[str, Any]:
        """Return the contents of a checkpoint: the seed's three keys, and what an exact continuation needs."""
        return {
            "epoch": self.epoch,
            "state_dict": self.model.state_dict(),
            "optim_dict": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "params": self.params.model_dump(mode="json"),
            "facts": self.params.facts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of this run, all but its weights: `utils.load_weights` loads those."""
        self.optimizer.load_state_dict(state["optim_dict"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.best, self.best_epoch = state["epoch"], state["best"], state["best_epoch"]


def has_stopped_early(epoch: int, best_epoch: int, params: utils.Params) -> bool:
    """Return whether a run that is `epoch` epochs old has waited long enough for a new best."""
    return params.early_stopping_epochs is not None and epoch - best_epoch >= params.early_stopping_epochs


def fetch_training(model: nn.Module, net: Any, params: utils.Params, steps_per_epoch: int) -> Training:
    """Return the state of a run that has not begun.

    Args:
        model: on its device, with the weights to start from
        net: the task's module: `loss_fn`, `metrics`, perhaps `train_loss_fn`
        params: with facts
        steps_per_epoch: optimizer steps in an epoch
    """
    optimizer = fetch_optimizer(model, params)
    loss_fn = net.train_loss_fn(params) if hasattr(net, "train_loss_fn") else net.loss_fn
    return Training(model, optimizer, Schedule(optimizer, params, steps_per_epoch), loss_fn, net.metrics, params)
