"""Models larger than a card, `fsdp: true`: each process keeps a part of every weight, of its gradient and its moments.

Checkpoints are whole all the same: every other script, and any number of processes, reads them. What torch has for
this is imported where it is needed, because that takes its time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import utils
from fiveline.device import map_tensors
from fiveline.jobs import processes
from fiveline.options.forward import find_blocks


def distribute(model: nn.Module, params: utils.Params, device: torch.device) -> None:
    """Give all processes of the job the first one's weights, or a part of them each if params.fsdp asks for it.

    Args:
        model: on the CPU
        params: fsdp
        device: where to compute
    """
    processes.send_state(model)
    if params.fsdp and processes.world_size() > 1:
        _shard(model, device)
    elif params.fsdp:
        logging.warning("- WARNING: fsdp has no effect in one process; torchrun starts more")


def _shard(model: nn.Module, device: torch.device) -> None:
    """Spread a model's weights over the processes; they come together block by block while it computes.

    Args:
        model: on the CPU, with the same weights in all processes
        device: where to compute
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    for weight in model.parameters():  # not in the order that is fastest for convolutions: FSDP cannot cut it
        weight.data = weight.data.contiguous()
    mesh = init_device_mesh(device.type, (processes.world_size(),))
    for block in find_blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # once outside of inference mode, which its first use may be in
            module.unshard()
            module.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Return whether a model's weights are spread."""
    return any(_is_spread(weight) for weight in model.parameters())


def _is_spread(entry: Any) -> bool:
    return hasattr(entry, "full_tensor")  # a DTensor


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process keeps of a tensor: all, if it is not spread."""
    return tensor.to_local() if _is_spread(tensor) else tensor  # type: ignore[attr-defined]


def whole(state: Any) -> Any:
    """Put the spread tensors of any nested object together, on the CPU of the first process; all have to take part.

    Tensors that are not spread stay as they are.
    """

    def gather(leaf: Any) -> Any:
        if not _is_spread(leaf):
            return leaf
        tensor = leaf.full_tensor()
        return tensor.cpu() if processes.rank() == 0 else None

    return map_tensors(gather, state)


def spread(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's whole state with its tensors spread as the weights are that they belong to.

    Its settings stay this optimizer's: the hyperparameters decide them, and the device whether it is a fused one.
    """
    groups = optimizer.state_dict()["param_groups"]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not any(_is_spread(weight) for weight in weights):
        return {**state, "param_groups": groups}
    from torch.distributed.tensor import distribute_tensor

    def like(weight: Any, entry: Any) -> Any:
        if _is_spread(weight) and isinstance(entry, torch.Tensor) and entry.shape == weight.shape:
            # no source: every process has the same
            on_device = entry.to(weight.device)
            return distribute_tensor(on_device, weight.device_mesh, weight.placements, src_data_rank=None)
        return entry

    entries = {
        number: {name: like(weights[number], entry) for name, entry in entries.items()}
        for number, entries in state["state"].items()
    }
    return {**state, "param_groups": groups, "state": entries}
