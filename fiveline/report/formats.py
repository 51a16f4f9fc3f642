"""A table as text: Markdown, the part of it that fits a terminal, CSV for spreadsheets, LaTeX for a paper."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from fiveline.record.files import csv_lines
from fiveline.record.log import escaped
from fiveline.report.table import Mean, Seconds, Table, is_numeric

LONGEST_ON_TERMINAL = 40
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\char34{}",
    "[": "{[}", "*": "{*}",  # after the end of a row, LaTeX would take these for arguments
})  # fmt: skip
NOT_IN_EVERY_FONT = re.compile("[^\x00-\x7fÀ-ÿ]|[×÷ÐÞðþ]")


def text_of(value: Any) -> str:
    """Return a cell as one line of text: numbers with four digits, `-` for None."""
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
    """Return a duration such as `2h 03m`, `12m 30s` or `8.1s`."""
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.1f}s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    return f"{minutes // 60}h {minutes % 60:02}m" if seconds >= 3600 else f"{minutes}m {int(seconds % 60):02}s"


def to_markdown(table: Table) -> str:
    """Return the table in Markdown, aligned, so that it also reads well as plain text."""
    texts = [list(map(text_of, [name, *cells])) for name, cells in zip(table.head, table.columns, strict=True)]
    return _in_pipes([[re.sub(r"[|<]", r"\\\g<0>", text) for text in column] for column in texts], table.columns)


def to_terminal(table: Table, width: int, order: Sequence[int]) -> str:
    """Return the part of the table that fits a terminal of that width, and a line that names the other columns.

    Columns get room in the order of their positions in `order`; two are shown however long their cells are.
    """
    texts = [list(map(text_of, [name, *cells])) for name, cells in zip(table.head, table.columns, strict=True)]
    texts = [column if column[0] == "run" else list(map(shortened, column)) for column in texts]  # names are pasted
    shown: list[int] = []
    left = width - 1
    for i in order:
        head, *lines = _in_pipes([texts[i]], [table.columns[i]]).splitlines()
        if len(head) - 1 <= left or len(shown) < 2:
            shown.append(i)
            left -= len(head) - 1
    shown.sort()
    hidden = ", ".join(text_of(name) for i, name in enumerate(table.head) if i not in shown)
    more = f"No room for {hidden}: --columns chooses columns, results.md and results.csv have all\n" if hidden else ""
    return _in_pipes([texts[i] for i in shown], [table.columns[i] for i in shown]) + more


def shortened(text: str) -> str:
    """Return a text of at most LONGEST_ON_TERMINAL characters, without its middle if it is longer."""
    half = (LONGEST_ON_TERMINAL - 1) // 2
    return text if len(text) <= LONGEST_ON_TERMINAL else f"{text[: LONGEST_ON_TERMINAL - 1 - half]}…{text[-half:]}"


def _in_pipes(texts: Sequence[Sequence[str]], columns: Sequence[Sequence[Any]]) -> str:
    """Return columns of texts, each with its name first, as a Markdown table; numbers have their points aligned."""
    head, *rows = zip(*texts, strict=True)
    alignment = ["decimal" if is_numeric(cells) else "left" for cells in columns]
    return tabulate(rows, head, tablefmt="pipe", disable_numparse=True, colalign=alignment) + "\n"


def to_csv(table: Table) -> str:
    """Return the table for programs: numbers in full, durations in seconds; `X`, `X std` and `X n` for a mean."""
    head: list[str] = []
    columns: list[Any] = []
    for name, cells in zip(table.head, table.columns, strict=True):
        if Mean in map(type, cells):
            head += [name, f"{name} std", f"{name} n"]
            means = (cell if isinstance(cell, Mean) else (cell, None, None if cell is None else 1) for cell in cells)
            columns += zip(*means, strict=True)
        else:
            head.append(name)
            columns.append(map(_for_csv, cells))
    return "".join(csv_lines([head, *zip(*columns, strict=True)]))


def _for_csv(cell: Any) -> Any:
    if isinstance(cell, Seconds):
        return float(cell)
    is_plain = cell is None or type(cell) in (str, int, float)
    return cell if is_plain else json.dumps(cell, ensure_ascii=False, default=str)


def to_latex(table: Table) -> str:
    r"""Return the table as a `tabular` for a paper with `\usepackage{booktabs}`."""
    head, *rows = zip(
        *(map(_latex, [name, *cells]) for name, cells in zip(table.head, table.columns, strict=True)), strict=True
    )
    alignment = ["right" if is_numeric(cells) else "left" for cells in table.columns]
    text = tabulate(rows, head, tablefmt="latex_raw", disable_numparse=True, colalign=alignment)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        text = text.replace(r"\hline", rule, 1)
    return f"% \\usepackage{{booktabs}}\n{text}\n"


def _latex(cell: Any) -> str:
    if type(cell) is Mean:
        return rf"{_latex_number(f'{cell.mean:.4g}')} $\pm$ {_latex_number(f'{cell.std:.2g}')} ({cell.n})"
    if type(cell) in (int, float):
        return _latex_number(text_of(cell))
    text = re.sub("-(?=-)", "-{}", text_of(cell).translate(LATEX))  # LaTeX joins two hyphens to a dash
    # pdfTeX stops at a character that its font lacks: there, show the character's number
    return NOT_IN_EVERY_FONT.sub(lambda m: rf"\ifdefined\Umathcode {m[0]}\else U+{ord(m[0]):04X}\fi{{}}", text)


def _latex_number(text: str) -> str:
    mantissa, e, exponent = text.partition("e")
    text = mantissa.replace("inf", r"\infty") + (rf" \times 10^{{{int(exponent)}}}" if e else "")
    return f"${text}$" if e or text[0] in "-\\" else text
