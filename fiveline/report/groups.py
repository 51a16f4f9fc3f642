"""Runs that can be compared, because they are of one task on the same data, and runs that differ only in their seed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from fiveline.report.columns import Column, is_better_high, monitored_column, rank
from fiveline.report.runs import UNKNOWN, Run, is_number

_MISSING = object()  # not None, because a hyperparameter may be null


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
    names = [name for name in differ if name != "seed"]
    groups: dict[Any, list[Run]] = {}
    seen: set[Any] = set()
    for run in runs:
        key: Any = (run.status, *(_hashable(run.params.get(name, _MISSING)) for name in names))
        seed = _hashable(run.params.get("seed"))
        if "seed" not in differ or seed is None or not run.val or (key, seed) in seen:
            key = id(run)
        seen.add((key, seed))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _hashable(value: Any) -> Any:
    if isinstance(value, bool):
        return ("bool", value)  # True equals 1
    return json.dumps(value) if isinstance(value, list) else value


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (n - 1), which is NaN for one value; overflow gives NaN."""
    try:
        mean = math.fsum(values) / len(values)
        return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1 or math.nan))
    except (OverflowError, ValueError):  # of infinities
        return math.nan, math.nan


def sort_groups(groups: Sequence[Sequence[Run]], column: Column) -> list[Sequence[Run]]:
    """Return groups of runs that differ only in their seed, the best mean first; of equal metrics, the lower loss."""
    is_high_first = is_better_high(column, [run for group in groups for run in group])
    loss = [Column("loss", column.kind, "loss")] if column.kind in ("val", "test") else []

    def order(group: Sequence[Run]) -> tuple[Any, ...]:
        ties = [rank(_mean(group, each), False) for each in loss]
        return (rank(_mean(group, column), is_high_first), *ties, group[0].name)

    return sorted(groups, key=order)


def _mean(group: Sequence[Run], column: Column) -> Any:
    values = [column.value(run) for run in group]
    numbers = [value for value in values if is_number(value)]
    return mean_and_std(numbers)[0] if len(group) > 1 and numbers else values[0]


def sort_runs(runs: Sequence[Run]) -> list[Run]:
    """Return the best run of each task and data, then the second of each, and so on, by the metrics they monitored."""
    placed: list[tuple[int, int, Run]] = []
    for number, part in enumerate(by_data(runs)):
        ranked = sort_groups([[run] for run in part], monitored_column(part))
        placed += [(place, number, group[0]) for place, group in enumerate(ranked)]
    return [run for _, _, run in sorted(placed, key=lambda entry: entry[:2])]
