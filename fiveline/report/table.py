"""The table: rows of cells for the runs, or for the groups of runs that differ only in their seed."""

from __future__ import annotations

import dataclasses
import os.path
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fiveline.report.columns import Column
from fiveline.report.runs import Run
from fiveline.report.seeds import mean_and_std


class Mean(NamedTuple):
    """A cell for several runs: mean, sample standard deviation, and of how many."""

    mean: float
    std: float
    n: int


class Seconds(float):
    """A cell that is a duration."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Names and cells, by column, because a column's cells are of one kind.

    Args:
        head: the names of the columns
        columns: one list of cells for each; they are None, text, numbers, lists, `Mean` or `Seconds`
    """

    head: list[str]
    columns: list[list[Any]]

    @classmethod
    def of_rows(cls, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
        """Return the table of these rows."""
        return cls(list(head), [[row[i] for row in rows] for i in range(len(head))])


NUMERIC = {float, int, Mean, Seconds, type(None)}


def is_numeric(cells: Sequence[Any]) -> bool:
    """Return whether a column holds nothing but numbers."""
    return set(map(type, cells)) <= NUMERIC


def default_columns(columns: Iterable[Column], differ: Sequence[str], runs: Sequence[Run]) -> list[Column]:
    """Return what is shown by default: the hyperparameters that differ, status, epochs, time, all metrics.

    Args:
        columns: all that there are
        differ: the hyperparameters that differ
        runs: that are shown; where they cannot all be compared, `data` says which can
    """
    left_out = {"data"} if len({run.data for run in runs}) < 2 else set()
    if all(run.seconds is None for run in runs):
        left_out.add("time")
    return [
        column for column in columns if column.kind not in left_out and (column.kind != "param" or column.key in differ)
    ]


def make_table(groups: Sequence[Sequence[Run]], columns: Sequence[Column]) -> Table:
    """Return a row for each group of runs."""
    names = [column.name for column in columns]
    if max(map(len, groups), default=1) > 1:
        return Table(names, [[cell(group, column) for group in groups] for column in columns])
    runs = [group[0] for group in groups]
    cells = [list(map(column.value, runs)) for column in columns]
    for i, column in enumerate(columns):
        if column.kind == "time":
            cells[i] = [None if value is None else Seconds(value) for value in cells[i]]
    return Table(names, cells)


def cell(group: Sequence[Run], column: Column) -> Any:
    """Return what stands in a column for a group of runs, which most often is one run."""
    if len(group) == 1:
        value = column.value(group[0])
        return Seconds(value) if column.kind == "time" and value is not None else value
    values = [value for value in map(column.value, group) if value is not None]
    if column.kind == "run":
        return group_name(values)
    if not values:
        return None
    if column.kind in ("val", "test"):
        return Mean(*mean_and_std(values), len(values))
    if column.kind == "time":
        return Seconds(mean_and_std(values)[0])
    if column.kind == "status":
        return ", ".join(f"{status} ({n})" if n < len(group) else status for status, n in Counter(values).items())
    if column.kind == "epochs":
        return min(values) if min(values) == max(values) else f"{min(values)} to {max(values)}"
    texts = list(dict.fromkeys(str(value) for value in values))
    if len(texts) == 1:
        return values[0]
    return ", ".join(texts) if len(texts) <= 5 else f"{texts[0]}, {texts[1]}, ... ({len(texts)})"


def group_name(names: Sequence[str]) -> str:
    """Return one name for several runs: `seed_*` for seed_1, seed_2 and seed_3."""
    start = os.path.commonprefix(list(names)).rstrip("0123456789")
    end = os.path.commonprefix([name[: len(start) - 1 : -1] if start else name[::-1] for name in names])[::-1]
    end = end.lstrip("0123456789")
    return f"{start}*{end}" if start or end else f"{names[0]} and {len(names) - 1} more"
