"""Prediction intervals for numbers, from the errors on the test split, which had no part in training.

At least 90% of new examples lie within the ceil(0.9 (n + 1))-th smallest of the errors on n such examples, for any net:
split conformal prediction. This holds on average over runs and their test splits, not for each: with 60 examples, the
margin of one run in ten covers less than 85%. Val cannot be used, because it has chosen the checkpoint.

Source: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, Distribution-Free Predictive Inference for Regression (2018).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import utils


def margin(errors: Sequence[float], coverage: float = 0.9) -> float | None:
    """Return a bound on the errors of `coverage` of new examples; None if there are too few errors for one."""
    rank = math.ceil(coverage * (len(errors) + 1))
    return sorted(errors)[rank - 1] if rank <= len(errors) else None


def fetch_margin(checkpoint_path: Path, model_dir: Path) -> float | None:
    """Return the margin of a checkpoint that predicts numbers; None if `evaluate.py` has not scored it on test."""
    name = utils.scores_name("test", checkpoint_path, model_dir)
    path = model_dir / f"predictions_{name}.csv"
    try:
        utils.check_regular(path)
        with path.open(encoding="utf-8", newline="") as file:
            errors = [abs(float(row["label"]) - float(row["prediction"])) for row in csv.DictReader(file)]
        scored = utils.read_json(model_dir / f"scored_{name}.json")
        # the run may have continued since, and another folder's checkpoint may have the same name
        return margin(errors) if scored["sha256"] == utils.checksum(checkpoint_path) else None
    except (OSError, ValueError, KeyError, TypeError, csv.Error):  # no table, one of classes, or not evaluate.py's
        return None


def with_intervals(rows: Iterable[dict[str, Any]], margin: float | None) -> Iterator[dict[str, Any]]:
    """Yield rows with `lower` and `upper` beside each predicted number; they are None if the margin is."""
    for row in rows:
        number = row.get("prediction")
        if isinstance(number, float):
            bounds = (None, None) if margin is None else (number - margin, number + margin)
            # 10 digits are more than float32 has, and make 0.3 of 0.1 + 0.2
            lower, upper = (None if bound is None else float(f"{bound:.10g}") for bound in bounds)
            row = {**row, "lower": lower, "upper": upper}
        yield row
