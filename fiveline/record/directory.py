"""A run directory from outside: the files that a run wrote, whether a process works there, and what --restart does.

--restart sets a run's files aside until the new run has saved its first checkpoint. A kill loses no file: a file in
MOVING has no other place, and REPLACED gets its name only when all files are in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from fiveline.record.errors import InputError
from fiveline.record.files import check_regular, read_json

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


def current_status(model_dir: Path, status: str) -> str:
    """Return the status that was read from run.json, or `stale` if that is `running` and no process holds the lock."""
    if status != "running" or is_held(model_dir):
        return status
    now = _read(model_dir / "run.json").get("status")  # it may have ended since
    return "stale" if now == "running" else str(now or "unknown")


def is_held(model_dir: Path) -> bool:
    """Return whether a process holds a run directory's lock; True also if that is unknown: Windows, another machine."""
    holder = model_dir / ".lock.json"  # exists while the directory is in use
    if os.name == "nt" or _read(holder).get("host") != socket.gethostname():
        return holder.exists()
    import fcntl

    try:
        check_regular(model_dir / ".lock")
        with (model_dir / ".lock").open() as file:  # closing it ends our shared lock
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (OSError, InputError) as error:
        return not isinstance(error, FileNotFoundError)
    return False


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(InputError, OSError):
        return read_json(path)
    return {}
