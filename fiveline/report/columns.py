"""What a table of runs can show: a name for everything that is known of them, and the order in which they stand."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from fiveline.record.errors import InputError
from fiveline.report.runs import Run, is_number

Kind = Literal["run", "data", "param", "status", "epochs", "time", "val", "test"]
FIXED: tuple[Kind, ...] = ("run", "data", "status", "epochs", "time")


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
    "data": lambda run, _: run.data,
    "status": lambda run, _: run.status,
    "epochs": lambda run, _: run.epochs,
    "time": lambda run, _: run.seconds,
    "param": lambda run, key: run.params.get(key),
    "val": lambda run, key: run.val.get(key),
    "test": lambda run, key: run.test.get(key),
}


def all_columns(runs: Sequence[Run]) -> dict[str, Column]:
    """Return every column by its name: run, data, the hyperparameters in alphabetical order, status, val, test."""
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
    return {column.name: column for column in (*fixed[:2], *params, *fixed[2:], *metrics)}


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


def sort_column(runs: Sequence[Run], by: str | None) -> Column:
    """Return the column to sort by: the one asked for, or the val metric that the runs monitored, if one has it.

    Raises:
        InputError: no run has what is asked for
    """
    if by is not None:
        return find_column(by, all_columns(runs), "--sort")
    found = dict.fromkeys(name for run in runs for name in run.val)
    names = [*(run.monitor for run in runs if run.monitor), "accuracy", *found]
    name = next((name for name in names if name in found), names[0])
    return Column(name, "val", name)


def is_better_high(column: Column, runs: Iterable[Run]) -> bool:
    """Return whether the largest value comes first: of metrics that are no errors."""
    errors = {"loss", *(name for run in runs for name in run.lower_is_better)}
    return column.kind in ("val", "test") and column.key not in errors


def rank(value: Any, is_high_first: bool) -> tuple[int, float, str]:
    """Return what to sort a value by: finite numbers first, then NaN and infinities, then text, then nothing."""
    if is_number(value):
        return (0, -value if is_high_first else value, "") if math.isfinite(value) else (1, 0.0, "")
    return (3, 0.0, "") if value is None else (2, 0.0, str(value))
