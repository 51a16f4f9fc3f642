"""Rows of cells as CSV that brings back every text."""

from __future__ import annotations

import csv
import types
from collections.abc import Iterable, Iterator
from typing import Any


def csv_lines(rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """Yield rows of cells, the header for one, as lines of CSV that end in a newline, each as it comes; None is ''."""
    lines: list[str] = []
    # lines end in \r\n until they are passed on, so that the writer quotes names with \r in them as well
    writer = csv.writer(types.SimpleNamespace(write=lines.append), lineterminator="\r\n")
    for row in rows:
        writer.writerow(row)
        yield lines.pop().removesuffix("\r\n") + "\n"
