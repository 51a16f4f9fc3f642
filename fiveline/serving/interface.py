"""The inputs and outputs of an exported net, as named tensors, and the JSON file that describes the program."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import utils
from fiveline.device import tensors_of

USAGE = {
    "pt2": ["import torch", "program = torch.export.load({file!r}).module()", "outputs = program({call})"],
    "torchscript": ["import torch", "program = torch.jit.load({file!r})", "outputs = program({call})"],
    "onnx": [
        "import onnxruntime",
        "session = onnxruntime.InferenceSession({file!r})",
        "outputs = session.run(None, {pairs})  # of NumPy arrays",
    ],
    "safetensors": ["from safetensors.torch import load_file", "state_dict = load_file({file!r})  # weights alone"],
}


@dataclasses.dataclass(frozen=True)
class Interface:
    """The inputs or the outputs of a net, by name.

    `kind` is the container: 'tensor' (a single one), 'dict' or 'tuple'. A dtype is a name such as 'float32'. A shape
    lists the size of each axis, or a name if the size may vary; axes with the same name vary together.
    """

    kind: str
    dtypes: dict[str, str]
    shapes: dict[str, list[int | str]]


def named(batch: Any, name: str) -> dict[str, Tensor]:
    """Return the tensors of a batch by name: the keys of a dict, `name`, or `name_0`, `name_1` for a tuple."""
    if isinstance(batch, Tensor):
        return {name: batch}
    is_own_type = name == "inputs" and hasattr(batch, "_fields")  # a namedtuple, whose class a user cannot import
    entries = batch if isinstance(batch, dict) else {f"{name}_{i}": entry for i, entry in enumerate(batch)}
    if is_own_type or not all(isinstance(entry, Tensor) for entry in entries.values()):
        raise utils.InputError(
            f"{name}: found the type {type(batch).__name__}; a program can take and return only a tensor, or a plain "
            "tuple or dict of tensors. To export the net, let its forward take or return a dict of tensors"
        )
    return dict(entries)


def find_class_axis(outputs: Any, labels: Any) -> int | None:
    """Return the axis of the first output whose largest entry is the predicted class; None if there are no classes."""
    first = tensors_of(outputs)[0]
    if not isinstance(labels, Tensor) or labels.is_floating_point() or first.dim() != labels.dim() + 1:
        return None
    if first.shape[:-1] == labels.shape:
        return -1
    return 1 if first.shape[:1] + first.shape[2:] == labels.shape else None  # as in segmentation


def find_interfaces(
    samples: Sequence[tuple[Any, Any]], axis_names: Mapping[str, Sequence[str]]
) -> tuple[Interface, Interface]:
    """Return the interfaces of inputs and outputs. An axis may vary if it is the first or its size varies in `samples`.

    Args:
        samples: inputs and outputs, of batches of different sizes
        axis_names: input -> the task's names for its axes
    """
    batches = [(named(inputs, "inputs"), named(outputs, "outputs")) for inputs, outputs in samples]
    known = {tuple(len(tensors_of(inputs)[0]) for inputs, _ in samples): "batch_size"}  # sizes -> name
    sides = []
    for side, container in enumerate(samples[0]):
        kind = "tensor" if isinstance(container, Tensor) else "dict" if isinstance(container, dict) else "tuple"
        interface = Interface(kind, {}, {})
        for name, tensor in batches[0][side].items():
            interface.dtypes[name] = str(tensor.dtype).removeprefix("torch.")
            shapes = [batch[side][name].shape for batch in batches]
            interface.shapes[name] = _axes(name, shapes, axis_names.get(name, ()), known)
        sides.append(interface)
    return sides[0], sides[1]


def _axes(
    name: str, shapes: Sequence[Sequence[int]], axis_names: Sequence[str], known: dict[tuple[int, ...], str]
) -> list[int | str]:
    """Return the size of each axis, or its name if it may vary; axes of the same size in all samples share a name."""
    axes: list[int | str] = []
    for axis, sizes in enumerate(zip(*shapes, strict=True)):
        axis_name = axis_names[axis] if axis < len(axis_names) else f"{name}_{axis}"
        while axis_name in known.values():
            axis_name += "_out"
        is_fixed = axis > 0 and len(set(sizes)) == 1
        axes.append(sizes[0] if is_fixed else known.setdefault(sizes, axis_name))
    return axes


def gather_facts(
    file_name: str, sides: tuple[Interface, Interface], params: utils.Params, described: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the JSON's entries except `verified`; `described` is from describe_inputs in the task's serve.py."""
    names, format_name = list(sides[0].shapes), file_name.rpartition(".")[2]
    pairs = "{" + ", ".join(f"{name!r}: {name}" for name in names) + "}"
    call = {"dict": pairs, "tensor": names[0], "tuple": f"({', '.join(names)},)"}[sides[0].kind]
    meaning = {"meaning": described["outputs"]} if "outputs" in described else {}
    inputs, outputs = (
        [{"name": name, "dtype": side.dtypes[name], "shape": shape} for name, shape in side.shapes.items()]
        for side in sides
    )
    steps = {key: value for key, value in described.items() if key not in ("axes", "outputs")}
    return {
        "format": format_name,
        "usage": [line.format(file=file_name, call=call, pairs=pairs) for line in USAGE[format_name]],
        "inputs": inputs,
        "preprocessing": {"where": "outside the program: apply these steps to its inputs", **steps},
        "outputs": [{**output, **meaning} for output in outputs],
        "hyperparameters": params.model_dump(mode="json"),
        "made_by_torch": str(torch.__version__),
    }
