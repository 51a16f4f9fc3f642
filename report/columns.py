"""What a table of runs can show: a name for everything that is known of them, and the order in which they stand."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from record.errors import InputError
from report.runs import Run, is_number

Kind = Literal["run", "param", "status", "epochs", "time", "val", "test"]
FIXED: tuple[Kind, ...] = ("run", "status", "epochs", "time")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column.

    Args:
        name: as people write it: `accuracy`, `test accuracy`, `learning_rate`; a hyperparameter that is called as
            another column is, `loss` for one, is `params.loss`
        kind: where its values are
        key: what they are called there
    """

    name: str
    kind: Kind
    key: str = ""

    def value(self, run: Run) -> Any:
        """Return a run's value, or None."""
        return _VALUES[self.kind](run, self.key)


_VALUES: dict[Kind, Callable[[Run, str], Any]] = {
    "run": lambda run, _: run.name,
    "status": lambda run, _: run.status,
    "epochs": lambda run, _: run.epochs,
    "time": lambda run, _: run.seconds,
    "param": lambda run, key: run.params.get(key),
    "val": lambda run, key: run.val.get(key),
    "test": lambda run, key: run.test.get(key),
}


def all_columns(runs: Sequence[Run]) -> dict[str, Column]:
    """Return every column by its name: the run, its hyperparameters in alphabetical order, status, val, test."""
    val: dict[str, Any] = {}
    test: dict[str, Any] = {}
    names: set[str] = set()
    for run in runs:
        val.update(run.val)  # for their names, in the order in which they come
        test.update(run.test)
        names.update(run.params)
    metrics = [Column(name, "val", name) for name in val] + [Column(f"test {name}", "test", name) for name in test]
    taken = {*FIXED, *(column.name for column in metrics)}
    params = [Column(f"params.{name}" if name in taken else name, "param", name) for name in sorted(names)]
    fixed = [Column(kind, kind) for kind in FIXED]
    return {column.name: column for column in (fixed[0], *params, *fixed[1:], *metrics)}


def find_column(name: str, columns: dict[str, Column], flag: str) -> Column:
    """Return the column of that name.

    Raises:
        InputError: there is none; names the nearest, or all
    """
    if name in columns:
        return columns[name]
    close = difflib.get_close_matches(name, columns, n=3)
    told = f"did you mean {' or '.join(map(repr, close))}?" if close else f"choose one of {', '.join(sorted(columns))}"
    raise InputError(f"{flag} {name}: no run has it; {told}")


def hyperparameters_that_differ(runs: Iterable[Run]) -> list[str]:
    """Return the hyperparameters, in alphabetical order, that have two values or more among the runs that have them."""
    first: dict[str, Any] = {}
    found: set[str] = set()
    for run in runs:
        for name, value in run.params.items():
            old = first.setdefault(name, value)
            # as JSON compares: true is not 1; but 1 is 1.0
            if value is not old and (value != old or (type(value) is bool) != (type(old) is bool)):
                found.add(name)
    return sorted(found)


def sort_runs(runs: Sequence[Run], by: str | None = None) -> list[Run]:
    """Return the runs, the best first; those without the value last.

    Args:
        runs: any
        by: a column's name; None for the metric that the runs monitored

    Raises:
        InputError: no run has such a value
    """
    column = sort_column(runs, by)
    is_high_first = is_better_high(column, runs)
    return sorted(runs, key=lambda run: (*rank(column.value(run), is_high_first), run.name))


def sort_column(runs: Sequence[Run], by: str | None) -> Column:
    """Return the column to sort by: the one asked for, or the metric that the runs monitored."""
    if by is not None:
        return find_column(by, all_columns(runs), "--sort")
    monitor = next((run.monitor for run in runs if run.monitor), "accuracy")
    return Column(monitor, "val", monitor)


def is_better_high(column: Column, runs: Iterable[Run]) -> bool:
    """Return whether the largest value comes first: of metrics that are no errors."""
    errors = {"loss", *(name for run in runs for name in run.lower_is_better)}
    return column.kind in ("val", "test") and column.key not in errors


def rank(value: Any, is_high_first: bool) -> tuple[int, float, str]:
    """Return what to sort a value by: numbers first, then NaN, then text, then nothing."""
    if is_number(value):
        return (1, 0.0, "") if math.isnan(value) else (0, -value if is_high_first else value, "")
    return (3, 0.0, "") if value is None else (2, 0.0, str(value))
