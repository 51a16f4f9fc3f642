"""Which runs can be compared, those of one task on the same data, and the order in which they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fiveline.report.columns import Column, is_better_high, rank, sort_column
from fiveline.report.data import UNKNOWN
from fiveline.report.runs import Run, is_number
from fiveline.report.seeds import mean_and_std


def by_data(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs in groups that can be compared, by the names of the groups; runs on unknown data come last."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.data, []).append(run)
    return [groups[name] for name in sorted(groups, key=lambda name: (name.endswith(UNKNOWN), name))]


def sort_groups(groups: Sequence[Sequence[Run]], column: Column) -> list[Sequence[Run]]:
    """Return groups of runs that differ only in their seed, the best first, by their mean; those without it last.

    Of equal metrics, the lower loss is better.
    """
    is_high_first = is_better_high(column, [run for group in groups for run in group])
    loss = Column("loss", column.kind, "loss") if column.kind in ("val", "test") else None

    def order(group: Sequence[Run]) -> tuple[Any, ...]:
        ties = rank(_mean(group, loss), False) if loss else ()
        return (*rank(_mean(group, column), is_high_first), *ties, group[0].name)

    return sorted(groups, key=order)


def _mean(group: Sequence[Run], column: Column) -> Any:
    values = [column.value(run) for run in group]
    numbers = [value for value in values if is_number(value)]
    return mean_and_std(numbers)[0] if len(group) > 1 and numbers else values[0]


def sort_runs(runs: Sequence[Run]) -> list[Run]:
    """Return the best run of each task and data, then the second of each, and so on, by the metrics they monitored."""
    placed: list[tuple[int, int, Run]] = []
    for number, part in enumerate(by_data(runs)):
        ranked = sort_groups([[run] for run in part], sort_column(part, None))
        placed += [(place, number, group[0]) for place, group in enumerate(ranked)]
    return [run for _, _, run in sorted(placed, key=lambda entry: entry[:2])]
