"""What a net is called with and what it returns, as named tensors: which of their sizes are free, seen on examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

import utils

Named = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Interface:
    """The inputs or outputs of a net.

    Args:
        kind: what holds the tensors: 'tensor' (there is one), 'dict' or 'tuple'
        dtypes: name -> type, 'float32'
        shapes: name -> a number for each axis, or a name where it may be any; equal ones have the same name
    """

    kind: str
    dtypes: dict[str, str]
    shapes: dict[str, list[int | str]]


def kind_of(batch: Any) -> str:
    """Return what holds the tensors of a batch."""
    return "tensor" if isinstance(batch, Tensor) else "dict" if isinstance(batch, dict) else "tuple"


def named(batch: Any, name: str) -> Named:
    """Return the tensors of a batch by their names: `name`, or `name_0` and so on, or those that they have in a dict.

    Raises:
        InputError: the batch is more than a tuple or dict of tensors, or the inputs are a namedtuple
    """
    if name == "inputs" and hasattr(batch, "_fields"):
        raise utils.InputError(
            f"{name}: found the namedtuple {type(batch).__name__}, a type of your code, which a program does without; "
            "to export the net, let it take a dict of tensors (it can train on either)"
        )
    if isinstance(batch, Tensor):
        return {name: batch}
    entries = batch if isinstance(batch, dict) else {f"{name}_{i}": entry for i, entry in enumerate(batch)}
    if not all(isinstance(entry, Tensor) for entry in entries.values()):
        raise utils.InputError(f"{name}: expected a tensor, or a tuple or dict of tensors; only these can be exported")
    return dict(entries)


def find_class_axis(outputs: Any, labels: Any) -> int | None:
    """Return the axis of the first output whose largest entry is the predicted class; None if there are no classes."""
    first = next(iter(named(outputs, "outputs").values()))
    if not isinstance(labels, Tensor) or labels.is_floating_point() or first.dim() != labels.dim() + 1:
        return None
    if first.shape[:-1] == labels.shape:
        return -1
    return 1 if first.shape[:1] + first.shape[2:] == labels.shape else None  # as in segmentation


def find_interfaces(
    samples: Sequence[tuple[Any, Any]], axis_names: Mapping[str, Sequence[str]]
) -> tuple[Interface, Interface]:
    """Look at batches of different sizes: the first axis is free, and so is any other whose size is not always one.

    Args:
        samples: inputs and outputs
        axis_names: what the task calls the axes of its inputs, as far as it does

    Returns:
        of the inputs, and of the outputs
    """
    inputs = [named(each, "inputs") for each, _ in samples]
    outputs = [named(each, "outputs") for _, each in samples]
    known: dict[tuple[int, ...], str] = {tuple(len(next(iter(batch.values()))) for batch in inputs): "batch_size"}
    sides = []
    for batches, side in zip((inputs, outputs), samples[0], strict=True):
        shapes: dict[str, list[int | str]] = {}
        for name, tensor in batches[0].items():
            shapes[name] = []
            for axis in range(tensor.dim()):
                sizes = tuple(batch[name].shape[axis] for batch in batches)
                if len(set(sizes)) == 1 and axis > 0:
                    shapes[name].append(sizes[0])
                    continue
                given = axis_names.get(name, ())
                label = given[axis] if axis < len(given) else f"{name}_{axis}"
                # axes that are equal in all samples are one, and others are not
                shapes[name].append(known.setdefault(sizes, _unused(label, known.values())))
        dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in batches[0].items()}
        sides.append(Interface(kind_of(side), dtypes, shapes))
    return sides[0], sides[1]


def apart(sides: tuple[Interface, Interface]) -> tuple[Interface, Interface]:
    """Return the interfaces with other names for outputs that are called as inputs are, `words_out` for one."""
    inputs, outputs = sides
    names: dict[str, str] = {}
    for name in outputs.shapes:
        names[name] = _unused(name, [*inputs.shapes, *names.values()])
    dtypes = {names[name]: dtype for name, dtype in outputs.dtypes.items()}
    return inputs, Interface(outputs.kind, dtypes, {names[name]: shape for name, shape in outputs.shapes.items()})


def _unused(name: str, used: Collection[str]) -> str:
    while name in used:
        name += "_out"
    return name
