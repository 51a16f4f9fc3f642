"""A table for people: Markdown, and what of it fits a terminal."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from report.table import Mean, Seconds, Table, is_numeric

ELLIPSIS = "…"
LONGEST_ON_TERMINAL = 40
# control characters, those that turn the direction of text, and what is no text at all in the name of a file
UNSAFE = re.compile(r"[^\x20-\x7e\xa0-\u2027\u202f-\u2065\u2070-\ud7ff\ue000-\U0010ffff]")


def text_of(value: Any) -> str:
    """Return a cell as one line of text: numbers with four digits, `-` for nothing."""
    kind = type(value)
    if kind is str:
        return value if value.isascii() and value.isprintable() else UNSAFE.sub(_escaped, value)
    if kind is float:
        return f"{value:.4g}"
    if value is None:
        return "-"
    if kind is Mean:
        return f"{value.mean:.4g} ± {value.std:.2g} ({value.n})"
    if kind is Seconds:
        return duration(value)
    return str(value) if kind is int else UNSAFE.sub(_escaped, json.dumps(value, ensure_ascii=False, default=str))


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def duration(seconds: float) -> str:
    """Return a duration as people say it: `2h 03m`, `12m 30s`, `8.1s`."""
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.1f}s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    return f"{minutes // 60}h {minutes % 60:02}m" if seconds >= 3600 else f"{minutes}m {int(seconds % 60):02}s"


def to_markdown(table: Table) -> str:
    """Return the table in Markdown; it reads well as it is, too."""
    texts = [
        [text_of(cell).replace("|", "\\|").replace("<", "\\<") for cell in row] for row in [table.head, *table.rows]
    ]
    return _in_pipes(_aligned(texts, table), table, range(len(table.head)))


def _in_pipes(columns: Sequence[Sequence[str]], table: Table, shown: Sequence[int]) -> str:
    """Return the columns that are to be shown between bars, and a rule below the head."""
    lines = [f"| {' | '.join(row)} |" for row in zip(*(columns[i] for i in shown), strict=True)]
    ends = ("-" + ("-:"[is_numeric(table, i)]) for i in shown)
    rule = "|".join("-" * width_of(columns[i][0]) + end for i, end in zip(shown, ends, strict=True))
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]]) + "\n"


def _aligned(texts: Sequence[Sequence[str]], table: Table) -> list[list[str]]:
    """Return the columns, each padded to one width: text to the left, numbers with their points below each other."""
    columns = [list(column) for column in zip(*texts, strict=True)]
    for i, column in enumerate(columns):
        if is_numeric(table, i):
            is_time = any(type(row[i]) is Seconds for row in table.rows)
            tails = [0 if is_time else len(text) - point if (point := text.find(".")) >= 0 else 0 for text in column]
            longest = max(tails[1:], default=0)
            column[1:] = [text + " " * (longest - n) for text, n in zip(column[1:], tails[1:], strict=True)]
            width = max(map(width_of, column))
            columns[i] = [" " * (width - width_of(text)) + text for text in column]
        else:
            width = max(map(width_of, column))
            columns[i] = [text + " " * (width - width_of(text)) for text in column]
    return columns


def width_of(text: str) -> int:
    """Return how many places a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def to_terminal(table: Table, width: int, order: Sequence[int]) -> tuple[str, list[str]]:
    """Return the table for a terminal of that many places, and the names of the columns that found no room.

    Args:
        table: the table
        width: of the terminal
        order: positions of the columns, the most important first; that is always shown
    """
    columns = _aligned([[shortened(text_of(cell)) for cell in row] for row in [table.head, *table.rows]], table)
    shown: set[int] = set()
    left = width - 1
    for i in order:
        needed = width_of(columns[i][0]) + 3
        if needed <= left or not shown:
            shown.add(i)
            left -= needed
    return _in_pipes(columns, table, sorted(shown)), [name for i, name in enumerate(table.head) if i not in shown]


def shortened(text: str) -> str:
    """Return a text that is not too long, its middle left out."""
    if len(text) <= LONGEST_ON_TERMINAL:
        return text
    half = (LONGEST_ON_TERMINAL - 1) // 2
    return f"{text[: LONGEST_ON_TERMINAL - 1 - half]}{ELLIPSIS}{text[-half:]}"
