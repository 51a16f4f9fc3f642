"""Runs that differ only in their seed are one experiment, repeated: its mean and its spread."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from fiveline.report.runs import Run


def group_by_seed(runs: Sequence[Run], differ: Sequence[str]) -> list[list[Run]]:
    """Return the runs in groups that differ only in `seed`, in the order of their first; most often groups of one.

    Runs that do not say their seed or have no metrics yet stay alone, and so does a second run with the same seed. One
    that is running is no repetition of one that is finished.

    Args:
        runs: any
        differ: the hyperparameters that differ among them
    """
    if "seed" not in differ:
        return [[run] for run in runs]
    names = [name for name in differ if name != "seed"]
    groups: dict[Any, list[Run]] = {}
    seen: set[Any] = set()
    for run in runs:
        key: Any = (run.status, *(_hashable(run.params.get(name, _MISSING)) for name in names))
        seed = _hashable(run.params.get("seed"))
        if seed is None or not run.val or (key, seed) in seen:
            key = id(run)
        seen.add((key, seed))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


_MISSING = object()  # not None: a hyperparameter may be null


def _hashable(value: Any) -> Any:
    if isinstance(value, bool):
        return ("bool", value)  # True would be 1
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, (list, dict)) else value


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (of n - 1), of one value NaN; overflow is NaN as well."""
    try:
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return mean, math.nan
        return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    except (OverflowError, ValueError):  # of infinities
        return math.nan, math.nan
