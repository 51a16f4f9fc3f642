"""Rows of predictions as lines of text, made one after the other."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import utils

COLUMNS = ("id", "prediction", "confidence", "lower", "upper", "error")  # of every task; what it has not is empty
SUFFIXES = (".csv", ".jsonl")


def to_lines(rows: Iterable[Mapping[str, Any]], suffix: str) -> Iterator[str]:
    """Yield CSV, with a header, or JSON lines, which have no more than each row has, and all of it.

    Args:
        rows: with the keys in COLUMNS, and perhaps more of the task's own
        suffix: one of SUFFIXES
    """
    if suffix == ".jsonl":
        yield from (utils.to_json(row, indent=None) + "\n" for row in rows)
        return
    yield from utils.csv_lines(_cells(rows))


def _cells(rows: Iterable[Mapping[str, Any]]) -> Iterator[Iterable[Any]]:
    for number, row in enumerate(rows):
        if number == 0:  # not before there is a row: what is wrong with all of them is told without it
            yield COLUMNS
        yield [row.get(name) for name in COLUMNS]


def write_lines(lines: Iterable[str], output: Path | None) -> None:
    """Write lines as they come, to standard output, or to a file that others see when it is whole.

    Raises:
        OSError: the file cannot be written
    """
    if output is None:
        if not sys.stdout.isatty() and hasattr(sys.stdout, "reconfigure"):  # as in a file, on Windows too
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
        for line in lines:
            print(line, end="", flush=True)
        return
    with utils.open_atomically(output) as file:
        for line in lines:
            file.write(line.encode("utf-8", "backslashreplace"))  # a file's name may be no text
