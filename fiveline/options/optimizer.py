"""Optimizers by name, and clipping."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import utils

FUSED_DEVICES = ("cpu", "cuda", "mps")


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


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Scale the gradients down before each step of an optimizer, so that their norm, all together, is at most this."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def clip(*_: object) -> None:
        torch.nn.utils.clip_grad_norm_(weights, max_norm)

    optimizer.register_step_pre_hook(clip)
