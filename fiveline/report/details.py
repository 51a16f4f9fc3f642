"""What only the page and a comparison of two runs need: history, predictions and the classes of a run."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

from fiveline.record import contents
from fiveline.record.errors import InputError
from fiveline.record.escape import from_cell
from fiveline.record.files import check_regular
from fiveline.report.runs import Run

PREDICTIONS = "predictions_test_best.csv"
MAX_BYTES = 2**30  # far above the predictions for ten million examples


def read_history(run: Run, problems: list[str]) -> list[dict[str, Any]]:
    """Return one dict for each finished epoch: `epoch`, `train`, `val`, ..., as train.py reads them; none of others.

    Args:
        run: the run
        problems: gets a line for a file that could not be read
    """
    try:
        return contents.read_history(run.path / "history.jsonl")
    except InputError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{run.path / 'history.jsonl'}: cannot be read ({error.strerror or error})")
    return []


def read_predictions(run: Run, problems: list[str]) -> list[dict[str, str]]:
    """Return one dict for each example of test: `id`, `label`, `prediction`, `loss`, ..., all as text."""
    return _read_csv(run.path / PREDICTIONS, "id", problems)


def read_per_class(run: Run, problems: list[str]) -> list[dict[str, str]]:
    """Return one dict for each class of test: `class`, `examples`, `precision`, ..., all as text."""
    return _read_csv(run.path / "per_class_test_best.csv", "class", problems)


def _read_csv(path: Path, key: str, problems: list[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file that evaluate.py wrote; none if there is no such file."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a sentence may be longer than the 128 KiB of the default
    try:
        _refuse_huge(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            if key not in (reader.fieldnames or ()):
                raise ValueError(f"it has no column {key!r}")
            reader.fieldnames = [from_cell(name) for name in reader.fieldnames or ()]
            rows = list(reader)
            if any(None in row for row in rows):
                raise ValueError("a row is longer than the first")
            return [{name: from_cell(cell) for name, cell in row.items()} for row in rows]
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror or error})")
    except InputError as error:
        problems.append(str(error))
    except (ValueError, csv.Error) as error:
        problems.append(f"{path}: not a CSV file of evaluate.py ({error})")
    return []


def _refuse_huge(path: Path) -> None:
    status = path.stat()
    check_regular(path, status.st_mode)
    if (size := status.st_size) > MAX_BYTES:
        raise OSError(f"{size:,} bytes; expected a file below {MAX_BYTES:,}")
