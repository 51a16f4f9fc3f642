"""A job of one process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from fiveline.state import Step

ADAM = {"step", "exp_avg", "exp_avg_sq"}
MOMENTS = {"Adam": ADAM, "AdamW": ADAM, "RMSprop": {"step", "square_avg"}}  # that torch keeps for each weight


class OneProcess:
    """A job of one process; `fiveline.jobs.job.Job` does the same with several."""

    rank, world_size = 0, 1
    local_rank: int | None = None
    # with fsdp: gather the shards of a state for a checkpoint, and take this process's shards of a checkpoint's
    whole: Callable[[Mapping[str, Any]], dict[str, Any]] = staticmethod(lambda state: dict(state))
    shards_of: Callable[[torch.optim.Optimizer, Any], Any] = staticmethod(lambda optimizer, state: state)

    def add_up(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes."""
        return numbers

    def all_gather(self, entry: Any) -> list[Any]:
        """Return the objects of all processes, by rank."""
        return [entry]

    def broadcast(self, entry: Any) -> Any:
        """Return the first process's object."""
        return entry

    def agree(self, signal_number: int, is_due: bool) -> tuple[int, bool]:
        """Return which signal any process received, 0 for none, and whether the first process wants to save."""
        return signal_number, is_due

    def share_weights(self, net: nn.Module, fsdp: bool, device: torch.device) -> None:
        """Give every process the first one's weights, or with `fsdp` a shard of them."""
        if fsdp:
            logging.warning("- WARNING: fsdp has no effect in one process; torchrun starts more")

    def sum_gradients_before_steps(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer step with the gradients of all processes."""

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Return the scaler of fp16."""
        return torch.amp.GradScaler(device.type)

    def weighted_step(self, step: Step) -> Step:
        """Return the train step for this process's shard of each batch."""
        return step

    def weights_of(self, net: nn.Module) -> dict[str, Any]:
        """Return the whole weights of a net, for a checkpoint; in a job, all processes must call this."""
        return self.whole(net.state_dict())

    def moments_of(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the whole state of an optimizer, for a checkpoint; in a job, all processes must call this."""
        return self.whole(optimizer.state_dict())

    def load_moments(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Load the whole state of an optimizer. Its settings stay: hyperparameters and the device decide them."""
        settings = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({**self.shards_of(optimizer, state), "param_groups": settings})

    def check_moments(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise ValueError if a loaded state does not fit the weights; torch would notice only in the next step."""
        needed = MOMENTS.get(type(optimizer).__name__, set())
        if optimizer.param_groups[0].get("momentum"):
            needed = {*needed, "momentum_buffer"}
        for weight, moments in optimizer.state.items():
            found = {name: moment for name, moment in moments.items() if moment is not None}
            if not isinstance(weight, torch.Tensor) or needed - found.keys():
                raise ValueError(f"it has {', '.join(found)} where {type(optimizer).__name__} has {', '.join(needed)}")
            for name, moment in found.items():
                if not moment.is_floating_point() or moment.shape not in (weight.shape, ()):
                    raise ValueError(f"{name} has another shape or type than its weight")
