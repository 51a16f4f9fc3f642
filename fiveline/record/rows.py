"""Rows of cells as CSV that brings back every text and that a spreadsheet does not take for formulas."""

from __future__ import annotations

import csv
import math
import re
import types
from collections.abc import Iterable, Iterator
from typing import Any

FORMULA = re.compile(
    r"[ ']*[=+\-@\t\r\n＝＋－＠]"
)  # apostrophes too: `from_cell` can then tell ours from the text's own


def csv_lines(rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """Yield rows of cells, the header included, as lines of CSV that end in a newline, each as it comes; None is ''.

    A text that a spreadsheet would take for a formula, `=1+1`, has a `'` before it; `from_cell` takes that away.
    """
    lines: list[str] = []
    # lines end in \r\n until they are passed on, so that the writer quotes names with \r in them as well
    writer = csv.writer(types.SimpleNamespace(write=lines.append), lineterminator="\r\n")
    for row in rows:
        writer.writerow([f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell for cell in row])
        yield lines.pop().removesuffix("\r\n") + "\n"


def from_cell(text: str) -> str:
    """Return the text that `csv_lines` wrote as this cell."""
    return text[1:] if text.startswith("'") and _is_formula(text[1:]) else text


def _is_formula(text: str) -> bool:
    is_line = re.fullmatch(r"-:\d+", text, re.ASCII) is not None  # of standard input, as predict.py names it
    return FORMULA.match(text) is not None and not is_line and not _is_number(text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
