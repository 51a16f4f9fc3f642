"""Check that an exported program, in a process that cannot import this project, computes what its net computes."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

import utils
from fiveline.serving.run_alone import __file__ as script
from fiveline.serving.run_alone import convert

TOLERANCE = 1e-4  # largest accepted difference, as a share of the standard deviation of the net's outputs


def check_program(
    path: Path, pairs: Iterable[tuple[Any, Any]], class_axis: int | None = None, tolerance: float | None = None
) -> dict[str, float]:
    """Return how far a program's outputs are from the net's, as `run_alone.compare` does.

    Args:
        path: the program; its suffix is the format
        pairs: inputs and the net's outputs
        class_axis: from `find_class_axis`
        tolerance: the user's, which also lets predictions change; None for TOLERANCE, and then none may change

    Raises:
        Stop: the program does not run, or its outputs are too far off
    """
    found = run_in_fresh_process(path, pairs, class_axis)
    share, limit = found["largest_difference_as_share"], TOLERANCE if tolerance is None else tolerance
    if share <= limit and (tolerance is not None or not found.get("num_changed")):
        return {**found, "tolerance": limit}
    advice = f"; to accept this, type --tolerance {max(1.5 * share, 1e-9):.2g}" if math.isfinite(share) else ""
    raise utils.Stop(
        f"--format {path.suffix[1:]}: the program's outputs differ from the net's by up to "
        f"{found['largest_difference']:.3g}, {share:.2g} of their standard deviation ({limit:g} is accepted)"
        f"{changes(found)}; it is not kept{advice}"
    )


def changes(found: dict[str, Any]) -> str:
    """Return how many predictions change, in words; nothing if there are no classes."""
    if "num_changed" not in found:
        return ""
    return f", and {found['num_changed']:,} of {found['num_predictions']:,} predictions change"


def run_in_fresh_process(
    path: Path, pairs: Iterable[tuple[Any, Any]], class_axis: int | None = None
) -> dict[str, float]:
    """Return what `run_alone.compare` returns for a program; raise Stop if the program does not run."""
    # -I: Python imports nothing from this folder, the current one or PYTHONPATH
    command = [sys.executable, "-I", script, str(path.resolve()), json.dumps(class_axis)]
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command, cwd=path.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        )
        assert process.stdin is not None
        try:
            for pair in pairs:
                arrays = [convert(Tensor.numpy, side) for side in pair]
                try:
                    pickle.dump(arrays, process.stdin)
                except OSError:  # the process has died; its last line says why
                    break
        except BaseException:
            process.kill()
            raise
        finally:
            output = process.communicate()[0]
        if process.returncode != 0:
            stderr.seek(0)
            lines = stderr.read().decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise utils.Stop(f"the exported program does not run on examples of the data ({lines[-1].strip()[:300]})")
        found: dict[str, float] = json.loads(output)
        return found
