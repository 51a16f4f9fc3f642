"""Text from files that may not act: on a terminal or in a log as control characters, in a spreadsheet as formulas."""

from __future__ import annotations

import csv
import logging
import math
import re
import types
from collections.abc import Iterable, Iterator
from typing import Any

# Control characters, marks that turn the direction of text, and lone surrogates (from a file's name that is not UTF-8).
# U+200C and U+200D, which join letters and emoji, stay.
UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff\ufff9-\ufffb\U000e0001]"
)
UNSAFE_IN_LINES = re.compile(rf"(?![\n\t]){UNSAFE.pattern}")
# How a formula begins. Apostrophes may come first: `from_cell` must tell ours from one of the text's own.
FORMULA = re.compile(r"[ ']*[=+\-@\t\r\n＝＋－＠]")


def escaped(text: str) -> str:
    """Return a name as one line that is safe to print: an escape character becomes `\\x1b`, a line end `\\n`."""
    return UNSAFE.sub(_escape, text)


def escaped_lines(text: str) -> str:
    """Return a message that is safe to print; its line ends and tabs stay."""
    return UNSAFE_IN_LINES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


class SafeFormatter(logging.Formatter):
    """Formats lines of a log so that a name in them cannot steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a line."""
        return escaped_lines(super().format(record))


def csv_lines(rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """Yield rows of cells, the header included, as lines of CSV; None is an empty cell.

    A text that a spreadsheet would take for a formula, `=1+1`, gets a `'` in front, which `from_cell` removes.
    """
    lines: list[str] = []
    # lines end in \r\n until they are yielded, so that the writer also quotes names with \r in them
    writer = csv.writer(types.SimpleNamespace(write=lines.append), lineterminator="\r\n")
    for row in rows:
        writer.writerow([f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell for cell in row])
        yield lines.pop().removesuffix("\r\n") + "\n"


def from_cell(text: str) -> str:
    """Return the text that `csv_lines` wrote as this cell."""
    return text[1:] if text.startswith("'") and _is_formula(text[1:]) else text


def _is_formula(text: str) -> bool:
    if FORMULA.match(text) is None or re.fullmatch(r"-:\d+", text, re.ASCII):  # predict.py names lines of stdin so
        return False
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return True
