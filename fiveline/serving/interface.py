"""The inputs and outputs of an exported net, as named tensors, and the JSON file that describes the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import utils
from fiveline.device import tensors_of

Entries = list[dict[str, Any]]  # `name`, `dtype` and `shape` of each tensor; an axis whose size may vary has a name
USAGE = {
    "pt2": ["import torch", "program = torch.export.load({file!r}).module()", "outputs = program({call})"],
    "torchscript": ["import torch", "program = torch.jit.load({file!r})", "outputs = program({call})"],
    "onnx": [
        "import onnxruntime",
        "session = onnxruntime.InferenceSession({file!r}, providers=['CPUExecutionProvider'])",
        "outputs = session.run(None, {pairs})  # of NumPy arrays",
    ],
    "safetensors": ["from safetensors.torch import load_file", "state_dict = load_file({file!r})  # weights alone"],
}


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
) -> tuple[Entries, Entries]:
    """Return the entries of inputs and outputs. An axis may vary if it is the first or its size varies in `samples`.

    Args:
        samples: inputs and outputs, of batches of different sizes
        axis_names: input -> the task's names for its axes
    """
    batches = [(named(inputs, "inputs"), named(outputs, "outputs")) for inputs, outputs in samples]
    known = {tuple(len(tensors_of(inputs)[0]) for inputs, _ in samples): "batch_size"}  # sizes -> name
    sides: tuple[Entries, Entries] = ([], [])
    for side, entries in enumerate(sides):
        for name, tensor in batches[0][side].items():
            shape: list[int | str] = []
            given = axis_names.get(name, ())
            for axis, sizes in enumerate(zip(*(batch[side][name].shape for batch in batches), strict=True)):
                axis_name = given[axis] if axis < len(given) else f"{name}_{axis}"
                while axis_name in known.values():
                    axis_name += "_out"
                is_fixed = axis > 0 and len(set(sizes)) == 1
                shape.append(sizes[0] if is_fixed else known.setdefault(sizes, axis_name))
            entries.append({"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": shape})
    return sides


def usage(file_name: str, inputs: Any) -> list[str]:
    """Return the lines of Python that load a program and call it with the tensors of a batch, each under its name."""
    names = list(named(inputs, "inputs"))
    pairs = "{" + ", ".join(f"{name!r}: {name}" for name in names) + "}"
    call = pairs if isinstance(inputs, dict) else names[0] if isinstance(inputs, Tensor) else f"({', '.join(names)},)"
    return [line.format(file=file_name, call=call, pairs=pairs) for line in USAGE[file_name.rpartition(".")[2]]]


def gather_facts(
    file_name: str, inputs: Any, sides: tuple[Entries, Entries], params: utils.Params, described: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the JSON's entries except `verified`; `described` is from describe_inputs in the task's serve.py."""
    meaning = {"meaning": described["outputs"]} if "outputs" in described else {}
    steps = {key: value for key, value in described.items() if key not in ("axes", "outputs")}
    return {
        "format": file_name.rpartition(".")[2],
        "usage": usage(file_name, inputs),
        "inputs": sides[0],
        "preprocessing": {"where": "outside the program: apply these steps to its inputs", **steps},
        "outputs": [{**output, **meaning} for output in sides[1]],
        "hyperparameters": params.model_dump(mode="json"),
        "made_by_torch": str(torch.__version__),
    }
