"""Optimizers by name, and clipping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

import utils

FUSED_DEVICES = ("cpu", "cuda", "mps")


def fetch_optimizer(model: nn.Module, params: utils.Params) -> torch.optim.Optimizer:
    """Return the optimizer that params.optimizer names, over the weights that are trained."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if not named:
        raise utils.InputError("the net has no weights to train")
    weights, (_, first) = parameter_groups(named, params.learning_rate_factors or {}), named[0]
    settings: dict[str, Any] = {"lr": params.learning_rate, "weight_decay": params.weight_decay}
    fused = first.device.type in FUSED_DEVICES
    if params.optimizer == "sgd":
        fused = fused and not hasattr(first, "full_tensor")  # torch has no fused SGD for sharded weights
        return torch.optim.SGD(weights, momentum=params.momentum, nesterov=params.nesterov, fused=fused, **settings)
    if params.optimizer == "rmsprop":
        return torch.optim.RMSprop(weights, momentum=params.momentum, **settings)
    adam = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return adam(weights, fused=fused, **settings)


def parameter_groups(named: Sequence[tuple[str, nn.Parameter]], factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return torch's parameter groups: the weights of one learning-rate factor in each.

    Args:
        named: names and weights
        factors: start of a weight's name, up to a dot -> factor; the longest start decides
    """
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    used = set()
    for name, weight in named:
        starts = [start for start in factors if f"{name}.".startswith(f"{start}.")]
        used.update(starts)
        groups.setdefault(factors[max(starts, key=len)] if starts else 1.0, []).append(weight)
    if unknown := sorted(set(factors) - used):
        known = ", ".join(dict.fromkeys(name.partition(".")[0] for name, _ in named))
        raise utils.InputError(
            f"learning_rate_factors: no weight's name starts with {unknown[0]!r}; the net's weights start with: {known}"
        )
    return [{"params": weights, "factor": factor} for factor, weights in groups.items() if weights]


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Scale the gradients down before each step of an optimizer, so that their norm, all together, is at most this."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def clip(*_: object) -> None:
        torch.nn.utils.clip_grad_norm_(weights, max_norm)

    optimizer.register_step_pre_hook(clip)
