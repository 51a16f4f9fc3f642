"""Models larger than a card, `fsdp: true`: each process keeps a shard of every weight, gradient and moment.

Checkpoints are whole all the same: every other script, and any number of processes, reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from fiveline.options.forward import find_blocks

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(net: nn.Module, device: torch.device, world_size: int) -> None:
    """Spread a net's weights over the processes; they come together block by block while it computes.

    Args:
        net: with the same weights in all processes
        device: where to compute
        world_size: the number of processes
    """
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


def weights_of(net: nn.Module) -> dict[str, Any]:
    """Return the whole weights, on the CPU of the first process; empty in the others."""
    return get_model_state_dict(net, options=WHOLE)


def moments_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimizer's whole state with a number for each weight, as torch's `state_dict` of one process does."""
    groups = optimizer.state_dict()["param_groups"]
    if not optimizer.state:  # before the first step: torch would take one, with gradients of zero, and count it
        return {"state": {}, "param_groups": groups}
    whole: Any = get_optimizer_state_dict(net, optimizer, options=WHOLE)
    if not whole:
        return {}
    names = [name for group in whole["param_groups"] for name in group["params"]]
    return {"state": {i: whole["state"][name] for i, name in enumerate(names) if name in whole["state"]},
            "param_groups": groups}  # fmt: skip


def load_moments(net: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the state that `moments_of` returned; every process has all of it."""
    if not state["state"]:  # of a checkpoint from before the first step, as in `moments_of`
        return
    groups = optimizer.state_dict()["param_groups"]
    numbered: Any = get_optimizer_state_dict(net, optimizer)  # its groups name the weights in order
    named = [{**group, "params": numbered["param_groups"][i]["params"]} for i, group in enumerate(groups)]
    names = [name for group in named for name in group["params"]]
    moments = {names[i]: entry for i, entry in state["state"].items()}
    set_optimizer_state_dict(
        net, optimizer, {"state": moments, "param_groups": named}, options=StateDictOptions(full_state_dict=True)
    )
