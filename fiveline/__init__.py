"""The engine behind the scripts. You do not need to edit it for a new net, dataset, metric, loss or task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fiveline.serving.loaded import Run

__version__ = "0.1.0"  # pyproject.toml and CITATION.cff repeat it, and a test compares them


def load(model_dir: str | Path, restore_file: str = "best", device: str | None = None) -> Run:
    """Return a trained run: `.model`, `.params`, `.classes`, `.predict(inputs)`; `print(run)` shows its layers.

    Args:
        model_dir: the run directory
        restore_file: best, last, or the path of a checkpoint
        device: cpu, cuda, cuda:1, mps; None for cuda where there is one

    Raises:
        InputError: there is no such checkpoint, or it does not fit its task
    """
    from fiveline.serving.loaded import Run  # imports torch

    return Run(Path(model_dir), restore_file, device)
