"""What a file is called while it is written, and who removes it when its writer was killed."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from pathlib import Path

STALE_SECONDS = 24 * 60 * 60  # no process writes one file for this long
LONGEST_NAME = 255  # bytes, on most file systems


def temporary_path(path: Path) -> Path:
    """Return a new name beside a file, `.name.random.host-process.tmp`, that cannot be guessed.

    A process's number means something on its machine only. A name as long as names may be is cut: 255 bytes hold both.
    """
    tail = f".{os.urandom(6).hex()}.{_host()}-{os.getpid()}.tmp"
    name = os.fsdecode(os.fsencode(path.name)[: LONGEST_NAME - 1 - len(tail)])
    return path.with_name(f".{name}{tail}")


def _host() -> str:
    return re.sub(r"[^\w-]", "_", socket.gethostname())


def remove_stale(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote.

    Files that another process is writing stay: a training has the directory's lock, but evaluate.py writes its scores
    there without it. Whether a process of another machine is alive is unknown here; its file is left for a day. A
    checkpoint, which may be large, is not: only the lock's holder writes one, and here that is the caller.
    """
    for path in folder.glob(".*.tmp"):
        host, _, process = path.name.split(".")[-2].rpartition("-")
        if not process.isdecimal():
            continue
        with contextlib.suppress(FileNotFoundError, PermissionError):  # it is whole by now; Windows removes no open one
            is_old = ".pth.tar." in path.name or time.time() - path.lstat().st_mtime > STALE_SECONDS
            if is_old if host != _host() else not _is_another(int(process)):
                path.unlink()


def _is_another(process: int) -> bool:
    """Return whether another process has this number now; on Windows, where to ask is to interrupt it, never."""
    if process == os.getpid() or os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        pass
    return True
