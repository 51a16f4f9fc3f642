"""Read what train.py saved of each epoch and evaluate.py of each example."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fiveline.record import check
from fiveline.record.errors import InputError
from fiveline.record.files import from_cell, read_text
from fiveline.report.runs import Run

PREDICTIONS = "predictions_test_best.csv"
MAX_BYTES = 2**30  # far above the predictions for ten million examples


def read_history(run: Run, problems: list[str]) -> list[dict[str, Any]]:
    """Return one dict for each finished epoch: `epoch`, `train`, `val`, ...; empty if the file cannot be read."""
    try:
        return check.read_history(run.path / "history.jsonl")
    except (InputError, OSError) as error:
        problems.append(str(error))
        return []


def read_predictions(run: Run, problems: list[str]) -> list[dict[str, str]]:
    """Return one dict for each example of test: `id`, `label`, `prediction`, `loss`, ..., all as text.

    Without labels and predictions, as for a task without a serve.py, there are none.
    """
    rows = _read_csv(run.path / PREDICTIONS, "id", problems)
    return rows if rows and {"label", "prediction"} <= rows[0].keys() else []


def read_per_class(run: Run, problems: list[str]) -> list[dict[str, str]]:
    """Return one dict for each class of test: `class`, `examples`, `precision`, ..., all as text."""
    return _read_csv(run.path / "per_class_test_best.csv", "class", problems)


def _read_csv(path: Path, key: str, problems: list[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file of evaluate.py; empty if there is no such file or it cannot be read."""
    csv.field_size_limit(2**31 - 1)  # a sentence may be longer than the 128 KiB of the default
    try:
        if not path.exists():
            return []
        reader = csv.DictReader(io.StringIO(read_text(path, MAX_BYTES), newline=""), restval="")
        reader.fieldnames = [from_cell(name) for name in reader.fieldnames or ()]
        rows = list(reader)
        if key not in reader.fieldnames or any(None in row for row in rows):
            raise ValueError(f"no column {key!r}" if key not in reader.fieldnames else "a row is longer than the first")
        return [{name: from_cell(cell) for name, cell in row.items()} for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        is_named = isinstance(error, InputError)
        problems.append(str(error) if is_named else f"{path}: not a CSV file of evaluate.py ({error})")
        return []


def is_tagged(rows: Sequence[Mapping[str, str]]) -> bool:
    """Return whether labels are tags, one for each token of a sentence."""
    return all(len(row["label"].split()) == len(row["prediction"].split()) for row in rows) and any(
        " " in row["label"] for row in rows
    )


def is_quantity(rows: Sequence[Mapping[str, str]]) -> bool:
    """Return whether numbers were predicted, not classes: predictions of numbers have no confidence."""
    return "confidence" not in rows[0] and not any(math.isnan(as_float(row["label"])) for row in rows)


def as_float(text: str) -> float:
    """Return the number in a cell; NaN if it holds no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
