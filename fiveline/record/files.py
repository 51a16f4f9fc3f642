"""Read files with a bound and a clear message; the cells of CSV files."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fiveline.record.errors import TOO_MANY_FILES, InputError

MAX_TEXT_BYTES = 16 * 2**20  # far more than any params or metrics file has
MAX_LINES_BYTES = 2**30  # the same for a history, which grows with each epoch
# folders of Synology, QNAP, macOS, Windows and Linux: thumbnails, what archives carry along, waste bins
HIDDEN = {"@eadir", "#recycle", "#snapshot", "@recycle", "__macosx", "$recycle.bin", "system volume information",
          "lost+found"}  # fmt: skip
# How a formula begins, unless it is a number, or a line of stdin (`-:12`) as predict.py names it. Apostrophes may come
# first: `from_cell` must tell ours from one of the text's own.
FORMULA = re.compile(r"(?!-:\d+\Z|[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\Z)[ ']*[=+\-@\t\r\n＝＋－＠]", re.ASCII)


def check_regular(path: Path | str) -> None:
    """Raise InputError for a pipe, which could wait for ever, or a device, which has no end."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  a Path for each image takes its time
        raise InputError(f"{path}: a folder, a pipe or a device; expected a regular file")


def read_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    """Read a file; an InputError says that it is missing, unreadable, not a regular one, or above `max_bytes`."""
    try:
        check_regular(path)
        if max_bytes is not None and (size := path.stat().st_size) > max_bytes:
            raise InputError(f"{path}: {size:,} bytes; expected a text file below {max_bytes:,}")
        return path.read_bytes()
    except OSError as error:
        if error.errno in TOO_MANY_FILES:  # not a mistake in this file
            raise
        reason = f"cannot be read ({error.strerror})" if error.errno != errno.ENOENT else "there is no such file"
        raise InputError(f"{path}: {reason}") from None


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES, errors: str = "strict") -> str:
    """Read a UTF-8 text file, without its byte-order mark; an InputError says why it cannot be read."""
    return decode(read_bytes(path, max_bytes), path, errors)


def decode(data: bytes, path: Path, errors: str = "strict") -> str:
    """Return the text of a file's bytes, as `read_text` does."""
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        hint = "; save it as UTF-8 (PowerShell's > writes UTF-16)" if error.start == 0 else ""
        raise InputError(f"{path}: not a UTF-8 text file (byte {error.start}){hint}") from None


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


def read_lines(path: Path, is_growing: bool = False) -> list[dict[str, Any]]:
    """Read one JSON object a line, none of a missing file; `is_growing`: skip half a line that a writer left."""
    if not path.exists():
        return []
    # not splitlines(): JSON strings may hold other line ends, such as U+2028; half a line may end within a character
    *lines, last = read_text(path, MAX_LINES_BYTES, "replace" if is_growing else "strict").split("\n")
    rows = [_parse_object(line, f"{path}, line {i}") for i, line in enumerate(lines, start=1) if line.strip()]
    with contextlib.suppress(*[InputError] * is_growing):
        rows += [_parse_object(last, f"{path}, line {len(lines) + 1}")] if last.strip() else []
    return rows


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by a system rather than by a person."""
    return name[0] == "." or name.lower() in HIDDEN


def files_below(folder: Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """Yield the names of all files below a folder, relative to it, with slashes, sorted; hidden ones are left out."""
    for parent, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if not is_hidden(name) and not _leads_back(here / name))
        within = "" if here == folder else here.relative_to(folder).as_posix() + "/"
        yield from (within + name for name in sorted(names) if name[0] != ".")


def _leads_back(path: Path) -> bool:
    """Return whether a folder is a link to one that it is in itself, which a walk would enter for ever."""
    is_link = os.path.islink(path)  # noqa: PTH114  Path.is_symlink raises where one may not look
    return is_link and any(each.resolve().is_relative_to(path.resolve()) for each in path.parents)


def csv_lines(rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """Yield rows of cells as lines of CSV; `'` before a spreadsheet's formula, `=1+1`, which `from_cell` removes."""
    for row in rows:
        line = io.StringIO(newline="")
        csv.writer(line).writerow([f"'{x}" if isinstance(x, str) and FORMULA.match(x) else x for x in row])
        yield line.getvalue().removesuffix("\r\n") + "\n"


def from_cell(text: str) -> str:
    """Return the text that `csv_lines` wrote as this cell."""
    return text[1:] if text.startswith("'") and FORMULA.match(text[1:]) else text
