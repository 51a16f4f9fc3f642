"""Which task and data a run is of, in words: only runs of the same can be ranked against each other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fiveline.report.runs import Run

UNKNOWN = "data not recorded"  # of runs by other code, CS230's for example
DIGITS = 6  # of a fingerprint, where two datasets have the same name


def name_groups(runs: Sequence[Run]) -> None:
    """Let each run say which task and data it is of; runs that say the same can be compared.

    A run that has failed before it saw its data has no metrics to compare: it stands with those of its `data_dir`.
    """
    places: dict[tuple[str, str], tuple[str, str | None]] = {}
    keys = []
    for run in runs:
        if run.fingerprint is not None:
            places.setdefault(_place(run), (_place(run)[0], run.fingerprint))
    for run in runs:
        key = (_place(run)[0], run.fingerprint)
        keys.append(key if run.fingerprint is not None or run.val or run.test else places.get(_place(run), key))
    names: dict[tuple[str, str | None], str] = {}
    for run, key in zip(runs, keys, strict=True):
        folder = os.path.basename(os.path.normpath(_place(run)[1])) if key[1] is not None else UNKNOWN  # noqa: PTH119
        names.setdefault(key, " ".join(filter(None, [key[0], folder])))
    counts = Counter(names.values())
    for run, key in zip(runs, keys, strict=True):
        run.data = names[key] if counts[names[key]] == 1 else f"{names[key]} ({(key[1] or '')[:DIGITS]})"


def _place(run: Run) -> tuple[str, str]:
    return str(run.params.get("task") or ""), str(run.params.get("data_dir") or "")
