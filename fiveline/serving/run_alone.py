"""Run an exported program on batches from standard input, and print how far its outputs are from the expected ones.

Started by `verify.py` as `python -I PROGRAM CLASS_AXIS` in another folder, so that it can import nothing of this
project. Standard input holds a pickle for each batch: the inputs and the expected outputs, as NumPy arrays.
"""

from __future__ import annotations

import json
import math
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np


def convert(function: Callable[[Any], Any], batch: Any) -> Any:
    """Apply a function to the tensors of a batch: one tensor, or a tuple, list or dict of them."""
    if isinstance(batch, dict):
        return {name: function(each) for name, each in batch.items()}
    return tuple(map(function, batch)) if isinstance(batch, (tuple, list)) else function(batch)


def entries(batch: Any) -> list[Any]:
    """Return the tensors of a batch as a list."""
    return list(batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (tuple, list)) else [batch])


def load(path: str) -> Callable[[Any], Any]:
    """Return a program as a function from inputs to outputs, all of them NumPy arrays."""
    if path.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        return lambda inputs: session.run(None, dict(zip(names, entries(inputs), strict=True)))

    import torch

    program: Any = torch.export.load(path).module() if path.endswith(".pt2") else torch.jit.load(path)

    def run(inputs: Any) -> Any:
        with torch.no_grad():
            return convert(torch.Tensor.numpy, program(convert(torch.from_numpy, inputs)))

    return run


def compare(batches: Iterable[tuple[list[Any], list[Any]]], class_axis: int | None) -> dict[str, float]:
    """Return how far outputs are from the expected ones, over all batches.

    Args:
        batches: outputs, and the expected ones
        class_axis: axis of the first output whose largest entry is the prediction; None if there are no classes

    Returns:
        `largest_difference`; `largest_difference_as_share` of the standard deviation of that output over all batches;
        and with classes `num_predictions` and `num_changed`

    Raises:
        ValueError: the shapes differ
    """
    worst: Any = 0.0  # of each output
    sums: Any = 0.0
    changed = {} if class_axis is None else {"num_predictions": 0, "num_changed": 0}
    for outputs, expected in batches:
        shapes, expected_shapes = ([each.shape for each in side] for side in (outputs, expected))
        if shapes != expected_shapes:
            raise ValueError(f"outputs of shapes {shapes}, expected {expected_shapes}")
        worst = np.maximum(worst, [_difference(*pair) for pair in zip(outputs, expected, strict=True)])
        sums = sums + np.array([_sums(each) for each in expected])
        if class_axis is not None:
            predicted = [side[0].argmax(axis=class_axis) for side in (outputs, expected)]
            changed["num_predictions"] += predicted[0].size
            changed["num_changed"] += int((predicted[0] != predicted[1]).sum())
    shares = [each / _spread(*row) if each else 0.0 for each, row in zip(worst, sums, strict=True)]
    return {"largest_difference": float(max(worst)), "largest_difference_as_share": float(max(shares)), **changed}


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference; a NaN or infinity on one side alone is infinitely far off."""
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(ours - theirs.astype(np.float64)))
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0))


def _sums(values: np.ndarray) -> tuple[float, float, float]:
    """Return the number, sum and sum of squares of the finite entries."""
    finite = values[np.isfinite(values)].astype(np.float64)
    return finite.size, finite.sum(), (finite**2).sum()


def _spread(number: float, total: float, squares: float) -> float:
    """Return the standard deviation; for a constant, its size, but at least 1."""
    mean = total / max(number, 1)
    spread = math.sqrt(max(squares / max(number, 1) - mean**2, 0))
    return spread if spread > 1e-7 * abs(mean) else max(1.0, abs(mean))  # float32 has 7 digits


def main() -> None:
    """Run the script."""
    run, class_axis = load(sys.argv[1]), json.loads(sys.argv[2])
    file: Any = sys.stdin.buffer

    def batches() -> Iterator[tuple[list[Any], list[Any]]]:
        while file.peek(1):
            inputs, expected = pickle.load(file)  # from the process that started this one
            yield entries(run(inputs)), entries(expected)

    print(json.dumps(compare(batches(), class_axis)))


if __name__ == "__main__":
    main()
