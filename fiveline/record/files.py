"""Files that are never seen half written, and JSON that is always valid JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from fiveline.record.errors import NO_ROOM, TOO_MANY_FILES, InputError
from fiveline.record.regular import read_bytes
from fiveline.record.temporary import temporary_path

MAX_TEXT_BYTES = 16 * 2**20  # far above any params or metrics file; a larger one is not one
MAX_LINES_BYTES = 2**30  # the same for a history, which grows with each epoch
PATIENCE = (0.01, 0.05, 0.2, 0.5, 1.0) if os.name == "nt" else ()  # seconds; elsewhere, readers are in nobody's way
LONGEST_LINE = 2**16  # bytes of a history's line, about
ROW_START = '{"epoch": '  # of each line of a history


def write_atomically(path: Path, data: bytes | Sequence[bytes | memoryview], previous: Path | None = None) -> None:
    """Write `data` so that a reader sees the old file or the new one, whole, even after a power cut.

    Args:
        path: the file
        data: all of it, perhaps in parts
        previous: what to call the old file from then on; None to drop it

    Raises:
        OSError: it cannot be written; names `path`, and where there is no room, says how much is needed and free
    """
    parts = [data] if isinstance(data, bytes) else data
    with open_atomically(path, previous, sum(map(len, parts))) as file:
        file.writelines(parts)


@contextlib.contextmanager
def open_atomically(
    path: Path, previous: Path | None = None, num_bytes: int | None = None, mode: int = 0o666
) -> Iterator[BinaryIO]:
    """Open a file to write piece by piece; a reader sees it when all of it is there, and not at all after an error.

    The bytes go to a temporary file in the same folder and to the disk, then take the place of `path` in one step.

    Args:
        path: the file
        previous: what to call the old file from then on; None to drop it
        num_bytes: how many there will be, if that is known, to say it where there is no room
        mode: the most permissions that it may get

    Raises:
        OSError: as `write_atomically` says
    """
    temporary = temporary_path(path)
    try:
        with _create(temporary, path, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            keep_as(path, previous)
        _replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # on a disk that cannot be written, the first error is the one to report
            temporary.unlink(missing_ok=True)
        names = ("None", str(temporary), str(path.parent))
        if isinstance(error, OSError) and str(error.filename) in names:  # not an error of the caller's reading
            raise _named(error, path, num_bytes) from error
        raise


def _create(temporary: Path, path: Path, mode: int) -> BinaryIO:
    """Open a new file (O_EXCL follows no link) that is to replace another, with no more permissions than that has."""
    if path.is_file() and not path.is_symlink():
        mode &= path.stat().st_mode
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(temporary, flags, mode), "wb")


def _named(error: OSError, path: Path, num_bytes: int | None) -> OSError:
    """Return an error of writing that names the file, not the temporary one, and how much room it needs."""
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        needed = "" if num_bytes is None else f"{num_bytes:,} bytes are needed, "
        with contextlib.suppress(OSError):
            reason += f"; {needed}{shutil.disk_usage(path.parent).free:,} are free on the disk"
    return OSError(error.errno, reason, str(path))


def keep_as(path: Path, other: Path) -> None:
    """Give a file a second name, in place of what had that name; does nothing where there are no hard links."""
    temporary = temporary_path(other)
    with contextlib.suppress(OSError):  # FAT, some network file systems
        os.link(path, temporary)
        with contextlib.suppress(OSError):
            _replace(temporary, other)
        temporary.unlink(missing_ok=True)  # still there if both were names of one file already


def _replace(temporary: Path, path: Path) -> None:
    """Put a file in the place of another; on Windows, wait a little for whoever reads that, a virus scanner for one."""
    for seconds in PATIENCE:
        with contextlib.suppress(PermissionError):
            temporary.replace(path)
            return
        time.sleep(seconds)
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make the replacement itself durable: the folder's entry is data of its own."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any, indent: int | None = 4) -> str:
    """Return `value` as JSON text; numbers that JSON does not have (NaN, infinities) become null."""
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
    """Return JSON as UTF-8; half a character, as in a path that is no UTF-8, becomes JSON's escape for it."""
    return text.encode("utf-8", "backslashreplace")


def save_dict_to_json(values: Mapping[str, Any], json_path: Path | str) -> None:
    """Save a dict of numbers, strings, lists and dicts as a JSON file, atomically."""
    write_atomically(Path(json_path), _encoded(to_json(values) + "\n"))


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES, errors: str = "strict") -> str:
    """Return a small UTF-8 text file (a byte-order mark is dropped).

    Raises:
        InputError: there is no such file, it is not UTF-8, or it is far too large to be what it should be
        OSError: there are too many open files, which says nothing about this one
    """
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig", errors)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        if error.errno in TOO_MANY_FILES:  # which says nothing about this one
            raise
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        hint = "; save it as UTF-8 (PowerShell's > writes UTF-16)" if error.start == 0 else ""
        raise InputError(f"{path}: not a UTF-8 text file (byte {error.start}){hint}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InputError: the file is missing, unreadable or holds no JSON object
    """
    return _parse_object(read_text(path), str(path))


def _parse_object(text: str, source: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: broken, or a number of more digits than Python reads
        raise InputError(f"{source}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{source}: expected a JSON object {{...}}, found {type(value).__name__}")
    return value


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_atomically(path, _encoded("".join(to_json(row, indent=None) + "\n" for row in rows)))


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add a JSON object to a file of one a line: the whole line, or nothing after an error.

    Half a line at the end, of a process that died while it wrote, is removed first. A link is not followed.

    Raises:
        OSError: it cannot be written
    """
    data = _encoded(to_json(row, indent=None) + "\n")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE))
        end = file.tell() + (file.read(LONGEST_LINE) or b"").rfind(b"\n") + 1
        file.truncate(end)
        file.seek(end)
        try:
            while data:  # a disk with little room takes a part first, then it says that it is full
                data = data[file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def read_lines(path: Path, is_growing: bool = False) -> list[dict[str, Any]]:
    """Return the JSON objects of a file of one a line; no file is no lines.

    Args:
        path: the file
        is_growing: whether to pass over what a writer left half written: the last line, or what stands before a
            whole row of a history in one line (older versions went on behind half a line)

    Raises:
        InputError: the file is unreadable, or one of its lines is no JSON object
    """
    if not path.exists():
        return []
    # not splitlines(): JSON strings may hold other line ends, such as U+2028; half a line may end within a character
    *lines, last = read_text(path, MAX_LINES_BYTES, "replace" if is_growing else "strict").split("\n")
    parse = _parse_last_object if is_growing else _parse_object
    found = [parse(line, f"{path}, line {i}") for i, line in enumerate(lines, start=1) if line.strip()]
    if last.strip():
        with contextlib.suppress(*([InputError] if is_growing else [])):
            found.append(parse(last, f"{path}, line {len(lines) + 1}"))
    return found


def _parse_last_object(line: str, source: str) -> dict[str, Any]:
    try:
        return _parse_object(line, source)
    except InputError:
        start = line.rfind(ROW_START)
        if start <= 0:
            raise
        return _parse_object(line[start:], source)
