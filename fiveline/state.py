"""The state of a run in memory, and the same as a checkpoint."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import utils
from fiveline import device as machine_device
from fiveline.jobs import processes
from fiveline.jobs.parallel import GlobalBatch, GlobalScaler
from fiveline.jobs.sharded import local_part, whole
from fiveline.metrics import Loss, Metrics, MetricSums
from fiveline.nets import fetch_metrics, fetch_sign
from fiveline.options.average import Average
from fiveline.options.divergence import DivergenceWatch
from fiveline.options.optimizer import Schedule, fetch_optimizer, load_moments

SMALLEST_SCALE = 1e-6  # of the loss, in fp16; it is halved each time that a gradient is not finite
BATCHES_TOGETHER = 64  # train metrics are asked for so many steps at once


@dataclasses.dataclass
class Training:
    """All that changes while a run trains, and what it needs for that.

    Args:
        model: on its device
        optimizer: over the model's weights
        schedule: of the optimizer's learning rate
        loss_fn: the loss to train on
        eval_loss_fn: the loss to report, the same for every setting of the training loss
        metrics: name -> fn(outputs, labels) -> (numerator, denominator)
        params: with facts
        sign: 1 if more of params.monitor is better, -1 if less is
        watch: looks at the gradients, and stops a run that diverges
        scaler: of the loss, in fp16; otherwise it does nothing
        average: of the weights, if params.ema_decay asks for one
        epoch: how many epochs are complete, validation included
        step: how many steps of the epoch after that are complete
        sums: the train metrics of those steps, as far as this process has computed them
        global_batch: makes each step one of all processes; None where there is one
        seconds: what earlier processes spent on them
        generators: the states of the global generators after them; None where the epoch has not begun
        best: the best value of params.monitor so far; None before the first
        best_loss: the val loss of the best epoch; None where an older checkpoint does not hold it
        best_epoch: the epoch, from 1, that is best so far
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loss_fn: Loss
    eval_loss_fn: Loss
    metrics: Metrics
    params: utils.Params
    sign: int
    watch: DivergenceWatch
    sums: MetricSums
    scaler: torch.amp.GradScaler
    average: Average | None
    global_batch: GlobalBatch | None = None
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    generators: dict[str, Any] | None = None
    _start: float = 0.0
    best: float | None = None
    best_loss: float | None = None
    best_epoch: int = 0

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return next(self.model.parameters()).device

    @property
    def evaluated_model(self) -> nn.Module:
        """The net that is evaluated, and whose weights are the run's result: the averaged one if there is one."""
        return self.model if self.average is None else self.average.averaged

    def begin_epoch(self) -> None:
        """Start the next epoch, or go on within one; `restore_generators` follows when the data iterator is made."""
        if self.step == 0:
            self.sums, self.seconds = MetricSums(self.metrics, BATCHES_TOGETHER), 0.0
        self.watch.set_position(self.epoch + 1, self.step)
        self._start = time.monotonic()

    def elapsed(self) -> float:
        """Return the seconds that went into the epoch so far, in all processes that worked on it."""
        return self.seconds + time.monotonic() - self._start

    def check_finite(self) -> None:
        """Stop rather than save weights that have diverged.

        Raises:
            DivergedError: a loss, a gradient or a weight is not finite
        """
        self.watch.check(self.sums.mean_loss() if self.step else 0.0)
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            self.watch.stop("gradients that are not finite at any scale", self.step)
        is_finite = all(bool(local_part(weight).isfinite().all()) for weight in self.model.parameters())
        if not all(processes.from_all(is_finite)):
            self.watch.stop("a weight that is not finite", self.step)

    def restore_generators(self) -> None:
        """Put the global generators where they were at this step of this epoch."""
        if self.generators is None:
            machine_device.seed_everything(self.params.seed, self.epoch + 1, processes.rank())
        else:
            machine_device.restore_generators(self.generators)
            self.generators = None

    def end_epoch(self, value: float, loss: float) -> bool:
        """Take note that an epoch is complete.

        Args:
            value: of params.monitor on val
            loss: on val, which decides between epochs of the same value

        Returns:
            whether it is the best epoch so far; one whose value is not a finite number never is
        """
        is_high_better = self.sign > 0
        new = utils.standing(value, loss, is_high_better)
        old = utils.standing(self.best, self.best_loss, is_high_better)
        is_best = new is not None and (old is None or new > old)
        self.epoch, self.step = self.epoch + 1, 0
        if is_best:
            self.best, self.best_loss, self.best_epoch = value, loss, self.epoch
        self.schedule.end_epoch(is_best)
        return is_best

    def stopped_early(self) -> bool:
        """Return whether there was no new best for params.early_stopping_epochs epochs."""
        return self.params.has_stopped_early(self.epoch, self.best_epoch)

    def is_finished(self) -> bool:
        """Return whether nothing is left to do."""
        return self.epoch >= self.params.num_epochs or self.stopped_early()

    def state_dict(self) -> dict[str, Any]:
        """Return the contents of a checkpoint: the seed's three keys, and what an exact continuation needs.

        All processes of a job take part in it; what the first one returns holds what the others add.
        """
        own = {
            "sums": self.sums.state_dict() if self.step else {},
            "generators": machine_device.generator_states() if self.step else None,
        }
        others: dict[str, Any] = {}
        if processes.world_size() > 1 and self.step:
            others = {"others": processes.from_all(machine_device.to_cpu(own))[1:]}
        return {
            "epoch": self.epoch,
            "step": self.step,
            "state_dict": whole(dict(self.evaluated_model.state_dict())),
            "optim_dict": whole(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),  # empty but in fp16
            "average": self.average.state_dict() if self.average is not None else {},
            "seconds": self.elapsed() if self.step else 0.0,
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "params": self.params.model_dump(mode="json"),
            "facts": self.params.facts,
            **own,
            **others,  # of the other processes, by rank, amid an epoch only
        }

    def load_state_dict(self, state: Mapping[str, Any], path: Any = "checkpoint") -> None:
        """Continue from a checkpoint of this run, all but its weights; an InputError names what does not fit.

        Within an epoch, the number of processes may be another one than before: the first then has the sums of all, and
        generators without a state begin the epoch again.
        """
        load_moments(self.optimizer, state["optim_dict"], path)
        self.schedule.load_state_dict(state["schedule"])
        with utils.fitting(path, "scaler or average"):
            if self.scaler.is_enabled() and state.get("scaler"):  # which older checkpoints do not have
                self.scaler.load_state_dict(state["scaler"])
            if self.average is not None:
                self.average.load_state_dict(state["average"], state["state_dict"])
        for name in ("epoch", "step", "seconds", "best", "best_epoch"):
            setattr(self, name, state[name])
        self.best_loss = state.get("best_loss")  # older checkpoints do not have it
        if not self.step:
            return
        rank, parts = processes.rank(), [state, *state.get("others", [])]
        with utils.fitting(path, "generators"):
            self.generators = parts[rank]["generators"] if rank < len(parts) else None
            machine_device.restore_generators(
                self.generators or machine_device.generator_states()
            )  # a trial; the step does it again
        parts = [parts[rank]] if len(parts) == processes.world_size() else parts if rank == 0 else []
        with utils.fitting(path, "sums"):
            for part in parts:
                self.sums.load_state_dict(part["sums"], self.device)
            copy.deepcopy(self.sums).result()  # raises whatever it would raise at the end of the epoch


