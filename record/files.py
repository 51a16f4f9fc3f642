"""Files that are never seen half written, and JSON that is always valid JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from record.errors import NO_ROOM, InputError

MAX_TEXT_BYTES = 16 * 2**20  # far above any params or metrics file; a larger one is not one
MAX_LINES_BYTES = 2**30  # the same for a history, which grows with each epoch
PATIENCE = (0.01, 0.05, 0.2, 0.5, 1.0) if os.name == "nt" else ()  # seconds; elsewhere, readers are in nobody's way
STALE_SECONDS = 24 * 60 * 60  # nobody has been writing a file for that long


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
def open_atomically(path: Path, previous: Path | None = None, num_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Open a file to write piece by piece; a reader sees it when all of it is there, and not at all after an error.

    The bytes go to a temporary file in the same folder and to the disk, then take the place of `path` in one step.

    Args:
        path: the file
        previous: what to call the old file from then on; None to drop it
        num_bytes: how many there will be, if that is known, to say it where there is no room

    Raises:
        OSError: as `write_atomically` says
    """
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            keep_as(path, previous)
        _replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # on a disk that cannot be written, the first error is the one to tell
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):  # not one of the caller's reading
            raise _named(error, path, num_bytes) from error
        raise
    _sync_folder(path.parent)


def _named(error: OSError, path: Path, num_bytes: int | None) -> OSError:
    """Return an error of writing that names the file, not the temporary one, and how much room it needs."""
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        needed = "" if num_bytes is None else f"{num_bytes:,} bytes are needed, "
        reason += f"; {needed}{shutil.disk_usage(path.parent).free:,} are free on the disk"
    return OSError(error.errno, reason, str(path))


def keep_as(path: Path, other: Path) -> None:
    """Give a file a second name, in place of what had that name; does nothing where there are no hard links."""
    temporary = _temporary(other)
    try:
        os.link(path, temporary)
    except OSError:  # FAT, some network file systems
        return
    _replace(temporary, other)


def _replace(temporary: Path, path: Path) -> None:
    """Put a file in the place of another; on Windows, wait a little for whoever reads that, a virus scanner for one."""
    for seconds in PATIENCE:
        with contextlib.suppress(PermissionError):
            temporary.replace(path)
            return
        time.sleep(seconds)
    temporary.replace(path)


def _temporary(path: Path) -> Path:
    """Return what a file is called while this process writes it; its number means something on its machine only."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}.tmp")


def _host() -> str:
    return re.sub(r"[^\w-]", "_", socket.gethostname())


def remove_stale(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote.

    What another process is writing stays: who trains has the directory's lock, but evaluate.py, for one, writes its
    scores there without. Whether a process of another machine is alive cannot be asked; its file is left for a day,
    but for a checkpoint, which may be large: only who has the lock writes one, and here that is the caller.
    """
    for path in folder.glob(".*.tmp"):
        host, _, process = path.name.split(".")[-2].rpartition("-")
        if not process.isdecimal():
            continue
        with contextlib.suppress(FileNotFoundError, PermissionError):  # it is whole by now; Windows removes no open one
            is_old = ".pth.tar." in path.name or time.time() - path.stat().st_mtime > STALE_SECONDS
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


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return a small UTF-8 text file (a byte-order mark is dropped).

    Raises:
        InputError: there is no such file, it is not UTF-8, or it is far too large to be what it should be
    """
    try:
        if path.stat().st_size > max_bytes:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes; expected a text file below {max_bytes:,}")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
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


def read_lines(path: Path, is_growing: bool = False) -> list[dict[str, Any]]:
    """Return the JSON objects of a file of one a line; no file is no lines.

    Args:
        path: the file
        is_growing: whether half a line at its end is to be expected, and passed over

    Raises:
        InputError: the file is unreadable, or one of its lines is no JSON object
    """
    if not path.exists():
        return []
    # not splitlines(): JSON strings may hold other line ends, U+2028 for one
    *lines, last = read_text(path, MAX_LINES_BYTES).split("\n")
    found = [_parse_object(line, f"{path}, line {i}") for i, line in enumerate(lines, start=1) if line.strip()]
    if last.strip():
        # it may be half a line: still being written, or a machine died while it was
        with contextlib.suppress(*([InputError] if is_growing else [])):
            found.append(_parse_object(last, f"{path}, line {len(lines) + 1}"))
    return found
