"""How far off a predicted number may be, from what the run was off by on examples that had no part in its making.

With n examples put aside, at least 90% of new ones like them lie within the ceil(0.9 (n + 1))-th smallest of their n
distances from the prediction, whatever the net: split conformal prediction. That holds on average over runs and their
test splits, not for each: with 60 examples, the margin of one run in ten covers less than 85%. The examples are those
of the test split, because val has chosen the checkpoint; `evaluate.py` writes them down.

Source: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, Distribution-Free Predictive Inference for Regression (2018).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import utils

COVERAGE = 0.9


def margin(distances: Sequence[float], coverage: float = COVERAGE) -> float | None:
    """Return what `coverage` of new examples are off by at most; None where there are too few examples to say so."""
    rank = math.ceil(coverage * (len(distances) + 1))
    return sorted(distances)[rank - 1] if rank <= len(distances) else None


def fetch_margin(checkpoint_path: Path, model_dir: Path) -> float | None:
    """Return the margin of a checkpoint that predicts numbers; None where its test predictions are not there.

    Args:
        checkpoint_path: the checkpoint
        model_dir: the run's directory, with evaluate.py's table in it, and what says of which checkpoint that is: one
            of another folder may have the same name, and the run may have gone on since
    """
    name = utils.scores_name("test", checkpoint_path, model_dir)
    path = model_dir / f"predictions_{name}.csv"
    try:
        utils.check_regular(path)
        with path.open(encoding="utf-8", newline="") as file:
            distances = [abs(float(row["label"]) - float(row["prediction"])) for row in csv.DictReader(file)]
        scored = utils.read_json(model_dir / f"scored_{name}.json")
        return margin(distances) if scored["sha256"] == utils.checksum(checkpoint_path) else None
    except (OSError, ValueError, KeyError, TypeError, csv.Error):  # none, or of classes, or not evaluate.py's
        return None
