"""A table for people: Markdown, and what of it fits a terminal."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from fiveline.record.escape import escaped
from fiveline.report.table import Mean, Seconds, Table, is_numeric

ELLIPSIS = "…"
LONGEST_ON_TERMINAL = 40


def text_of(value: Any) -> str:
    """Return a cell as one line of text: numbers with four digits, `-` for nothing."""
    kind = type(value)
    if kind is str:
        return value if value.isascii() and value.isprintable() else escaped(value)
    if kind is float:
        return f"{value:.4g}"
    if value is None:
        return "-"
    if kind is Mean:
        return f"{value.mean:.4g} ± {value.std:.2g} ({value.n})"
    if kind is Seconds:
        return duration(value)
    return str(value) if kind is int else escaped(json.dumps(value, ensure_ascii=False, default=str))


def duration(seconds: float) -> str:
    """Return a duration as people say it: `2h 03m`, `12m 30s`, `8.1s`."""
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.1f}s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    return f"{minutes // 60}h {minutes % 60:02}m" if seconds >= 3600 else f"{minutes}m {int(seconds % 60):02}s"


def texts_of(cells: Sequence[Any]) -> list[str]:
    """Return a column's cells as text."""
    kinds = set(map(type, cells))
    if kinds == {float}:  # most often
        return ["%.4g" % cell for cell in cells]  # noqa: UP031  twice as fast as anything else
    return list(map(str if kinds == {int} else text_of, cells))


def to_markdown(table: Table) -> str:
    """Return the table in Markdown; it reads well as it is, too."""
    columns = []
    for name, cells in zip(table.head, table.columns, strict=True):
        texts = [text_of(name), *texts_of(cells)]
        if not is_numeric(cells):
            texts = [text.replace("|", "\\|").replace("<", "\\<") for text in texts]
        columns.append(_aligned(texts, cells))
    return _in_pipes(columns, table.columns)


def _in_pipes(columns: Sequence[Sequence[str]], cells: Sequence[Sequence[Any]]) -> str:
    """Return aligned columns between bars, and a rule below the head."""
    lines = ["| " + " | ".join(row) + " |" for row in zip(*columns, strict=True)]
    widths = [width_of(column[0]) for column in columns]
    rules = [
        "-" * (width + 1) + ("-:"[is_numeric(each)]) for width, each in zip(widths, cells, strict=True)
    ]  # the colon is Markdown's way to say: to the right
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]]) + "\n"


def _aligned(texts: list[str], cells: Sequence[Any]) -> list[str]:
    """Return a column padded to one width: text to the left, numbers with their points below each other.

    Args:
        texts: the head, then the cells
        cells: what the texts are of
    """
    if not is_numeric(cells):
        width = max(map(width_of, texts))
        return [text + " " * (width - width_of(text)) for text in texts]
    if Seconds in map(type, cells):
        width = max(map(width_of, texts))
        return [text.rjust(width) for text in texts]
    tails = [len(text) - point if (point := text.find(".")) >= 0 else 0 for text in texts]
    longest = max(tails[1:], default=0)
    padded = [text + " " * (longest - tail) for text, tail in zip(texts[1:], tails[1:], strict=True)]
    width = max([width_of(texts[0]), *map(len, padded)])
    return [" " * (width - width_of(texts[0])) + texts[0], *[text.rjust(width) for text in padded]]


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
        order: positions of the columns, the most important first; two are always shown, however long names are
    """
    columns = []
    for name, cells in zip(table.head, table.columns, strict=True):
        texts = [text_of(name), *texts_of(cells)]
        # a run's name is pasted into --compare
        columns.append(_aligned(texts if name == "run" else [shortened(text) for text in texts], cells))
    shown: list[int] = []
    left = width - 1
    for i in order:
        needed = width_of(columns[i][0]) + 3
        if needed <= left or len(shown) < 2:
            shown.append(i)
            left -= needed
    shown.sort()
    text = _in_pipes([columns[i] for i in shown], [table.columns[i] for i in shown])
    return text, [name for i, name in enumerate(table.head) if i not in shown]


def shortened(text: str) -> str:
    """Return a text that is not too long, its middle left out."""
    if len(text) <= LONGEST_ON_TERMINAL:
        return text
    half = (LONGEST_ON_TERMINAL - 1) // 2
    return f"{text[: LONGEST_ON_TERMINAL - 1 - half]}{ELLIPSIS}{text[-half:]}"
