"""The table: a row of cells for each run, or for each group of runs that differ only in their seed."""

from __future__ import annotations

import dataclasses
import os.path
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fiveline.report.columns import Column
from fiveline.report.groups import mean_and_std
from fiveline.report.runs import Run

# the order in which columns get room on a narrow terminal; the column that the table is sorted by is before `param`
BY_IMPORTANCE = ("run", "data", "param", "status", "val", "test", "epochs", "time")


class Mean(NamedTuple):
    """A cell for several runs: mean, sample standard deviation, number of runs."""

    mean: float
    std: float
    n: int


class Seconds(float):
    """A cell that is a duration."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Names and cells, by column, because a column's cells are of one kind."""

    head: list[str]
    columns: list[list[Any]]  # one list for each name; cells are None, text, numbers, lists, `Mean` or `Seconds`

    @classmethod
    def of_rows(cls, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
        """Return the table of these rows."""
        return cls(list(head), [[row[i] for row in rows] for i in range(len(head))])


def is_numeric(cells: Iterable[Any]) -> bool:
    """Return whether a column holds nothing but numbers."""
    return set(map(type, cells)) <= {float, int, Mean, Seconds, type(None)}


def default_columns(columns: Iterable[Column], differ: Sequence[str], runs: Sequence[Run]) -> list[Column]:
    """Return the columns shown by default: the hyperparameters that differ, status, epochs, time, all metrics."""
    hidden = {"data"} if len({run.data for run in runs}) < 2 else set()  # all of them can be compared
    if all(run.seconds is None for run in runs):
        hidden.add("time")
    return [each for each in columns if each.kind not in hidden and (each.kind != "param" or each.key in differ)]


def by_importance(columns: Sequence[Column], sorted_by: Sequence[Column]) -> list[int]:
    """Return the positions of the columns, the ones that a narrow terminal shows first."""
    places = [1.5 if each in sorted_by else BY_IMPORTANCE.index(each.kind) for each in columns]
    return sorted(range(len(columns)), key=places.__getitem__)


def make_table(groups: Sequence[Sequence[Run]], columns: Sequence[Column]) -> Table:
    """Return the table with a row for each group of runs."""
    return Table([each.name for each in columns], [[_cell(group, each) for group in groups] for each in columns])


def _cell(group: Sequence[Run], column: Column) -> Any:
    """Return the cell of a group of runs, which is most often one run."""
    if len(group) == 1 and column.kind != "time":
        return column.value(group[0])
    values = [value for value in map(column.value, group) if value is not None]
    if not values:
        return None
    if column.kind == "time":
        return Seconds(mean_and_std(values)[0])
    if column.kind == "run":
        return group_name(values)
    if column.kind in ("val", "test"):
        return Mean(*mean_and_std(values), len(values))
    if column.kind == "status":
        return ", ".join(f"{status} ({n})" if n < len(group) else status for status, n in Counter(values).items())
    if column.kind == "epochs":
        return min(values) if min(values) == max(values) else f"{min(values)} to {max(values)}"
    texts = list(dict.fromkeys(map(str, values)))
    if len(texts) == 1:
        return values[0]
    return ", ".join(texts) if len(texts) <= 5 else f"{texts[0]}, {texts[1]}, ... ({len(texts)})"


def group_name(names: Sequence[str]) -> str:
    """Return one name for several runs: `seed_*` for seed_1, seed_2 and seed_3."""
    start = os.path.commonprefix(list(names)).rstrip("0123456789")
    end = os.path.commonprefix([name[len(start) :][::-1] for name in names])[::-1].lstrip("0123456789")
    return f"{start}*{end}" if start or end else f"{names[0]} and {len(names) - 1} more"
