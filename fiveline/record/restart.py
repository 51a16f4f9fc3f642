"""What `--restart` replaces: a run's files are set aside until the new run has saved its first checkpoint.

Whenever the process is killed, no file is lost. A file in MOVING has no other place; REPLACED gets its name only when
all files are in it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

PRODUCTS = (  # all that a run writes
    "scored_*.json", "shares_*.npz", "metrics_*.json", "predictions_*.csv", "per_class_*.csv", "run.json",
    "history.jsonl", "train.log", "evaluate.log", "output.txt", "last.pth.tar", "best.pth.tar",
    "last.previous.pth.tar", "last.damaged.pth.tar", "events.out.tfevents.*", "profile.json.gz",
)  # fmt: skip
REPLACED, MOVING = ".replaced", ".moving"


def set_aside(model_dir: Path) -> None:
    """Set the files that a run wrote aside, or delete them if the run has no checkpoint; other files stay."""
    if _has_checkpoint(model_dir):
        moving = model_dir / MOVING
        moving.mkdir(exist_ok=True)
        for path in products(model_dir):
            path.replace(moving / path.name)
        moving.rename(model_dir / REPLACED)
    for path in products(model_dir):
        path.unlink()


def delete_or_restore(model_dir: Path) -> None:
    """Delete the files that were set aside if there is a new checkpoint; otherwise restore them."""
    replaced, moving = model_dir / REPLACED, model_dir / MOVING
    if replaced.is_dir() and _has_checkpoint(model_dir):
        shutil.rmtree(replaced)
    elif replaced.is_dir():
        for path in products(model_dir):
            path.unlink()
        replaced.rename(moving)
    for path in sorted(moving.glob("*")):
        path.replace(model_dir / path.name)
    if moving.is_dir():
        moving.rmdir()


def _has_checkpoint(model_dir: Path) -> bool:
    return any(path.suffix == ".tar" for path in products(model_dir))


def products(model_dir: Path) -> list[Path]:
    """Return the files in a directory that a run wrote."""
    return [path for pattern in PRODUCTS for path in sorted(model_dir.glob(pattern))]
