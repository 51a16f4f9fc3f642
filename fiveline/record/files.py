"""Read files with a bound and a clear message, and write JSON that is always valid JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fiveline.record.atomic import write_atomically
from fiveline.record.errors import TOO_MANY_FILES, InputError

MAX_TEXT_BYTES = 16 * 2**20  # far more than any params or metrics file has
MAX_LINES_BYTES = 2**30  # the same for a history, which grows with each epoch
LONGEST_LINE = 2**16  # bytes of a history's line, about
# folders of Synology, QNAP, macOS, Windows and Linux: thumbnails, what archives carry along, waste bins
HIDDEN = {
    "@eadir", "#recycle", "#snapshot", "@recycle", "__macosx", "$recycle.bin", "system volume information",
    "lost+found",
}  # fmt: skip


def check_regular(path: Path | str, mode: int | None = None) -> None:
    """Raise InputError unless a path is a file with contents: a pipe could wait for ever, and a device has no end.

    Args:
        path: the file
        mode: st_mode of its stat, if the caller has it
    """
    mode = os.stat(path).st_mode if mode is None else mode  # noqa: PTH116  a Path for each image takes its time
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise InputError(f"{path}: {kinds.get(stat.S_IFMT(mode), 'a device')}; expected a regular file")


def read_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    """Read a file; an InputError says that it is not a regular one, or larger than `max_bytes`."""
    no_wait = getattr(os, "O_NONBLOCK", 0)  # else the opening of a pipe would wait
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | no_wait)) as file:  # noqa: PTH123
        status = os.fstat(file.fileno())
        check_regular(path, status.st_mode)
        if max_bytes is not None and status.st_size > max_bytes:
            raise InputError(f"{path}: {status.st_size:,} bytes; expected a text file below {max_bytes:,}")
        return file.read()


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES, errors: str = "strict") -> str:
    """Read a UTF-8 text file, without its byte-order mark; an InputError says why it cannot be read."""
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig", errors)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        if error.errno in TOO_MANY_FILES:  # not a mistake in this file
            raise
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        hint = "; save it as UTF-8 (PowerShell's > writes UTF-16)" if error.start == 0 else ""
        raise InputError(f"{path}: not a UTF-8 text file (byte {error.start}){hint}") from None


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


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; an InputError says that it is missing, unreadable, or holds no object."""
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


def read_lines(path: Path, is_growing: bool = False) -> list[dict[str, Any]]:
    """Read a file with one JSON object a line; a missing file has no lines, an InputError names a broken one.

    Args:
        path: the file
        is_growing: whether half a line at the end, which a writer left, is passed over
    """
    if not path.exists():
        return []
    # not splitlines(): JSON strings may hold other line ends, such as U+2028; half a line may end within a character
    *lines, last = read_text(path, MAX_LINES_BYTES, "replace" if is_growing else "strict").split("\n")
    rows = [_parse_object(line, f"{path}, line {i}") for i, line in enumerate(lines, start=1) if line.strip()]
    with contextlib.suppress(*([InputError] if is_growing else [])):
        rows += [_parse_object(last, f"{path}, line {len(lines) + 1}")] if last.strip() else []
    return rows


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by a system rather than by a person."""
    return name[0] == "." or name.lower() in HIDDEN


def files_below(folder: Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """Yield the names of all files below a folder, relative to it, with slashes, in the same order on every system.

    Hidden files and folders are left out. Folders that are links are followed, but not back to one above them.
    `onerror` is called with the error of each folder that cannot be read.
    """
    for parent, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if not is_hidden(name) and not _leads_back(here / name, folder))
        within = "" if here == folder else here.relative_to(folder).as_posix() + "/"
        yield from (within + name for name in sorted(names) if name[0] != ".")


def _leads_back(path: Path, top: Path) -> bool:
    """Return whether a folder below `top` is a link to one that it is in itself, which a walk would enter for ever."""
    if not os.path.islink(path):  # noqa: PTH114  Path.is_symlink raises where one may not look
        return False
    within = path.parent.relative_to(top)
    above = [Path(os.path.realpath(top / each)) for each in (within, *within.parents)]
    return any(each.is_relative_to(os.path.realpath(path)) for each in above)
