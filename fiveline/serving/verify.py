"""Check that an exported program, in a process that cannot import this project, computes what its net computes."""

from __future__ import annotations

import contextlib
import itertools
import math
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import utils
from fiveline.device import tensors_of
from fiveline.serving import run_alone
from fiveline.serving.interface import named, usage

TOLERANCE = 1e-4  # largest accepted difference, as a share of the standard deviation of the net's outputs
Arrays = list[np.ndarray]


def check_program(
    content: bytes,
    file_name: str,
    pairs: Iterable[tuple[Any, Any]],
    class_axis: int | None = None,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Return how far a program's outputs are from the net's, as `compare` does; raise Stop if they are too far off.

    `pairs` are inputs and the net's outputs. With a tolerance, predictions may change; None means TOLERANCE and no
    changed prediction.
    """
    with tempfile.TemporaryDirectory() as folder:  # the run's directory is train.py's
        path = Path(folder, file_name)
        utils.write_atomically(path, content)  # names the file if the disk is full
        found = compare(run_in_fresh_process(path, pairs), class_axis)
    share, limit = found["largest_difference_as_share"], TOLERANCE if tolerance is None else tolerance
    found["tolerance"] = limit
    if share <= limit and (tolerance is not None or not found.get("num_changed")):
        return found
    advice = f"; to accept this, type --tolerance {max(1.5 * share, 1e-9):.2g}" if math.isfinite(share) else ""
    raise utils.Stop(f"{file_name}: its outputs differ from the net's {in_words(found)}; it is not kept{advice}")


def in_words(found: dict[str, Any]) -> str:
    """Return the result of `check_program` as the end of a sentence."""
    text = "by up to {largest_difference:.3g}, {largest_difference_as_share:.2g} of their standard deviation "
    text += "({tolerance:g} is accepted)"
    text += ", and {num_changed:,} of {num_predictions:,} predictions change" if "num_changed" in found else ""
    return text.format_map(found)


def run_in_fresh_process(path: Path, pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Arrays, Arrays]]:
    """Yield a program's outputs and the net's; raise Stop if the program does not run."""
    pairs = iter(pairs)
    first = next(pairs)
    # -I: Python imports nothing from this folder, the current one or PYTHONPATH
    command, pipe = [sys.executable, "-I", run_alone.__file__, *usage(path.name, first[0])], subprocess.PIPE
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(command, cwd=path.parent, stdin=pipe, stdout=pipe, stderr=stderr) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            for inputs, expected in itertools.chain([first], pairs):
                arrays = {name: tensor.numpy() for name, tensor in named(inputs, "inputs").items()}
                try:
                    pickle.dump(arrays, process.stdin)
                    process.stdin.flush()
                    outputs = pickle.load(process.stdout)
                except (OSError, EOFError, pickle.UnpicklingError) as error:  # the process has died
                    process.kill()  # or it has written something else, and waits
                    process.wait()
                    stderr.seek(0)
                    reason = stderr.read().decode("utf-8", "replace").strip().rpartition("\n")[2][:300] or "no message"
                    raise utils.Stop(f"the program does not run on examples of the data ({reason})") from error
                yield outputs, [each.numpy() for each in tensors_of(expected)]
        finally:
            process.kill()
            with contextlib.suppress(OSError):  # what is left in the pipe
                process.stdin.close()


def compare(batches: Iterable[tuple[Arrays, Arrays]], class_axis: int | None) -> dict[str, Any]:
    """Return how far outputs are from the expected outputs, over all batches; raise Stop if the shapes differ.

    `largest_difference_as_share` is a share of the standard deviation of the output over all batches. With a
    class_axis, `num_predictions` and `num_changed` count the largest entries along this axis of the first output.
    """
    worst: Any = 0.0  # the largest difference of each output
    sums: Any = 0.0
    changed = {} if class_axis is None else {"num_predictions": 0, "num_changed": 0}
    for outputs, expected in batches:
        shapes, expected_shapes = ([each.shape for each in side] for side in (outputs, expected))
        if shapes != expected_shapes:
            raise utils.Stop(f"the program's outputs have the shapes {shapes}, expected {expected_shapes}")
        worst = np.maximum(worst, [_difference(*pair) for pair in zip(outputs, expected, strict=True)])
        finite = [each[np.isfinite(each)].astype(np.float64) for each in expected]
        sums = sums + np.array([(each.size, each.sum(), (each**2).sum()) for each in finite])
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


def _spread(number: float, total: float, squares: float) -> float:
    """Return the standard deviation; for a constant, its size, but at least 1."""
    mean = total / max(number, 1)
    spread = math.sqrt(max(squares / max(number, 1) - mean**2, 0))
    return spread if spread > 1e-7 * abs(mean) else max(1.0, abs(mean))  # float32 has 7 digits
