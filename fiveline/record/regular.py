"""Files that have contents and an end: not pipes, which one could wait for, nor devices."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fiveline.record.errors import InputError


def check_regular(path: Path | str, mode: int | None = None) -> None:
    """Check that a path is a file with contents: reading a pipe could wait for ever, and a device has no end.

    Args:
        path: the file
        mode: of its stat; None to look

    Raises:
        InputError: it is a folder, a pipe, a socket or a device
        OSError: there is no such file
    """
    mode = os.stat(path).st_mode if mode is None else mode  # noqa: PTH116  a Path for each image takes its time
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise InputError(f"{path}: {kinds.get(stat.S_IFMT(mode), 'a device')}; expected a regular file")


def read_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    """Return the contents of a regular file.

    Raises:
        InputError: it is not a regular file, or larger than `max_bytes`
        OSError: there is no such file, or it cannot be read
    """
    with open(path, "rb", opener=_open_at_once) as file:  # noqa: PTH123  which has no opener
        status = os.fstat(file.fileno())
        check_regular(path, status.st_mode)
        if max_bytes is not None and status.st_size > max_bytes:
            raise InputError(f"{path}: {status.st_size:,} bytes; expected a text file below {max_bytes:,}")
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # else the opening of a pipe would wait
