"""A net as the bytes of a file, in each of the formats."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch import nn
from torch.export import Dim

import utils
from fiveline.device import map_tensors
from fiveline.serving.interface import Entries
from fiveline.torch_private import any_length


def to_program(format_name: str, model: nn.Module, inputs: Any, sides: tuple[Entries, Entries]) -> bytes:
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


def _follow(format_name: str, model: nn.Module, inputs: Any, sides: tuple[Entries, Entries]) -> bytes:
    buffer = io.BytesIO()  # if torch itself writes to a full disk, the process dies
    if format_name == "torchscript":
        torch.jit.save(torch.jit.trace(model, (inputs,), check_trace=False), buffer)
        return buffer.getvalue()
    captured = torch.export.export(model, (inputs,), dynamic_shapes=(_free_axes(inputs, sides[0], Dim.DYNAMIC),))
    if format_name == "pt2":
        torch.export.save(captured, buffer)
        return buffer.getvalue()
    program: Any = torch.onnx.export(
        captured,
        input_names=[entry["name"] for entry in sides[0]],
        output_names=[entry["name"] for entry in sides[1]],
        dynamic_shapes=(_free_axes(inputs, sides[0]),),  # with their names
        dynamo=True,
        verbose=False,
    )
    return bytes(program.model_proto.SerializeToString())


def _free_axes(inputs: Any, entries: Entries, value: Any = None) -> Any:
    """Return, in the shape of the inputs, axis -> its name, or the value, for each axis that may have any size."""
    axes = ({i: value or size for i, size in enumerate(each["shape"]) if isinstance(size, str)} for each in entries)
    return map_tensors(lambda _: next(axes), inputs)


def to_safetensors(model: nn.Module) -> bytes:
    """Return the weights alone, named as in the checkpoint."""
    from safetensors.torch import save

    # clones, because safetensors refuses weights that share memory or are not contiguous
    weights = {name: each.clone(memory_format=torch.contiguous_format) for name, each in model.state_dict().items()}
    content: bytes = save(weights, {"format": "pt"})
    return content
