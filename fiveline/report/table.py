"""The table of runs, and a table as text: Markdown, the part that fits a terminal, CSV for spreadsheets, LaTeX."""

from __future__ import annotations

import json
import math
import os.path
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

from fiveline.record.files import csv_lines
from fiveline.record.log import escaped
from fiveline.report.columns import Column, mean_and_std
from fiveline.report.runs import Run

LONGEST_ON_TERMINAL = 40


class Mean(NamedTuple):
    """A cell for several runs: mean, sample standard deviation, number of runs."""

    mean: float
    std: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.std:.2g} ({self.n})"


class Estimate(NamedTuple):
    """A cell for a metric on test and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.3g}, {self.high:.3g}]"


class Seconds(float):
    """A cell that is a duration."""


PARTS = {Mean: (" std", " n"), Estimate: (" low", " high")}  # what CSV adds to the column's name
Table = dict[str, list[Any]]  # name -> cells, which are None, text, numbers, lists, or the classes above


def cell_of(group: Sequence[Run], column: Column) -> Any:
    """Return the cell of a group of runs, which is most often one run."""
    values = [value for value in map(column.value, group) if value is not None]
    if not values:
        return None
    if column.kind == "time":
        return Seconds(mean_and_std(values)[0])
    if len(group) == 1:
        ends = group[0].intervals.get(column.key) if column.kind == "test" else None
        return Estimate(values[0], *ends) if ends else values[0]
    if column.kind == "run":
        return group_name(values)
    if column.kind in ("val", "test"):
        return Mean(*mean_and_std(values), len(values))
    texts = list(dict.fromkeys(map(str, values)))
    return values[0] if len(texts) == 1 else ", ".join(texts)


def group_name(names: Sequence[str]) -> str:
    """Return one name for several runs: `seed_*` for seed_1, seed_2 and seed_3."""
    start = os.path.commonprefix(list(names)).rstrip("0123456789")
    end = os.path.commonprefix([name[len(start) :][::-1] for name in names])[::-1].lstrip("0123456789")
    return f"{start}*{end}" if start or end else f"{names[0]} and {len(names) - 1} more"


def text_of(value: Any) -> str:
    """Return a cell as one line of text: numbers with four digits, `-` for None."""
    if isinstance(value, str):
        return value if value.isascii() and value.isprintable() else escaped(value)
    if isinstance(value, float):
        return duration(value) if isinstance(value, Seconds) else f"{value:.4g}"
    if value is None:
        return "-"
    return str(value) if type(value) in (int, *PARTS) else escaped(json.dumps(value, ensure_ascii=False, default=str))


def duration(seconds: float) -> str:
    """Return a duration such as `2h 03m`, `12m 30s` or `8.1s`."""
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.1f}s"
    minutes = int(seconds // 60)
    return f"{minutes}m {int(seconds % 60):02}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"


def shortened(text: str) -> str:
    """Return a text of at most LONGEST_ON_TERMINAL characters, without its middle if it is longer."""
    half = LONGEST_ON_TERMINAL // 2
    return text if len(text) <= LONGEST_ON_TERMINAL else f"{text[:half]}…{text[1 - half :]}"


def _texts(table: Table) -> dict[str, list[str]]:
    """Return each column's texts, its name first."""
    return {name: list(map(text_of, [name, *cells])) for name, cells in table.items()}


def to_markdown(table: Table) -> str:
    """Return the table in Markdown, aligned, so that it also reads well as plain text."""
    texts = [[re.sub(r"[|<]", r"\\\g<0>", text) for text in column] for column in _texts(table).values()]
    return _tabulated(texts, table)


def to_terminal(table: Table, width: int, sorted_by: Sequence[str]) -> str:
    """Return the part of the table that fits a terminal of that width, and a line that names the other columns.

    The columns that the table is sorted by get room first. Two columns are shown however long their cells are.
    """
    texts, part, left = _texts(table), Table(), width - 1
    for name in filter(table.__contains__, dict.fromkeys(["run", "data", *sorted_by, *table])):
        if name != "run":  # names of runs are pasted into commands, so they stay whole
            texts[name] = list(map(shortened, texts[name]))
        size = _tabulated([texts[name]], {name: table[name]}).index("\n") - 1
        if size <= left or len(part) < 2:
            part[name] = table[name]
            left -= size
    part = {name: table[name] for name in table if name in part}
    hidden = ", ".join(text_of(name) for name in table if name not in part)
    more = f"No room for {hidden}: --columns chooses columns, results.md and results.csv have all\n" if hidden else ""
    return _tabulated([texts[name] for name in part], part) + more


def to_latex(table: Table) -> str:
    r"""Return the table in LaTeX, for a paper with `\usepackage{booktabs}`."""
    text = _tabulated(list(_texts(table).values()), table, "latex_booktabs", "right").replace("±", r"$\pm$")
    text = re.sub(r"^ *(?=[\[*])", "{}", text, flags=re.MULTILINE)  # LaTeX would take [x] for an argument of \midrule
    return f"% \\usepackage{{booktabs}}\n{text}"


def _tabulated(texts: Sequence[Sequence[str]], table: Table, form: str = "pipe", numbers: str = "decimal") -> str:
    """Return a table whose cells are shown as these texts; columns of numbers only are aligned as such."""
    head, *rows = zip(*texts, strict=True)
    kinds = [set(map(type, cells)) <= {float, int, Seconds, type(None), *PARTS} for cells in table.values()]
    alignment = [numbers if is_numeric else "left" for is_numeric in kinds]
    return tabulate(rows, head, tablefmt=form, disable_numparse=True, colalign=alignment) + "\n"


def to_csv(table: Table) -> str:
    """Return the table for programs: numbers in full, durations in seconds; a mean or an interval has three columns."""
    columns: list[Sequence[Any]] = []
    for name, cells in table.items():
        columns.append([name, *(cell[0] if type(cell) in PARTS else _for_csv(cell) for cell in cells)])
        for kind in [kind for kind in PARTS if kind in map(type, cells)]:
            alone = (None, 1 if kind is Mean else None)  # a single run
            rest = [cell[1:] if type(cell) is kind else alone if cell is not None else (None, None) for cell in cells]
            columns += zip(*[[name + part for part in PARTS[kind]], *rest], strict=True)
    return "".join(csv_lines(zip(*columns, strict=True)))


def _for_csv(cell: Any) -> Any:
    is_plain = cell is None or isinstance(cell, (str, int, float)) and not isinstance(cell, bool)
    return cell if is_plain else json.dumps(cell, ensure_ascii=False, default=str)


FILES = {"md": to_markdown, "csv": to_csv, "tex": to_latex}  # results.md, ...
