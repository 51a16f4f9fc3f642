"""Find the run directories below a folder and read their files, whatever they hold.

A file that is torn, foreign, huge or unreadable costs its own values and adds one line to `problems`.
"""

from __future__ import annotations

import os
import reprlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fiveline.record import files
from fiveline.record.errors import InputError

PARAMS_FILES = ("params.json", "params.yaml", "params.yml")
SCALARS = {str, int, float, bool, type(None)}


def walk(parent_dir: str, problems: list[str]) -> Iterator[tuple[str, set[str]]]:
    """Yield each folder with the names of its files. Hidden folders are skipped, and no folder is visited twice."""
    root, seen = Path(parent_dir).resolve(), set[tuple[int, int]]()

    def is_new(path: str) -> bool:
        if os.path.islink(path):  # noqa: PTH114  building Path objects dominates the time for thousands of runs
            place = Path(path).resolve()
            if place.is_relative_to(root) or root.is_relative_to(place):
                return False
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError:
            return True  # os.walk reports it
        num_seen = len(seen)
        seen.add((status.st_dev, status.st_ino))
        return len(seen) > num_seen

    def report(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read ({error.strerror})")

    for folder, folders, names in os.walk(parent_dir, onerror=report, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "." and is_new(f"{folder}/{name}")]
        yield folder, set(names)


def read_json(folder: str, name: str, problems: list[str]) -> dict[str, Any]:
    """Return the JSON object in a file; empty if it cannot be read."""
    try:
        return files.read_json(Path(folder, name))
    except (InputError, OSError) as error:
        problems.append(str(error))
        return {}


def read_params(folder: str, names: set[str], problems: list[str]) -> dict[str, Any]:
    """Return the hyperparameters of a params file, the JSON one before the YAML one; empty if there is none."""
    from fiveline.record.params_file import read_values  # PyYAML, which folders with a run.json do not need

    name = next((name for name in PARAMS_FILES if name in names), None)
    try:
        return read_values(Path(folder, name))[0] if name else {}
    except (InputError, OSError) as error:
        problems.append(str(error))
        return {}


def plain_params(params: Mapping[Any, Any]) -> dict[str, Any]:
    """Return hyperparameters that are scalars or lists of scalars as they are, and others, of other code, cut short."""

    def plain(value: Any) -> Any:
        is_plain = type(value) in SCALARS or (type(value) is list and set(map(type, value)) <= SCALARS)
        return value if is_plain else reprlib.repr(value)

    return {sys.intern(str(name)): plain(value) for name, value in params.items()}  # thousands have the same names
