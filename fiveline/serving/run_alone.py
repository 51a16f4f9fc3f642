"""Run an exported program: read inputs from standard input, and write its outputs to standard output, batch by batch.

Started by `verify.py` as `python -I run_alone.py PROGRAM` in another folder, so that it can import nothing of this
project. A batch of inputs is a pickle of an array, or of a tuple or dict of arrays; its outputs are a list of arrays.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any


def convert(function: Callable[[Any], Any], batch: Any) -> Any:
    """Apply a function to each entry of a batch, or to the batch itself if it is no tuple, list or dict."""
    if isinstance(batch, dict):
        return {name: function(entry) for name, entry in batch.items()}
    return tuple(map(function, batch)) if isinstance(batch, (tuple, list)) else function(batch)


def entries(batch: Any) -> list[Any]:
    """Return the entries of a batch as a list."""
    return list(batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (tuple, list)) else [batch])


def load(path: str) -> Callable[[Any], list[Any]]:
    """Return a program as a function from inputs to outputs, all of them NumPy arrays."""
    if path.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        return lambda inputs: session.run(None, dict(zip(names, entries(inputs), strict=True)))

    import torch

    program: Any = torch.export.load(path).module() if path.endswith(".pt2") else torch.jit.load(path)

    def run(inputs: Any) -> list[Any]:
        with torch.no_grad():
            return [output.numpy() for output in entries(program(convert(torch.from_numpy, inputs)))]

    return run


def main() -> None:
    """Run the script."""
    run, source = load(sys.argv[1]), sys.stdin.buffer
    while source.peek(1):  # type: ignore[union-attr]
        pickle.dump(run(pickle.load(source)), sys.stdout.buffer)  # from the process that started this one
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
