"""Write files that are never seen half written, whatever kills the writer; JSON that is always valid JSON."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fiveline.record.errors import NO_ROOM

PATIENCE = (0.01, 0.05, 0.2, 0.5, 1.0) if os.name == "nt" else ()  # seconds; Windows replaces no file that is open
STALE_SECONDS = 24 * 60 * 60  # no process writes one file for this long
WRITTEN_UNDER_LOCK = (".pth.tar.", ".run.json.", ".history.jsonl.", "..lock.json.", "_weights.json.")
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}(\.[\w-]+)?\.tmp")  # older versions added the host and the process


def write_atomically(path: Path, data: bytes | memoryview, previous: Path | None = None) -> None:
    """Write `data` as `open_atomically` does."""
    with open_atomically(path, previous) as file:
        file.write(data)


@contextlib.contextmanager
def open_atomically(path: Path, previous: Path | None = None, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a file to write; readers see the old file or the whole new one. `previous`: a name to keep the old one."""
    temporary = temporary_path(path)
    if path.is_file() and not path.is_symlink():  # it never gets more permissions
        mode &= path.stat().st_mode
    try:
        # "x" follows no link
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:  # noqa: PTH123
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            with contextlib.suppress(OSError):  # no hard links on FAT, for example
                previous.unlink(missing_ok=True)
                os.link(path, previous)
        _replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) in ("None", str(temporary), str(path.parent)):
            free = f"; {shutil.disk_usage(path.parent).free:,} bytes are free" if error.errno in NO_ROOM else ""
            raise OSError(error.errno, (error.strerror or str(error)) + free, str(path)) from error
        raise


def _replace(temporary: Path, path: Path) -> None:
    for seconds in PATIENCE:
        with contextlib.suppress(PermissionError):
            temporary.replace(path)
            return
        time.sleep(seconds)
    temporary.replace(path)
    if os.name != "nt":  # Windows opens no folders
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # else a power cut could undo the replacement
        os.close(folder)


def temporary_path(path: Path) -> Path:
    """Return a new name beside a file that no one can guess: `.name.random.tmp`."""
    return path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")


def remove_stale(folder: Path) -> None:
    """Remove temporary files of killed processes from a locked run directory; others may write theirs, for a day."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # complete by now; on Windows, open
            is_own = any(name in path.name for name in WRITTEN_UNDER_LOCK)
            is_over = is_own or time.time() - path.lstat().st_mtime > STALE_SECONDS
            if is_over and TEMPORARY.fullmatch(path.name):
                path.unlink()


def to_json(value: Any, indent: int | None = 4) -> str:
    """Return `value` as JSON text; NaN and infinities, which JSON does not have, become null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return json.dumps(finite, indent=indent, ensure_ascii=False)


def to_bytes(value: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Return one JSON object as the bytes of a file; a lone surrogate, from a name that is not UTF-8, is escaped."""
    return (to_json(value, indent) + "\n").encode("utf-8", "backslashreplace")


def save_dict_to_json(values: Mapping[str, Any], json_path: Path | str) -> None:
    """Save a dict of numbers, strings, lists and dicts as a JSON file, atomically."""
    write_atomically(Path(json_path), to_bytes(values, indent=4))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_atomically(path, b"".join(map(to_bytes, rows)))


def open_no_link(name: str, flags: int) -> int:
    """Open a file of a run to append to it, but no link, and no pipe, which could wait for ever."""
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append a JSON object as a line: the whole line, or nothing after an OSError; follow no link."""
    data = to_bytes(row)
    with open(path, "ab", buffering=0, opener=open_no_link) as file:  # noqa: PTH123
        end = file.tell()
        try:
            while data:  # a disk with little room takes a part first, then it reports that it is full
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise
