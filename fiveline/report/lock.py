"""Whether a process works in a run directory, without being in its way."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from fiveline.record.files import MAX_TEXT_BYTES, read_bytes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def is_held(model_dir: Path) -> bool:
    """Return whether a process holds the lock of a run directory, as `record/run.py` takes it.

    Where that cannot be known (the lock was taken on another machine of a shared disk, or on Windows), it is held. To
    ask is to take a shared lock for a moment, which succeeds only where nobody works; it is for runs that say they are
    `running`, and once they are found not to be, they are not asked again.
    """
    try:
        holder = json.loads(read_bytes(model_dir / ".lock.json", MAX_TEXT_BYTES))
    except FileNotFoundError:
        return False  # it is there as long as the directory is in use
    except (OSError, ValueError, RecursionError):
        return True
    if fcntl is None or not isinstance(holder, dict) or holder.get("host") != socket.gethostname():
        return True
    return _is_locked(model_dir) or _is_locked(model_dir / ".lock")


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # NFS locks no folders, but files
        return path.is_file()
    finally:
        os.close(descriptor)  # which gives the lock back as well
    return False
