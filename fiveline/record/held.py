"""Find out from outside whether a process works in a run directory."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

from fiveline.record.errors import InputError
from fiveline.record.files import read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def current_status(model_dir: Path, status: str) -> str:
    """Return the status that was read from run.json, or `stale` if that is `running` and no process holds the lock."""
    if status != "running" or is_held(model_dir):
        return status
    now = _read(model_dir / "run.json").get("status")  # it may have ended since
    return "stale" if now == "running" else str(now or "unknown")


def is_held(model_dir: Path) -> bool:
    """Return whether a process holds the lock of a run directory, as `record/run.py` takes it, or might hold it.

    That is unknown on Windows, or on a shared disk for a lock of another machine. The check takes a shared lock for a
    moment, which succeeds only where no process works.
    """
    holder = model_dir / ".lock.json"  # exists while the directory is in use
    is_here = holder.exists() and _read(holder).get("host") == socket.gethostname()
    if fcntl is None or not is_here:
        return holder.exists()
    try:
        no_wait = lambda name, flags: os.open(name, flags | os.O_NONBLOCK)  # noqa: E731  opening a pipe could wait
        with open(model_dir / ".lock", opener=no_wait) as file:  # noqa: PTH123  closing it releases the lock
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    return False


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(InputError, OSError):
        return read_json(path)
    return {}
