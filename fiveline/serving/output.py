"""Rows of predictions: with an interval beside each number, and as CSV or JSON lines, written one after the other.

Intervals come from the errors on the n examples of the test split (not of val, which has chosen the checkpoint). The
ceil(0.9 (n + 1))-th smallest error bounds at least 90% of the errors on new examples (split conformal prediction). This
holds for any net, on average over test splits: with 60 examples, one margin in ten covers less than 85%.

Source: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, Distribution-Free Predictive Inference for Regression (2018).
"""

from __future__ import annotations

import collections
import csv
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import utils
from fiveline.record.atomic import temporary_path


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


def check_output(path: Path, inputs: Sequence[Path]) -> None:
    """Refuse an --output that has an unknown suffix, is also an --input, or cannot be written."""
    if path.suffix not in (".csv", ".jsonl") or path.is_dir():
        raise utils.InputError(f"--output {path}: expected the name of a file, which ends in .csv or .jsonl")
    if path.exists() and any(each.exists() and each.samefile(path) for each in inputs):
        raise utils.InputError(f"--output {path}: it is also an --input, and would be replaced; choose another name")
    check_writable(path)


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written: make and remove the temporary file with which the writing will begin."""
    try:
        temporary = temporary_path(path)
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except OSError as error:  # there is no such folder, it is read-only, the name is too long
        raise utils.InputError(f"{path}: cannot be written ({error.strerror}); name another file or folder") from None


def write_rows(rows: Iterable[Mapping[str, Any]], output: Path | None) -> None:
    """Write rows as they come, to a file, which appears when it is complete, or as CSV to standard output."""
    if output is not None:
        with utils.open_atomically(output) as file:
            for line in to_lines(rows, output.suffix):
                file.write(line.encode("utf-8", "backslashreplace"))  # a file's name need not be valid UTF-8
        return
    is_terminal = sys.stdout.isatty()
    if not is_terminal and hasattr(sys.stdout, "reconfigure"):  # the same bytes as in a file, on Windows also
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    for line in to_lines(rows, ".csv"):
        print(utils.escaped_lines(line) if is_terminal else line, end="", flush=True)


def counted(rows: Iterable[Mapping[str, Any]], counts: collections.Counter[str]) -> Iterator[Mapping[str, Any]]:
    """Yield rows; count all `rows`, the `broken` ones, and predicted numbers `without_interval`."""
    for row in rows:
        counts.update(rows=1, broken=int("error" in row), without_interval=int(row.get("lower", 0) is None))
        yield row
    if not counts["rows"]:  # raised before an older --output is replaced
        raise utils.InputError("--input: nothing in it to predict for")


def to_lines(rows: Iterable[Mapping[str, Any]], suffix: str) -> Iterator[str]:
    """Yield rows as lines of CSV, with a header, or as JSON lines, which leave out empty cells."""
    if suffix == ".jsonl":
        for row in rows:
            yield utils.to_json({key: row[key] for key in row if row[key] is not None}, indent=None) + "\n"
    else:
        yield from utils.csv_lines(_cells(rows))


def _cells(rows: Iterable[Mapping[str, Any]]) -> Iterator[Iterable[Any]]:
    """Yield the header and then the cells; the first row that is not broken decides the columns."""
    rows, first = iter(rows), []
    for row in rows:
        first.append(row)
        if "error" not in row:
            break
    if not first:  # write_rows raises, before anything is written
        return
    yield (columns := [*(first[-1] if "error" not in first[-1] else ("id", "prediction")), "error"])
    for row in itertools.chain(first, rows):
        yield [row.get(name) for name in columns]


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose probabilities have 6 significant digits; a list of them becomes one text."""
    return {key: _round(row[key]) if key.startswith(("confidence", "probability_")) else row[key] for key in row}


def _round(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return " ".join(str(_round(each)) for each in value)
    is_between = isinstance(value, float) and 0 < value < 1
    return min(float(f"{value:.6g}"), 0.999999) if is_between else value  # never 1, which would be certain
