"""The check that an exported program, in a process that cannot see this project, computes what the net does."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import utils
from fiveline.serving import run_alone
from fiveline.serving.interface import Interface, named

TOLERANCE = 1e-4  # of a difference from the net's outputs, as a share of their standard deviation over the split


def run_in_fresh_process(
    path: Path,
    format_name: str,
    interface: Interface,
    batches: Iterable[tuple[Any, Any]],
    class_axis: int | None = None,
) -> dict[str, float]:
    """Return how far a program's outputs are from the net's, as `run_alone.compare` says.

    Args:
        path: the program
        format_name: as in export.py's --format
        interface: of the inputs
        batches: inputs and the net's outputs; taken and passed on one after the other
        class_axis: of the first output, along which the largest entry is the prediction; None if there are no classes

    Raises:
        Stop: the program does not run on them; says what it stumbled over
    """
    # -I: neither this folder, nor the current one, nor PYTHONPATH is where Python looks for modules
    axis = "none" if class_axis is None else str(class_axis)
    command = [sys.executable, "-I", run_alone.__file__, str(path.resolve()), format_name, interface.kind, axis]
    with tempfile.TemporaryDirectory() as elsewhere, tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [*command, *interface.shapes], cwd=elsewhere, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        )
        assert process.stdin is not None
        try:
            for inputs, outputs in batches:
                packed = _pack(inputs, outputs)
                try:
                    process.stdin.write(b"%d\n" % len(packed))
                    process.stdin.write(packed)
                except OSError:  # the pipe broke: it has died, and says why
                    break
        except BaseException:
            process.kill()
            raise
        finally:
            output = process.communicate()[0]
        if process.returncode != 0:
            stderr.seek(0)
            told = stderr.read().decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
            raise utils.Stop(f"the exported program does not run on examples of the data ({told[-1].strip()[:300]})")
        found: dict[str, float] = json.loads(output)
        return found


def _pack(inputs: Any, outputs: Any) -> bytes:
    sides = {"in": named(inputs, "inputs"), "out": named(outputs, "outputs")}
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        f"{side}_{i}": t.numpy() for side, tensors in sides.items() for i, t in enumerate(tensors.values())
    }
    np.savez(buffer, **arrays)
    return buffer.getvalue()
