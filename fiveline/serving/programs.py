"""A net as a file, in each of the formats."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import utils
from fiveline.serving.interface import Interface
from fiveline.serving.lengths import any_length


def capture(model: nn.Module, inputs: Any, interface: Interface) -> torch.export.ExportedProgram:
    """Return a net as a graph of torch's operations, with the axes free that the interface names."""
    free = {
        name: {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, shape in interface.shapes.items()
    }
    entries = tuple(free.values())
    dynamic: Any = free if interface.kind == "dict" else entries if interface.kind == "tuple" else entries[0]
    with torch.no_grad(), any_length(model):
        return torch.export.export(model, (inputs,), dynamic_shapes=(dynamic,))


def write_pt2(model: nn.Module, inputs: Any, sides: tuple[Interface, Interface], path: Path) -> None:
    """Write what `torch.export.load` reads."""
    buffer = io.BytesIO()  # on a full disk, torch's own writing ends the process
    torch.export.save(capture(model, inputs, sides[0]), buffer)
    utils.write_atomically(path, buffer.getvalue())


def write_onnx(model: nn.Module, inputs: Any, sides: tuple[Interface, Interface], path: Path) -> None:
    """Write what `onnxruntime.InferenceSession` reads; its axes have the interface's names."""
    import onnx

    program = capture(model, inputs, sides[0])
    names = [list(side.shapes) for side in sides]
    with torch.no_grad(), any_length(model):
        converted: Any = torch.onnx.export(
            program, input_names=names[0], output_names=names[1], dynamo=True, verbose=False
        )
    proto = converted.model_proto
    symbols: dict[str, str] = {}
    for value in proto.graph.input:
        for size, axis in zip(value.type.tensor_type.shape.dim, sides[0].shapes[value.name], strict=True):
            if size.dim_param and isinstance(axis, str):
                symbols[size.dim_param] = axis
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # a symbol, or a sum or product of some
                size.dim_param = re.sub(r"\w+", lambda found: symbols.get(found[0], found[0]), size.dim_param)
    buffer = io.BytesIO()
    onnx.save(proto, buffer)
    utils.write_atomically(path, buffer.getvalue())


def write_torchscript(model: nn.Module, inputs: Any, sides: tuple[Interface, Interface], path: Path) -> None:
    """Write what `torch.jit.load` reads."""
    with torch.no_grad():
        traced = torch.jit.trace(model, (inputs,), check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    utils.write_atomically(path, buffer.getvalue())


def write_safetensors(model: nn.Module, metadata: Mapping[str, str], path: Path) -> None:
    """Write the weights alone, under the names that they have in the checkpoint."""
    from safetensors.torch import save

    # clones: weights that share their memory are refused, and so are those in another order than the usual one
    content = save({name: _plain(entry) for name, entry in model.state_dict().items()}, dict(metadata))
    utils.write_atomically(path, content)


def same_weights(model: nn.Module, path: Path) -> bool:
    """Return whether a file of `write_safetensors` holds a net's weights, to the bit."""
    from safetensors.torch import load_file

    ours, theirs = model.state_dict(), load_file(path)
    return ours.keys() == theirs.keys() and all(
        entry.dtype == theirs[name].dtype
        and entry.shape == theirs[name].shape
        and torch.equal(_plain(entry).flatten().view(torch.uint8), theirs[name].flatten().view(torch.uint8))
        for name, entry in ours.items()
    )


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


WRITERS: dict[str, Callable[[nn.Module, Any, tuple[Interface, Interface], Path], None]] = {
    "pt2": write_pt2,
    "onnx": write_onnx,
    "torchscript": write_torchscript,
}


def write_program(
    format_name: str, model: nn.Module, inputs: Any, sides: tuple[Interface, Interface], path: Path
) -> None:
    """Write a net in eval mode as a program.

    Args:
        format_name: one of WRITERS
        model: on the CPU, in eval mode
        inputs: a batch to follow through it, of two examples or more
        sides: the interfaces of inputs and outputs
        path: the file

    Raises:
        Exception: whatever torch raises where the format cannot do the net
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's parts about each other, and of TorchScript's end, which we tell
        WRITERS[format_name](model, inputs, sides, path)
