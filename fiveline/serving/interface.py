"""What a net is called with and what it returns, as named tensors, and which of their sizes may vary."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

import utils
from fiveline.device import tensors_of


@dataclasses.dataclass(frozen=True)
class Interface:
    """The inputs or the outputs of a net, by name."""

    kind: str  # what holds the tensors: 'tensor' (there is only one), 'dict' or 'tuple'
    dtypes: dict[str, str]  # for example 'float32'
    shapes: dict[
        str, list[int | str]
    ]  # the size of each axis, or a name if it may vary; axes of one name vary together


def named(batch: Any, name: str) -> dict[str, Tensor]:
    """Return the tensors of a batch by name: their keys in a dict; else `name`, or `name_0`, `name_1`, ... in a tuple.

    Raises:
        InputError: a program cannot take or return such a batch
    """
    if isinstance(batch, Tensor):
        return {name: batch}
    is_own_type = name == "inputs" and hasattr(batch, "_fields")  # a namedtuple, which no other code can import
    entries = batch if isinstance(batch, dict) else {f"{name}_{i}": entry for i, entry in enumerate(batch)}
    if is_own_type or not all(isinstance(entry, Tensor) for entry in entries.values()):
        raise utils.InputError(
            f"{name}: found the type {type(batch).__name__}; a program can take and return only a tensor, or a plain "
            "tuple or dict of tensors. To export the net, change its forward to a dict of tensors"
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
    samples: Sequence[tuple[Any, Any]], axis_names: Mapping[str, Sequence[str]], unique: bool = False
) -> tuple[Interface, Interface]:
    """Return the interfaces of inputs and outputs. The first axis, and all whose sizes differ in the samples, may vary.

    Args:
        samples: inputs and outputs, of batches of different sizes
        axis_names: input -> the task's names for its axes
        unique: whether to rename outputs that have the name of an input: ONNX needs a name of its own for each tensor
    """
    batches = [(named(inputs, "inputs"), named(outputs, "outputs")) for inputs, outputs in samples]
    known = {tuple(len(tensors_of(inputs)[0]) for inputs, _ in samples): "batch_size"}  # sizes -> name
    taken: list[str] = []
    sides = []
    for side, container in enumerate(samples[0]):
        dtypes: dict[str, str] = {}
        shapes: dict[str, list[int | str]] = {}
        for name, tensor in batches[0][side].items():
            shape: list[int | str] = []
            for axis, sizes in enumerate(zip(*(batch[side][name].shape for batch in batches), strict=True)):
                if axis > 0 and len(set(sizes)) == 1:
                    shape.append(sizes[0])
                    continue
                axis_name = dict(enumerate(axis_names.get(name, ()))).get(axis, f"{name}_{axis}")
                # axes with the same size in every sample are the same axis, and get the same name
                shape.append(known.setdefault(sizes, _unused(axis_name, known.values())))
            own_name = _unused(name, taken) if unique else name
            taken.append(own_name)
            dtypes[own_name], shapes[own_name] = str(tensor.dtype).removeprefix("torch."), shape
        kind = "tensor" if isinstance(container, Tensor) else "dict" if isinstance(container, dict) else "tuple"
        sides.append(Interface(kind, dtypes, shapes))
    return sides[0], sides[1]


def _unused(name: str, used: Collection[str]) -> str:
    while name in used:
        name += "_out"
    return name
