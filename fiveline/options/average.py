"""An exponential moving average of the weights, which often does better on val than the weights themselves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

SLOW_START = 9  # n / (9 + n) after n steps: TensorFlow's (1 + n) / (10 + n), whose n is counted from 0


class Average:
    """A second net, which follows the first net's weights and running statistics after each optimizer step.

    A step keeps the share `decay` of the average; less in the first steps, so that the random weights fade soon.
    (torch's AveragedModel does the same, but waits for the device in each step.)
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, decay: float) -> None:
        self.model, self.decay = model, decay
        self.averaged = copy.deepcopy(model).requires_grad_(False)
        self.num_steps = 0
        for module in self.averaged.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()  # cuDNN wants weights in one piece, and a copy's are not
        ours, theirs = ([*net.parameters(), *net.buffers()] for net in (self.averaged, model))
        pairs = [(a.detach(), b.detach()) for a, b in zip(ours, theirs, strict=True)]
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]  # how many batches batch norm saw
        optimizer.register_step_post_hook(self._update)

    @torch.no_grad()
    def _update(self, *_: object) -> None:
        self.num_steps += 1
        decay = min(self.decay, self.num_steps / (self.num_steps + SLOW_START))
        get_ema_multi_avg_fn(decay)([a for a, _ in self._floats], [b for _, b in self._floats], self.num_steps)
        for averaged, trained in self._others:
            averaged.copy_(trained)

    def state_dict(self) -> dict[str, Any]:
        """Return the entry of a checkpoint, whose `state_dict` are the averaged weights."""
        return {"num_steps": self.num_steps, "trained_weights": dict(self.model.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any], averaged_weights: Mapping[str, Any]) -> None:
        """Continue from the entry that `state_dict` returned."""
        self.num_steps = int(state["num_steps"])
        self.averaged.load_state_dict(averaged_weights)
        self.model.load_state_dict(state["trained_weights"])
