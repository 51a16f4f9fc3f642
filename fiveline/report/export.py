"""A table for other programs: CSV for spreadsheets, LaTeX for a paper."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from fiveline.record.escape import csv_lines
from fiveline.report.table import Mean, Table, is_numeric
from fiveline.report.text import text_of, texts_of

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\char34{}",
    "[": "{[}", "*": "{*}",  # after the end of a row, these would belong to it
}  # fmt: skip
PLAIN = re.compile(r"[0-9.]+").fullmatch
TRANSLATION = str.maketrans(LATEX)
ACCENTED = {char for char in map(chr, range(0xC0, 0x100)) if char.isalpha() and char not in "ÐÞðþ"}  # in every font


def to_csv(table: Table) -> str:
    """Return the table for programs: numbers in full, durations in seconds; `X`, `X std` and `X n` for a mean."""
    head: list[str] = []
    columns: list[Any] = []
    for name, cells in zip(table.head, table.columns, strict=True):
        kinds = set(map(type, cells))
        if Mean in kinds:
            head += [name, f"{name} std", f"{name} n"]
            columns += zip(*map(_parts, cells), strict=True)
        else:
            head.append(name)
            columns.append(cells if kinds <= {float, int, type(None)} else map(_for_csv, cells))
    return "".join(csv_lines([head, *zip(*columns, strict=True)]))


def _parts(cell: Any) -> Sequence[Any]:
    return cell if isinstance(cell, Mean) else (cell, None, None if cell is None else 1)


def _for_csv(cell: Any) -> Any:
    if cell is None or isinstance(cell, float):
        return None if cell is None else float(cell)
    return cell if type(cell) in (str, int) else json.dumps(cell, ensure_ascii=False, default=str)


def to_latex(table: Table) -> str:
    r"""Return the table as a `tabular` for a paper with `\usepackage{booktabs}`."""
    alignment = "".join("r" if is_numeric(cells) else "l" for cells in table.columns)
    columns = [
        [_for_latex(name), *_all_for_latex(cells)] for name, cells in zip(table.head, table.columns, strict=True)
    ]
    rows = [" & ".join(row) + r" \\" for row in zip(*columns, strict=True)]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _all_for_latex(cells: Sequence[Any]) -> list[str]:
    if not set(map(type, cells)) <= {float, int}:
        return list(map(_for_latex, cells))
    texts = texts_of(cells)
    return [text if PLAIN(text) else _for_latex(cell) for text, cell in zip(texts, cells, strict=True)]


def _for_latex(cell: Any) -> str:
    if type(cell) is Mean:
        return rf"{_number(cell.mean, '.4g')} $\pm$ {_number(cell.std, '.2g')} ({cell.n})"
    if type(cell) in (int, float):
        return _number(cell, ".4g" if type(cell) is float else "d")
    text = text_of(cell)
    text = text.translate(TRANSLATION) if text.isascii() else "".join(map(_char_in_latex, text))
    return re.sub("-(?=-)", "-{}", text) if "--" in text else text


def _number(value: float, form: str) -> str:
    text, e, exponent = f"{value:{form}}".partition("e")
    text = text.replace("inf", r"\infty") + (rf" \times 10^{{{int(exponent)}}}" if e else "")
    return f"${text}$" if e or text[0] in "-\\" else text


def _char_in_latex(char: str) -> str:
    """Return a character so that every LaTeX sets it, or, where an 8-bit one has no glyph for it, its number."""
    if char.isascii() or char in ACCENTED:
        return LATEX.get(char, char)
    return rf"\ifdefined\Umathcode {char}\else U+{ord(char):04X}\fi{{}}"
