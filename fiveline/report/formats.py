"""A table as text: Markdown, the part of it that fits a terminal, CSV for spreadsheets, LaTeX for a paper.

Written by hand rather than with tabulate, which takes ten times as long for thousands of runs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

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
    pairs = zip(table.head, table.columns, strict=True)
    columns = [_aligned(name, cells, lambda text: re.sub(r"[|<]", r"\\\g<0>", text)) for name, cells in pairs]
    return _in_pipes(columns, table.columns)


def to_terminal(table: Table, width: int, order: Sequence[int]) -> str:
    """Return the part of the table that fits a terminal of that width, and a line that names the other columns.

    Columns get room in the order of their positions in `order`; two are shown however long their cells are.
    """
    columns = [
        _aligned(name, cells, str if name == "run" else shortened)  # a run's name is pasted into --compare
        for name, cells in zip(table.head, table.columns, strict=True)
    ]
    shown: list[int] = []
    left = width - 1
    for i in order:
        needed = len(columns[i][0]) + 3
        if needed <= left or len(shown) < 2:
            shown.append(i)
            left -= needed
    shown.sort()
    text = _in_pipes([columns[i] for i in shown], [table.columns[i] for i in shown])
    hidden = ", ".join(text_of(name) for i, name in enumerate(table.head) if i not in shown)
    more = f"No room for {hidden}: --columns chooses columns, results.md and results.csv have all\n"
    return text + more if hidden else text


def shortened(text: str) -> str:
    """Return a text of at most LONGEST_ON_TERMINAL characters, without its middle if it is longer."""
    half = (LONGEST_ON_TERMINAL - 1) // 2
    return text if len(text) <= LONGEST_ON_TERMINAL else f"{text[: LONGEST_ON_TERMINAL - 1 - half]}…{text[-half:]}"


def _aligned(name: str, cells: Sequence[Any], change: Callable[[str], str]) -> list[str]:
    """Return a column's name and cells as text of one width: changed text to the left, numbers with points aligned."""
    texts = list(map(text_of, [name, *cells]))
    if not is_numeric(cells):
        texts = list(map(change, texts))
        width = max(map(len, texts))
        return [text.ljust(width) for text in texts]
    if Seconds not in map(type, cells):
        tails = [len(text) - text.find(".") if "." in text else 0 for text in texts[1:]]
        longest = max(tails, default=0)
        texts[1:] = [text + " " * (longest - tail) for text, tail in zip(texts[1:], tails, strict=True)]
    width = max(map(len, texts))
    return [text.rjust(width) for text in texts]


def _in_pipes(columns: Sequence[Sequence[str]], cells: Sequence[Sequence[Any]]) -> str:
    """Return aligned columns between bars, with a rule below the head; its colon aligns a column to the right."""
    head, *lines = ["| " + " | ".join(row) + " |" for row in zip(*columns, strict=True)]
    rules = ["-" * (len(column[0]) + 1) + "-:"[is_numeric(each)] for column, each in zip(columns, cells, strict=True)]
    return "\n".join([head, f"|{'|'.join(rules)}|", *lines]) + "\n"


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
    alignment = "".join("r" if is_numeric(cells) else "l" for cells in table.columns)
    columns = [map(_latex, [name, *cells]) for name, cells in zip(table.head, table.columns, strict=True)]
    head, *rows = [" & ".join(row) + r" \\" for row in zip(*columns, strict=True)]
    start = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*start, *rows, r"\bottomrule", r"\end{tabular}", ""])


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
