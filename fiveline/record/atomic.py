"""Write files that are never seen half written, whatever kills the writer; JSON that is always valid JSON."""

from __future__ import annotations

import contextlib
import json
import math
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
LONGEST_NAME = 255  # bytes, on most file systems
LONGEST_LINE = 2**16  # bytes of a history's line, about
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}(\.[\w-]+)?\.tmp")  # older versions added the host and the process
WRITTEN_UNDER_LOCK = (".pth.tar.", ".run.json.", ".history.jsonl.", "..lock.json.", ".metrics_val_best_weights.json.",
                      ".metrics_val_last_weights.json.")  # fmt: skip


def write_atomically(path: Path, data: bytes | memoryview, previous: Path | None = None) -> None:
    """Write `data` as `open_atomically` does."""
    with open_atomically(path, previous, len(data)) as file:
        file.write(data)


@contextlib.contextmanager
def open_atomically(
    path: Path, previous: Path | None = None, num_bytes: int | None = None, mode: int = 0o666
) -> Iterator[BinaryIO]:
    """Open a file to write; readers see the old file or the whole new one, also after an error or a power cut.

    Until the end, the bytes are in a temporary file in the same folder. An OSError names `path`, and when there is no
    room, the bytes that are needed and free. The old file is kept under the name `previous`, if given.
    A file that exists never gets more permissions than it has, whatever `mode` is.
    """
    temporary = temporary_path(path)
    if path.is_file() and not path.is_symlink():
        mode &= path.stat().st_mode
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # O_EXCL follows no link
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            keep_as(path, previous)
        _replace(temporary, path)
        if os.name != "nt":  # Windows opens no folders
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # else a power cut could undo the replacement
            finally:
                os.close(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) in ("None", str(temporary), str(path.parent)):
            raise _named(error, path, num_bytes) from error
        raise


def _named(error: OSError, path: Path, num_bytes: int | None) -> OSError:
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        needed = "" if num_bytes is None else f"{num_bytes:,} bytes are needed, "
        with contextlib.suppress(OSError):
            reason += f"; {needed}{shutil.disk_usage(path.parent).free:,} are free on the disk"
    return OSError(error.errno, reason, str(path))


def keep_as(path: Path, other: Path) -> None:
    """Give a file a second name, replacing what had that name; does nothing where there are no hard links."""
    temporary = temporary_path(other)
    with contextlib.suppress(OSError):  # FAT, some network file systems
        os.link(path, temporary)
        with contextlib.suppress(OSError):
            _replace(temporary, other)
        temporary.unlink(missing_ok=True)  # still there if both were names of one file already


def _replace(temporary: Path, path: Path) -> None:
    for seconds in PATIENCE:
        with contextlib.suppress(PermissionError):
            temporary.replace(path)
            return
        time.sleep(seconds)
    temporary.replace(path)


def temporary_path(path: Path) -> Path:
    """Return a new name beside a file that no one can guess: `.name.random.tmp`, of at most 255 bytes."""
    tail = f".{os.urandom(6).hex()}.tmp"
    return path.with_name("." + os.fsdecode(os.fsencode(path.name)[: LONGEST_NAME - 1 - len(tail)]) + tail)


def remove_stale(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a run directory, which the caller has locked.

    Only a lock's holder writes checkpoints and the record. Other scripts, evaluate.py for example, write their files
    without the lock, so those are left for a day.
    """
    for path in folder.glob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError, PermissionError):  # complete by now; on Windows, open
                is_own = any(name in path.name for name in WRITTEN_UNDER_LOCK)
                if is_own or time.time() - path.lstat().st_mtime > STALE_SECONDS:
                    path.unlink()


def to_json(value: Any, indent: int | None = 4) -> str:
    """Return `value` as JSON text; NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_without_nan(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return value


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate, from a name that is not UTF-8, as JSON's escape


def save_dict_to_json(values: Mapping[str, Any], json_path: Path | str) -> None:
    """Save a dict of numbers, strings, lists and dicts as a JSON file, atomically."""
    write_atomically(Path(json_path), _encoded(to_json(values) + "\n"))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_atomically(path, _encoded("".join(to_json(row, indent=None) + "\n" for row in rows)))


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append a JSON object to a file of one a line: the whole line, or nothing after an OSError; follow no link.

    Half a line at the end, of a process that died while it wrote, is removed first.
    """
    data = _encoded(to_json(row, indent=None) + "\n")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE))
        end = file.tell() + (file.read(LONGEST_LINE) or b"").rfind(b"\n") + 1
        file.truncate(end)
        file.seek(end)
        try:
            while data:  # a disk with little room takes a part first, then it reports that it is full
                data = data[file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
