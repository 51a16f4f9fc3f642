"""Rows of predictions as lines of text, made one after the other."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import utils

SUFFIXES = (".csv", ".jsonl")
PROBABILITY = "probability_"  # and the name of the class


def to_lines(rows: Iterable[Mapping[str, Any]], suffix: str) -> Iterator[str]:
    """Yield CSV, with a header, or JSON lines, which have the same keys, but for empty ones.

    Args:
        rows: with an `id`, and an `error` or the same further keys as all rows without one
        suffix: one of SUFFIXES
    """
    if suffix == ".jsonl":
        for row in rows:
            yield utils.to_json({key: row[key] for key in row if row[key] is not None}, indent=None) + "\n"
        return
    yield from utils.csv_lines(_cells(rows))


def _cells(rows: Iterable[Mapping[str, Any]]) -> Iterator[Iterable[Any]]:
    """Yield the header and then the cells; the first row that is not broken decides the columns."""
    rows, waiting = iter(rows), []
    for row in rows:
        waiting.append(row)
        if "error" not in row:
            break
    if not waiting:  # a mistake that all inputs share is reported without a header
        return
    columns = [*waiting[-1]] if "error" not in waiting[-1] else ["id", "prediction"]
    yield [*columns, "error"]
    for row in itertools.chain(waiting, rows):
        yield [row.get(name) for name in (*columns, "error")]


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose probabilities have 6 significant digits; a list of them becomes one text."""
    return {
        key: _round(value) if key == "confidence" or key.startswith(PROBABILITY) else value
        for key, value in row.items()
    }


def _round(value: Any) -> Any:
    """Return a probability with 6 digits. One below 1 stays below 1, and one above 0 above 0."""
    if isinstance(value, list | tuple):
        return " ".join(str(_round(each)) for each in value)
    if not isinstance(value, float) or not 0 < value < 1:
        return value
    return min(float(f"{value:.6g}"), 0.999999)


def write_lines(lines: Iterable[str], output: Path | None) -> None:
    """Write lines as they come, to standard output, or to a file that others see when it is whole.

    Raises:
        OSError: the file cannot be written
    """
    if output is None:
        if not sys.stdout.isatty() and hasattr(sys.stdout, "reconfigure"):  # as in a file, on Windows too
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
        for line in lines:
            print(utils.escaped_lines(line) if sys.stdout.isatty() else line, end="", flush=True)
        return
    with utils.open_atomically(output) as file:
        for line in lines:
            file.write(line.encode("utf-8", "backslashreplace"))  # a file's name may be no text
