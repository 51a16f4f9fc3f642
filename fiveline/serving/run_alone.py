"""Run an exported program on batches from standard input; print how far its outputs are from those expected.

Started by `verify.py` as `python -I`, in another folder: nothing of this project can be imported here, and nothing is.

    sys.argv: the program, its format, what holds its inputs, the axis of the classes or `none`, the names of the inputs
    standard input, for each batch: a line with the number of bytes, then a .npz of in_0, ..., out_0, ...
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

Arrays = list[np.ndarray]


def load(path: str, format_name: str, kind: str, names: list[str]) -> Callable[[Arrays], Arrays]:
    """Return a function from inputs to outputs."""
    if format_name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda arrays: list(session.run(None, dict(zip(names, arrays, strict=True))))

    import torch

    program: Any = torch.export.load(path).module() if format_name == "pt2" else torch.jit.load(path)

    def run(arrays: Arrays) -> Arrays:
        tensors = [torch.from_numpy(array) for array in arrays]
        as_dict, as_tuple = dict(zip(names, tensors, strict=True)), tuple(tensors)
        with torch.no_grad():
            outputs = program(as_dict if kind == "dict" else as_tuple if kind == "tuple" else tensors[0])
        if isinstance(outputs, dict):
            outputs = list(outputs.values())
        return [output.numpy() for output in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]

    return run


def compare(batches: Iterable[tuple[Arrays, Arrays]], class_axis: int | None) -> dict[str, float]:
    """Return how far outputs are from those expected, over all batches.

    Args:
        batches: outputs, and the expected ones
        class_axis: of the first output, along which the largest entry is the prediction; None if there are no classes

    Returns:
        `largest_difference`; `largest_difference_as_share` of the spread, which is the standard deviation of that
        output's entries over all batches; and with classes `num_predictions` and `num_changed` ones

    Raises:
        ValueError: they are not of the same shapes
    """
    worst: list[float] = []
    moments: list[Any] = []  # of each output, of its finite entries: number, mean, sum of squared deviations
    changed = {} if class_axis is None else {"num_predictions": 0, "num_changed": 0}
    for outputs, expected in batches:
        worst, moments = worst or [0.0] * len(expected), moments or [np.zeros(3)] * len(expected)
        for i, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
            if ours.shape != theirs.shape:
                raise ValueError(f"outputs of shape {ours.shape}, expected {theirs.shape}")
            worst[i] = max(worst[i], _distance(ours, theirs))
            moments[i] = _merge(moments[i], theirs[np.isfinite(theirs)].astype(np.float64))
        if class_axis is not None:
            predicted = [side[0].argmax(axis=class_axis) for side in (outputs, expected)]
            changed["num_predictions"] += predicted[0].size
            changed["num_changed"] += int((predicted[0] != predicted[1]).sum())
    shares = [distance / _spread(*each) if distance else 0.0 for distance, each in zip(worst, moments, strict=True)]
    return {"largest_difference": max(worst), "largest_difference_as_share": max(shares), **changed}


def _distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    theirs = theirs.astype(np.float64)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        distance = np.where(same, 0.0, np.abs(ours - theirs))
    distance[np.isnan(distance)] = np.inf
    return float(distance.max(initial=0))


def _merge(moments: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the moments after adding values, by Chan, Golub and LeVeque's formula."""
    number, mean, squares = moments
    if not values.size:
        return moments
    total, gap = number + values.size, values.mean() - mean
    more = values.var() * values.size + gap**2 * number * values.size / total
    return np.array([total, mean + gap * values.size / total, squares + more])


def _spread(number: float, mean: float, squares: float) -> float:
    """Return the standard deviation; of a constant, its size, or 1 where that is less."""
    spread = math.sqrt(squares / number) if number else 0.0
    return spread if spread > 1e-12 * abs(mean) else max(1.0, abs(mean))


def main() -> None:
    """Run the script."""
    path, format_name, kind, class_axis, *names = sys.argv[1:]
    run = load(path, format_name, kind, names)

    def batches() -> Iterator[tuple[Arrays, Arrays]]:
        while line := sys.stdin.buffer.readline():
            with np.load(io.BytesIO(sys.stdin.buffer.read(int(line)))) as arrays:
                inputs = [arrays[f"in_{i}"] for i in range(len(names))]
                expected = [arrays[f"out_{i}"] for i in range(len(arrays.files) - len(names))]
            yield run(inputs), expected

    print(json.dumps(compare(batches(), None if class_axis == "none" else int(class_axis))))


if __name__ == "__main__":
    main()
