"""Run an exported program on batches from standard input; print how far its outputs are from those expected.

Started by `verify.py` as `python -I`, in another folder: nothing of this project can be imported here, and nothing is.

    sys.argv: the program, its format, what holds its inputs, their names
    standard input, for each batch: a line with the number of bytes, then a .npz of in_0, ..., out_0, ...
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
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


def differences(outputs: Arrays, expected: Arrays) -> tuple[float, float]:
    """Return the largest difference, and the largest in relation to the expected number where that is above 1.

    Raises:
        ValueError: they are not of the same shapes
    """
    worst = [0.0, 0.0]
    for ours, theirs in zip(outputs, expected, strict=True):
        if ours.shape != theirs.shape:
            raise ValueError(f"outputs of shape {ours.shape}, expected {theirs.shape}")
        theirs = theirs.astype(np.float64)
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        with np.errstate(invalid="ignore"):
            distance = np.where(same, 0.0, np.abs(ours - theirs))
        distance[np.isnan(distance)] = np.inf
        scaled = distance / np.maximum(1.0, np.where(np.isfinite(theirs), np.abs(theirs), 1.0))
        worst = [max(worst[0], float(distance.max(initial=0))), max(worst[1], float(scaled.max(initial=0)))]
    return worst[0], worst[1]


def main() -> None:
    """Run the script."""
    path, format_name, kind, *names = sys.argv[1:]
    run = load(path, format_name, kind, names)
    worst = (0.0, 0.0)
    while line := sys.stdin.buffer.readline():
        with np.load(io.BytesIO(sys.stdin.buffer.read(int(line)))) as arrays:
            inputs = [arrays[f"in_{i}"] for i in range(len(names))]
            expected = [arrays[f"out_{i}"] for i in range(len(arrays.files) - len(names))]
        found = differences(run(inputs), expected)
        worst = max(worst[0], found[0]), max(worst[1], found[1])
    print(json.dumps(worst))


if __name__ == "__main__":
    main()
