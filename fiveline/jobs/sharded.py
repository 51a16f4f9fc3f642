"""Models larger than a card, `fsdp: true`: each process keeps a shard of every weight, gradient and moment.

Checkpoints are whole all the same: every other script, and any number of processes, reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from fiveline.device import map_tensors
from fiveline.options.forward import find_blocks


def shard(net: nn.Module, device: torch.device, world_size: int) -> None:
    """Shard a net's weights, which are equal in all processes; each block gathers its own while it computes."""
    for weight in net.parameters():  # FSDP cannot shard the channels-last order of convolutions
        weight.data = weight.data.contiguous()
    mesh = init_device_mesh(device.type, (world_size,))
    for block in find_blocks(net):
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    for module in net.modules():
        if isinstance(module, FSDPModule):  # once outside of inference mode, which its first use may be in
            module.unshard()
            module.reshard()


def whole(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a net's or an optimizer's state with whole tensors on the CPU of the first process, and None in others.

    All processes must call this, because each of them has a shard.
    """

    def gather(entry: Any) -> Any:
        if not isinstance(entry, DTensor):
            return entry
        tensor = entry.full_tensor()
        return tensor.cpu() if dist.get_rank() == 0 else None

    return map_tensors(gather, dict(state))


def shards_of(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return this process's shards of an optimizer's whole state."""
    weights: Any = [weight for group in optimizer.param_groups for weight in group["params"]]

    def shard_as(weight: DTensor, moment: Any) -> Any:
        if not isinstance(moment, torch.Tensor) or moment.shape != weight.shape:
            return moment  # the number of steps
        tensor = moment.to(weight.device)
        return distribute_tensor(tensor, weight.device_mesh, weight.placements, src_data_rank=None)

    moments = {
        i: {name: shard_as(weights[i], moment) for name, moment in entries.items()}
        for i, entries in state["state"].items()
    }
    return {**state, "state": moments}
