"""Optimizers by name, and clipping."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import utils

FUSED_DEVICES = ("cpu", "cuda", "mps")


def fetch_optimizer(model: nn.Module, params: utils.Params) -> torch.optim.Optimizer:
    """Return the optimizer that params.optimizer names, over the weights that are trained."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if not named:
        raise utils.InputError("the net has no weights to train")
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    hidden = [id(weight) for _, weight in named if weight.dim() == 2 and id(weight) not in tables]
    is_muon, (_, first) = params.optimizer == "muon", named[0]
    groups = parameter_groups(named, params, hidden[:-1] if is_muon else ())  # the last matrix makes outputs
    settings: dict[str, Any] = {"lr": params.learning_rate, "weight_decay": params.weight_decay}
    fused = first.device.type in FUSED_DEVICES
    if is_muon:
        return MuonWithAdamW(groups, fused=fused, **settings)
    if params.optimizer == "sgd":
        fused = fused and not hasattr(first, "full_tensor")  # torch has no fused SGD for sharded weights
        return torch.optim.SGD(groups, momentum=params.momentum, nesterov=params.nesterov, fused=fused, **settings)
    if params.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, momentum=params.momentum, **settings)
    adam = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return adam(groups, fused=fused, betas=(0.9, params.beta2), **settings)


def parameter_groups(
    named: Sequence[tuple[str, nn.Parameter]], params: utils.Params, hidden: Collection[int] = ()
) -> list[dict[str, Any]]:
    """Return torch's parameter groups: weights of one learning-rate factor and one weight decay in each.

    The weights whose ids are in `hidden`, which muon trains, get groups of their own.
    """
    factors = params.learning_rate_factors or {}  # start of a name, up to a dot -> factor; the longest start decides
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    used = set()
    for name, weight in named:
        starts = [start for start in factors if f"{name}.".startswith(f"{start}.")]
        used.update(starts)
        factor = factors[max(starts, key=len)] if starts else 1.0
        key = factor, params.decay_all or weight.dim() > 1, id(weight) in hidden
        groups.setdefault(key, []).append(weight)
    if unknown := sorted(set(factors) - used):
        known = ", ".join(dict.fromkeys(name.partition(".")[0] for name, _ in named))
        raise utils.InputError(
            f"learning_rate_factors: no weight's name starts with {unknown[0]!r}; the net's weights start with: {known}"
        )
    in_order = sorted(groups.items(), key=lambda item: item[0][0] != 1.0)  # factor 1 first
    return [
        {"params": weights, "factor": factor}
        | ({} if decays else {"weight_decay": 0.0})
        | ({"is_hidden": True} if is_hidden else {})
        for (factor, decays, is_hidden), weights in in_order
    ]


class MuonWithAdamW(torch.optim.Optimizer):
    """torch.optim.Muon for the matrices of hidden layers (on CPUs in float32), AdamW for the other weights.

    Muon's learning rate is adjusted to move a matrix about as far as AdamW would, so one learning rate serves both.
    """

    def __init__(self, groups: list[dict[str, Any]], fused: bool, **settings: Any) -> None:
        super().__init__(groups, settings)
        self.parts: dict[bool, torch.optim.Optimizer] = {}  # is_hidden -> optimizer, whose groups are the same objects
        if hidden := [group for group in self.param_groups if group.get("is_hidden")]:
            self.parts[True] = torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw", **settings)
        if others := [group for group in self.param_groups if not group.get("is_hidden")]:
            self.parts[False] = torch.optim.AdamW(others, fused=fused, **settings)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step with both, on the groups and the state that hooks, schedules and checkpoints know."""
        for is_hidden, part in self.parts.items():
            part.param_groups = [group for group in self.param_groups if group.get("is_hidden", False) == is_hidden]
            part.state = self.state
            with InFloat32() if part.param_groups[0]["params"][0].device.type == "cpu" else contextlib.nullcontext():
                part.step(closure)


class InFloat32(TorchFunctionMode):
    """Leave out Muon's cast to bfloat16, which most CPUs compute many times more slowly than float32."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if function is torch.Tensor.bfloat16 else function(*args, **(kwargs or {}))


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Scale the gradients down before each step of an optimizer, so that their norm, all together, is at most this."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def clip(*_: object) -> None:
        torch.nn.utils.clip_grad_norm_(weights, max_norm)

    optimizer.register_step_pre_hook(clip)
