"""The state of a run: everything that changes during training. A checkpoint holds the same."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import utils
from fiveline.device import generator_states, moved, restore_generators, seed_everything
from fiveline.loader import batches_from, started
from fiveline.metrics import Metrics, MetricSums

Step = Callable[..., tuple[Any, torch.Tensor]]  # such as train.train_step
COUNTERS = ("epoch", "step", "best", "best_loss", "best_epoch")
PLATEAU = ("epochs_since_best", "num_drops")
SMALLEST_SCALE = 1e-6  # fp16 halves the loss scale when a gradient is not finite; below this, the run has diverged


@dataclasses.dataclass
class State:
    """A run in memory. Its position is (epoch, step); learning rate and data order are functions of it."""

    model: nn.Module  # on its device
    optimizer: torch.optim.Optimizer
    params: utils.Params  # with facts
    schedule: Any  # the learning rate's, from fiveline.options.schedule.fetch_schedule
    monitor_sign: int  # 1 if a higher params.monitor is better, -1 if a lower one is
    metrics: Metrics
    job: Any  # the processes that train together: fiveline.jobs.one.OneProcess(), or torchrun's
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)  # "scaler" (fp16), "average" (EMA), if switched on
    epoch: int = 0  # complete epochs, validation included
    step: int = 0  # complete steps in the next epoch
    seconds: float = 0.0  # spent on the unfinished epoch before the run was continued
    best: float | None = None  # the best value of params.monitor so far
    best_loss: float | None = None  # the val loss of the best epoch; if `best` is equal, the lower loss wins
    best_epoch: int = 0  # counted from 1; 0 before the first
    epochs_since_best: int = 0  # epochs since the best one, or since `plateau` last dropped the learning rate
    num_drops: int = 0  # how often `plateau` has lowered the learning rate
    generators: dict[str, Any] | None = None  # the states of the global generators after `step`

    def __post_init__(self) -> None:
        self.new_sums = functools.partial(MetricSums, self.metrics, self.job.add_up)
        self.sums = self.new_sums()
        self.device, self.steps_per_epoch = next(self.model.parameters()).device, self.schedule.steps_per_epoch
        self._start = time.monotonic()

    @property
    def net_to_evaluate(self) -> nn.Module:
        """The net that is evaluated and saved as the run's result: the averaged one if there is one."""
        return self.extras["average"].averaged if "average" in self.extras else self.model

    def start_epoch(self, dataloader: DataLoader[Any]) -> Iterator[Any]:
        """Return the batches of the next epoch, or of the rest of it, on the device."""
        batches, self.step = batches_from(dataloader, self.epoch + 1, self.step)
        if self.step == 0:
            self.sums, self.seconds, self.generators = self.new_sums(), 0.0, None
        # after the iterator is made, because making it may draw random numbers
        if self.generators is None:
            seed_everything(self.params.seed, self.epoch + 1, self.job.rank)
        else:
            restore_generators(self.generators)
        self.set_learning_rate()
        self._start = time.monotonic()
        batches = moved(batches, self.device)
        return map(self._with_learning_rate, batches) if self.schedule.changes_each_step else batches

    def _with_learning_rate(self, batch: Any) -> Any:
        self.set_learning_rate()
        return batch

    def start_validation(self, dataloader: DataLoader[Any]) -> Iterator[Any]:
        """Return the validation batches. The generators are seeded first, so each validation draws the same numbers."""
        batches = started(dataloader)
        seed_everything(self.params.seed, rank=self.job.rank)
        return batches

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step of the unfinished epoch, counted from 0."""
        rate: float = self.schedule.rate(self.epoch * self.steps_per_epoch + step)
        return rate * self.params.schedule_factor**self.num_drops

    def set_learning_rate(self) -> float:
        """Set and return the learning rate of the next step; params.learning_rate_factors may scale it for a group."""
        rate = self.learning_rate(min(self.step, self.steps_per_epoch - 1))  # after the last step: its rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        return rate

    def elapsed(self) -> float:
        """Return the seconds spent on the epoch so far, including those before a stop."""
        return self.seconds + time.monotonic() - self._start

    def end_epoch(self, value: float, loss: float) -> bool:
        """Count an epoch, with its `value` of params.monitor and its loss on val; return whether it is the best so far.

        Of equal values, the lower loss is better.
        """
        key = functools.partial(utils.ranking_key, is_high_better=self.monitor_sign > 0)
        is_best = key(value, loss) > key(self.best, self.best_loss)
        self.epoch, self.step = self.epoch + 1, 0
        if is_best:
            self.best, self.best_loss, self.best_epoch = value, loss, self.epoch
        self.epochs_since_best = 0 if is_best else self.epochs_since_best + 1
        if self.params.schedule == "plateau" and self.epochs_since_best >= self.params.schedule_epochs:
            self.num_drops, self.epochs_since_best = self.num_drops + 1, 0
        return is_best

    def is_finished(self) -> bool:
        """Return whether there is nothing left to train."""
        return self.epoch >= self.params.num_epochs or utils.has_stopped_early(self.params, self.epoch, self.best_epoch)

    def check_loss(self, loss: float) -> None:
        """Raise DivergedError if a loss, the mean over many steps, is not finite."""
        if not math.isfinite(loss):
            self.raise_diverged(f"a loss of {loss}")

    def check_weights(self) -> None:
        """Raise DivergedError if a loss or a weight is not finite, or fp16's gradients are not finite at any scale."""
        if self.step:
            self.check_loss(self.sums.mean_loss())
        scaler = self.extras.get("scaler")
        if scaler is not None and scaler.get_scale() < SMALLEST_SCALE:
            self.raise_diverged("gradients that are not finite at any scale")
        weights = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in self.model.parameters()]
        if not all(self.job.all_gather(all(bool(weight.isfinite().all()) for weight in weights))):
            self.raise_diverged("a weight that is not finite")

    def raise_diverged(self, reason: str, step: int | None = None) -> None:
        """Raise DivergedError. `reason` names what is not finite; `step` counts within the epoch, if it is known."""
        where = f"step {self.step} or before" if step is None else f"step {step}"
        raise utils.DivergedError(
            f"diverged: {reason} in epoch {self.epoch + 1}, {where}, at learning rate "
            f"{self.learning_rate(max(self.step - 1, 0)):g}; earlier checkpoints are kept. Try a smaller "
            "learning_rate, or set warmup_epochs or clip_grad_norm, with --restart; detect_anomaly=true names the "
            "operation that gave NaN. (If all labels of a batch are -100, its loss is also NaN)"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the contents of a checkpoint; in a job, all processes must call this."""
        generators = self.job.all_gather(generator_states() if self.step else None)
        average = self.extras.get("average")
        return {
            **{name: getattr(self, name) for name in COUNTERS},
            "state_dict": self.job.weights_of(self.net_to_evaluate),
            "optim_dict": self.job.moments_of(self.optimizer),
            "schedule": {name: getattr(self, name) for name in PLATEAU},
            "scaler": self.extras["scaler"].state_dict() if "scaler" in self.extras else {},
            "average": average.state_dict() if average is not None else {},
            "seconds": self.elapsed() if self.step else 0.0,
            "batches": "balanced",  # older checkpoints lack this key; they cannot be continued: their batches differ
            "params": self.params.model_dump(mode="json"),
            "facts": self.params.facts,
            "sums": self.sums.state_dict() if self.step else {},
            "generators": generators[0],
            "others": [{"generators": states} for states in generators[1:]] if self.step else [],
        }

    def load_state_dict(self, state: Mapping[str, Any], path: Any = "checkpoint") -> None:
        """Continue from a checkpoint of this run, whose weights are loaded already.

        If an unfinished epoch continues with more processes, the new ones are seeded as at the epoch's start.
        """
        with utils.blaming_checkpoint(path, "optim_dict"):
            self.job.load_moments(self.optimizer, state["optim_dict"])
            self.job.check_moments(self.optimizer)
        with utils.blaming_checkpoint(path, "scaler or average"):
            if "scaler" in self.extras and state["scaler"]:
                self.extras["scaler"].load_state_dict(state["scaler"])
            if "average" in self.extras:
                self.extras["average"].load_state_dict(state["average"], state["state_dict"])
        for name in (*COUNTERS, "seconds"):
            setattr(self, name, state[name])
        for name in PLATEAU:
            setattr(self, name, state["schedule"][name])
        if not self.step:
            return
        with utils.blaming_checkpoint(path, "generators"):
            saved = [state["generators"], *(other["generators"] for other in state["others"])]
            self.generators = saved[self.job.rank] if self.job.rank < len(saved) else None
            restore_generators(self.generators or generator_states())  # fails here, before start_epoch restores them
        with utils.blaming_checkpoint(path, "sums"):
            self.sums.load_state_dict(state["sums"], self.device, is_first=self.job.rank == 0)
            self.sums.result()  # an error that would stop the end of the epoch is raised now
