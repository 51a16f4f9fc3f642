"""The columns that a table of runs can have, and its rows: sorted groups of runs that differ only in their seed."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fiveline.record.errors import InputError
from fiveline.report.runs import UNKNOWN, Run, is_number

FIXED = {"run": "name", "data": "data", "status": "status", "epochs": "epochs", "time": "seconds"}  # -> Run's attribute


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str  # as shown: `accuracy`, `test accuracy`, `learning_rate`; `params.loss` for a hyperparameter `loss`
    kind: str  # a key of FIXED, or `param`, `val`, `test`
    key: str = ""  # name of the hyperparameter or the metric

    def value(self, run: Run) -> Any:
        """Return a run's value, or None."""
        if self.kind in FIXED:
            return getattr(run, FIXED[self.kind])
        return (run.params if self.kind == "param" else run.val if self.kind == "val" else run.test).get(self.key)


def all_columns(runs: Sequence[Run]) -> dict[str, Column]:
    """Return every column by its name: run, data, the hyperparameters in alphabetical order, status, metrics, ..."""
    val = dict.fromkeys(name for run in runs for name in run.val)
    test = dict.fromkeys(name for run in runs for name in run.test)
    metrics = [Column(name, "val", name) for name in val] + [Column(f"test {name}", "test", name) for name in test]
    taken = {*FIXED, *(column.name for column in metrics)}
    names = sorted({name for run in runs for name in run.params})
    params = [Column(f"params.{name}" if name in taken else name, "param", name) for name in names]
    run, data, status, epochs, time = (Column(kind, kind) for kind in FIXED)
    return {column.name: column for column in (run, data, *params, status, *metrics, epochs, time)}


def find_column(name: str, columns: Mapping[str, Column], flag: str, more: str = "") -> Column:
    """Return the column of that name; an InputError names similar columns, or all, and says `more`."""
    if name in columns:
        return columns[name]
    close = difflib.get_close_matches(name, columns, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"choose one of {', '.join(sorted(columns))}"
    raise InputError(f"{flag} {name}: no run has it; {hint}{more}")


def hyperparameters_that_differ(runs: Iterable[Run]) -> list[str]:
    """Return the hyperparameters, in alphabetical order, with at least two values among the runs that have them."""
    first: dict[str, Any] = {}
    found: set[str] = set()
    for run in runs:
        for name, value in run.params.items():
            old = first.setdefault(name, value)
            # 1 equals 1.0, and True is neither
            if value is not old and (value != old or (type(value) is bool) != (type(old) is bool)):
                found.add(name)
    return sorted(found)


def monitored_column(runs: Sequence[Run]) -> Column:
    """Return the val metric that the runs monitored, or else accuracy, or else the first metric."""
    found = dict.fromkeys(name for run in runs for name in run.val)
    names = [*(run.monitor for run in runs if run.monitor), "accuracy", *found]
    name = next(filter(found.__contains__, names), names[0])
    return Column(name, "val", name)


def is_better_high(column: Column, runs: Iterable[Run]) -> bool:
    """Return whether the largest value comes first, as it does for metrics that are not errors."""
    errors = {"loss", *(name for run in runs for name in run.lower_is_better)}
    return column.kind in ("val", "test") and column.key not in errors


def by_data(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs in groups that can be compared, sorted by the groups' names; runs on unknown data come last."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.data, []).append(run)
    return [groups[name] for name in sorted(groups, key=lambda name: (name.endswith(UNKNOWN), name))]


def group_by_seed(runs: Sequence[Run], differ: Sequence[str]) -> list[list[Run]]:
    """Return the runs in groups in which only `seed` differs, of the hyperparameters `differ`; most groups are one run.

    A run without a seed or without metrics stays alone, and so does a second run with the same seed. A running run is
    not grouped with a finished one.
    """
    groups: dict[Any, list[Run]] = {}
    seen: set[Any] = set()
    for run in runs:
        values = (_hashable(run.params.get(name, object)) for name in differ if name != "seed")  # `object`: no value
        key: Any = (run.status, *values)
        seed = _hashable(run.params.get("seed"))
        if "seed" not in differ or seed is None or not run.val or (key, seed) in seen:
            key = id(run)
        seen.add((key, seed))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, bool | list) else value


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (n - 1), which is NaN for one value; infinities give NaN."""
    try:
        mean = math.fsum(values) / len(values)
        return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1 or math.nan))
    except (OverflowError, ValueError):
        return math.nan, math.nan


def sort_groups(groups: Sequence[Sequence[Run]], column: Column) -> list[Sequence[Run]]:
    """Return groups of runs that differ only in their seed, the best mean first; of equal ones, the lower loss."""
    is_high_first = is_better_high(column, [run for group in groups for run in group])
    loss = Column("loss", "test" if column.kind == "test" else "val", "loss")
    return sorted(groups, key=lambda group: (_rank(group, column, is_high_first), _rank(group, loss), group[0].name))


def _rank(group: Sequence[Run], column: Column, is_high_first: bool = False) -> tuple[int, float, str]:
    """Return the sort key of a group: finite means first, then NaN and infinities, then text, then None."""
    values = [column.value(run) for run in group]
    numbers = list(filter(is_number, values))
    value = mean_and_std(numbers)[0] if len(group) > 1 and numbers else values[0]
    if is_number(value):
        return (0, -value if is_high_first else value, "") if math.isfinite(value) else (1, 0.0, "")
    return (3, 0.0, "") if value is None else (2, 0.0, str(value))
