"""How a net is computed: in which precision, compiled or not, with which of its activations kept in memory.

Nothing here wraps a net: its class and the names of its weights stay, so checkpoints do not depend on any of this.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import utils
from fiveline import torch_private
from fiveline.device import map_tensors

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def tune_cpu() -> None:
    """Avoid two costs on a CPU, without changing a result; `prepare` calls this before the first step."""
    # Adam's moments decay to numbers below 1e-38 if a weight gets no gradient for long, such as a rare word's, and
    # some processors compute with these a hundred times slower
    torch.set_flush_denormal(True)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")  # keep freed memory for the next step, which would wait for zeroed pages
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            libc.mallopt(option, 2**30)


def prepare(model: nn.Module, params: utils.Params, device: torch.device) -> nn.Module:
    """Return a net, whose weights stay in fp32, on its device, with the forward pass that the params select."""
    tune_cpu()
    if params.deterministic and device.type != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True)
    if params.activation_checkpointing:
        blocks = find_blocks(model)
        for block in blocks:
            block.forward = functools.partial(_forward_again, block)
        if not blocks:
            logging.info("- activation_checkpointing has no effect: no blocks in an nn.Sequential or nn.ModuleList")
    if params.precision in AUTOCAST_TYPES:
        # a partial: a copy of the net then gets its own
        model.forward = functools.partial(_forward_in, model, AUTOCAST_TYPES[params.precision])
    elif params.precision == "tf32" and device.type != "cuda":
        logging.info("- precision tf32: only a CUDA device has it; here it is fp32")
    if device.type == "cuda":  # by default, torch takes tf32 for convolutions and fp32 for everything else
        is_tf32 = params.precision == "tf32"
        torch.set_float32_matmul_precision("high" if is_tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = is_tf32
    if device.type == "mps":  # up to torch 2.10 at least, it computes wrong gradients of batch norm from channels-last
        model = model.to(memory_format=torch.contiguous_format)
        model.register_forward_pre_hook(lambda _, inputs: map_tensors(torch.Tensor.contiguous, inputs))
    return model.to(device)


def describe_forward(model: nn.Module, params: utils.Params) -> dict[str, Any]:
    """Return the settings of this machine that may change the bits of a result."""
    weights = list(model.parameters())
    device = weights[0].device
    is_cuda = device.type == "cuda"
    return {
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "threads": torch.get_num_threads(),
        "precision": "fp32" if params.precision == "tf32" and not is_cuda else params.precision,
        "channels_last": any(w.dim() == 4 and not w.is_contiguous() for w in weights),
        "compiled": torch_private.is_compiled(model),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _forward_in(model: nn.Module, dtype: torch.dtype, *inputs: Any) -> Any:
    """Run the forward pass of the net's class in another precision; outputs, and therefore the loss, are fp32."""
    with torch.autocast(next(model.parameters()).device.type, dtype):
        outputs = type(model).forward(model, *inputs)
    return map_tensors(lambda tensor: tensor.float() if tensor.dtype == dtype else tensor, outputs)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a deep net: entries of an nn.Sequential or nn.ModuleList that hold modules."""
    if isinstance(model, nn.Sequential | nn.ModuleList):
        entries = [entry for entry in model if any(True for _ in entry.children())]
        if entries:
            return entries
    return [block for child in model.children() for block in find_blocks(child)]


def _forward_again(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    """Run the forward pass of the block's class, and again in the backward pass, to keep only its inputs."""
    forward = functools.partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(block)),
        **named,
    )


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Keep batch norms from adding the same batch to their running statistics twice."""
    norms: list[Any] = [module for module in block.modules() if hasattr(module, "num_batches_tracked")]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches


def compile_net(model: nn.Module, has_lengths: bool) -> None:
    """Compile a net in its place, or log a warning; with `has_lengths`, batches of many shapes share code."""
    device = next(model.parameters()).device
    try:
        torch.compile(lambda numbers: numbers.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # a dozen kinds: no C++ compiler, no Triton, a Python that is too new, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logging.warning(f"- WARNING: compile: no compiler works here ({reason}); the net is not compiled")
        return
    model.compile(dynamic=has_lengths)  # False: separate code for each shape, so a resumed run gives the same bits
