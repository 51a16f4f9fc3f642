"""The lock of a run directory: one process at a time works in it."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()  # descriptors of the folders that this process has locked


def _close_in_child() -> None:
    """Close a data loading process's copies of the descriptors: it may outlive its parent, whose lock must end."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class DirectoryLock:
    """Locks the file `.lock` and also the folder itself, because `.lock` can be removed while it is held.

    NFS and Windows lock no folders; there, only `.lock` counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self._folder = FileLock(path / ".lock"), -1

    def acquire(self) -> None:
        """Take both; a Timeout says that another process has one of them."""
        self._file.acquire(timeout=0)
        if fcntl is None:
            return
        self._folder = os.open(self.path, os.O_RDONLY)
        _held.add(self._folder)
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Timeout(str(self.path)) from None
        except OSError:  # NFS
            pass

    def release(self) -> None:
        """Release what is held."""
        if self._folder in _held:
            _held.remove(self._folder)
            os.close(self._folder)
        self._file.release()

    def is_in_place(self) -> bool:
        """Return whether the path still leads to the folder that was locked: it was not moved, nor made again."""
        try:
            return self._folder not in _held or os.path.samestat(os.fstat(self._folder), self.path.stat())
        except FileNotFoundError:
            return False
