"""A net as the bytes of a file, in each of the formats."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch import nn

import utils
from fiveline.serving.interface import Interface
from fiveline.torch_private import any_length

Sides = tuple[Interface, Interface]  # of the inputs and of the outputs


def to_program(format_name: str, model: nn.Module, inputs: Any, sides: Sides) -> bytes:
    """Return a net, on the CPU and in eval mode, as a program, by following a batch of two or more inputs through it.

    A Stop says that the net cannot be exported in this format.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad(), any_length(model):
            warnings.simplefilter("ignore")  # parts of torch warn about other parts
            return _follow(format_name, model, inputs, sides)
    except Exception as error:  # torch's exporters raise dozens of kinds
        if utils.explain(error) is not None:  # out of memory, for example
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise utils.Stop(
            f"--format {format_name}: torch cannot export this net to {format_name} "
            f"({type(error).__name__}: {reason[:300]}); another --format may work"
        ) from error


def _follow(format_name: str, model: nn.Module, inputs: Any, sides: Sides) -> bytes:
    buffer = io.BytesIO()  # if torch itself writes to a full disk, the process dies
    if format_name == "torchscript":
        torch.jit.save(torch.jit.trace(model, (inputs,), check_trace=False), buffer)
        return buffer.getvalue()
    axes = _free_axes(sides[0], torch.export.Dim.DYNAMIC)
    captured = torch.export.export(model, (inputs,), dynamic_shapes=(axes,))
    if format_name == "pt2":
        torch.export.save(captured, buffer)
        return buffer.getvalue()
    program: Any = torch.onnx.export(
        captured,
        input_names=list(sides[0].shapes),
        output_names=list(sides[1].shapes),
        dynamic_shapes=(_free_axes(sides[0]),),  # with their names
        dynamo=True,
        verbose=False,
    )
    return bytes(program.model_proto.SerializeToString())


def _free_axes(interface: Interface, value: Any = None) -> Any:
    """Return, in the shape of the inputs, axis -> its name, or the value, for each axis that may have any size."""
    axes = {
        name: {axis: value or size for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, shape in interface.shapes.items()
    }
    in_order = tuple(axes.values())
    return {"dict": axes, "tuple": in_order, "tensor": in_order[0]}[interface.kind]


def to_safetensors(model: nn.Module) -> bytes:
    """Return the weights alone, named as in the checkpoint; raise Stop if they read back changed."""
    from safetensors.torch import load, save

    # clones, because safetensors refuses weights that share memory or are not contiguous
    weights = {name: each.clone(memory_format=torch.contiguous_format) for name, each in model.state_dict().items()}
    content: bytes = save(weights, {"format": "pt"})
    try:
        torch.testing.assert_close(load(content), weights, rtol=0, atol=0, equal_nan=True)
    except AssertionError as error:
        raise utils.Stop(f"--format safetensors: reading the file back gave other weights ({error})") from error
    return content