def fetch_training(model: nn.Module, net: Any, params: utils.Params, steps_per_epoch: int) -> Training:
    """Return the state of a run that has not begun.

    Args:
        model: on its device, with the weights to start from
        net: the task's module, or anything with `loss_fn`, `metrics` and perhaps `train_loss_fn`
        params: with facts
        steps_per_epoch: optimizer steps in an epoch

    Raises:
        InputError: there is no metric of the name params.monitor, or batch norm would see single examples
    """
    smallest = min(params.batch_size // processes.world_size(), params.microbatch_size or params.batch_size)
    # in 2-d and 3-d, it has the places of one image to take the mean over
    if smallest < 2 and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        name = "microbatch_size" if params.microbatch_size == 1 else "batch_size"
        each = " for each process" if processes.world_size() > 1 else ""
        raise utils.InputError(
            f"{name} 1{each}: the net has batch norm, which cannot train on one example; take 2 or more"
        )
    optimizer = fetch_optimizer(model, params)
    global_batch = GlobalBatch(model, optimizer) if processes.world_size() > 1 else None
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    metrics = fetch_metrics(net, params)
    loss_fn = net.train_loss_fn(params) if hasattr(net, "train_loss_fn") else net.loss_fn
    scaling: dict[str, Any] = {"device": weights[0].device.type, "enabled": params.precision == "fp16"}
    scaler = torch.amp.GradScaler(**scaling)
    if global_batch is not None:
        loss_fn, scaler = global_batch.counted(loss_fn), GlobalScaler(global_batch, **scaling)
    return Training(
        model=model,
        optimizer=optimizer,
        schedule=Schedule(optimizer, params, steps_per_epoch),
        loss_fn=loss_fn,
        eval_loss_fn=net.loss_fn,
        metrics=metrics,
        params=params,
        sign=fetch_sign(net, params),
        watch=DivergenceWatch(optimizer, weights, params.clip_grad_norm),
        sums=MetricSums(metrics, BATCHES_TOGETHER),
        scaler=scaler,
        average=Average(model, optimizer, params.ema_decay) if params.ema_decay is not None else None,
        global_batch=global_batch,
    )
