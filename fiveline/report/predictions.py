"""The predictions that evaluate.py saved for test, and their summary for the page.

The page shows a run's confusion matrix, and its worst mistakes with their inputs.
"""

from __future__ import annotations

import base64
import collections
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fiveline.record.errors import InputError
from fiveline.record.files import from_cell, read_text
from fiveline.report.runs import Run
from fiveline.tasks import fetch_params_class, fetch_serve, list_tasks

PREDICTIONS = "predictions_test_best.csv"
MAX_BYTES = 2**30  # far above the predictions for ten million examples
MOST_RUNS = 50  # the best ones: reading the predictions of thousands takes minutes, and their images megabytes
MOST_CLASSES = 40  # a larger confusion matrix becomes a list of the most frequent confusions
MOST_CONFUSIONS, MOST_MISTAKES, MOST_POINTS = 20, 24, 1000
LONGEST_TEXT, MOST_CELLS = 2000, 30
Rows = list[dict[str, str]]  # a CSV file's


def read_predictions(run: Run, problems: list[str]) -> Rows:
    """Return one dict for each example of test: `id`, `label`, `prediction`, `loss`, ..., all as text.

    The list is empty without labels or predictions, as for a task without a serve.py.
    """
    rows = _read_csv(run.path / PREDICTIONS, "id", problems)
    return rows if rows and {"label", "prediction"} <= rows[0].keys() else []


def read_per_class(run: Run, problems: list[str]) -> Rows:
    """Return one dict for each class of test: `class`, `examples`, `precision`, ..., all as text."""
    return _read_csv(run.path / "per_class_test_best.csv", "class", problems)


def _read_csv(path: Path, key: str, problems: list[str]) -> Rows:
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
        message = str(error) if isinstance(error, InputError) else f"{path}: not written by evaluate.py ({error})"
        problems.append(message)
        return []


def is_tagged(rows: Rows) -> bool:
    """Return whether labels are tags, one for each token of a sentence."""
    pairs = [(row["label"].split(), row["prediction"].split()) for row in rows]
    return all(len(a) == len(b) for a, b in pairs) and any(len(a) > 1 for a, _ in pairs)


def is_quantity(rows: Rows) -> bool:
    """Return whether numbers were predicted, not classes: predictions of numbers have no confidence."""
    return "confidence" not in rows[0] and not any(math.isnan(_as_float(row["label"])) for row in rows)


def _as_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_details(runs: Sequence[Run], problems: list[str]) -> dict[str, Any]:
    """Return a summary of the predictions of runs, the best first, and the inputs of their mistakes.

    Returns:
        `runs`: position -> `examples`, `mistakes` (their number), `worst`, `intervals` of the metrics on test,
        `confusion`, or for quantities `points`, and a `note` if the inputs cannot be shown;
        `inputs`: a list that the worst mistakes point into
    """
    details: dict[int, dict[str, Any]] = {}
    groups: dict[str, list[int]] = {}  # positions of runs to which the same ids mean the same examples
    for position, run in enumerate(runs):
        rows = read_predictions(run, problems) if len(details) < MOST_RUNS else []
        if rows:
            details[position] = {"intervals": run.intervals, **describe(rows, read_per_class(run, problems))}
            names = ["task", "data_dir", *getattr(_serve_module(run), "READS", ())]
            groups.setdefault(json.dumps([run.params.get(name) for name in names]), []).append(position)
    inputs: list[Any] = []
    for positions in groups.values():
        mistakes = [row for position in positions for row in details[position]["worst"]]
        try:
            _attach_inputs(runs[positions[0]], mistakes, inputs)
        except InputError as error:
            for position in positions:
                details[position]["note"] = f"The examples themselves are not shown. {error}"
    return {"runs": details, "inputs": inputs}


def describe(rows: Rows, per_class: Rows) -> dict[str, Any]:
    """Return the summary of one run's predictions."""
    is_number = not per_class and is_quantity(rows)
    wrong = rows if is_number else [row for row in rows if row["label"] != row["prediction"]]
    losses = [_as_float(row.get("worst_loss", row.get("loss", ""))) for row in wrong]
    order = sorted(range(len(wrong)), key=lambda i: (math.isnan(losses[i]), -losses[i]))
    kept = [{key: text[:LONGEST_TEXT] for key, text in wrong[i].items()} for i in order[:MOST_MISTAKES]]
    detail: dict[str, Any] = {"examples": len(rows), "mistakes": len(wrong), "worst": kept}
    pairs = [(row["label"], row["prediction"]) for row in rows]
    if is_number:
        points = [point for point in (tuple(map(_as_float, pair)) for pair in pairs) if all(map(math.isfinite, point))]
        return {**detail, "points": points[:: math.ceil(len(points) / MOST_POINTS) or 1]}
    if not per_class and is_tagged(rows):
        pairs = [pair for a, b in pairs for pair in zip(a.split(), b.split(), strict=True)]
    confusion = _confusion(pairs, [row["class"] for row in per_class])
    return {**detail, "confusion": confusion, "per_class": per_class[:MOST_CLASSES]}


def _confusion(pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> dict[str, Any]:
    """Return `classes` and `counts`, a row for each label; for many classes `pairs`, the most frequent confusions."""
    counts = collections.Counter(pairs)
    classes = [*names, *sorted({name for pair in counts for name in pair}.difference(names))]
    if len(classes) <= MOST_CLASSES:
        counted = [[counts[a, b] for b in classes] for a in classes]
        return {"classes": [name[:LONGEST_TEXT] for name in classes], "counts": counted}
    wrong = [(a, b, number) for (a, b), number in counts.most_common() if a != b][:MOST_CONFUSIONS]
    shown = [(a[:LONGEST_TEXT], b[:LONGEST_TEXT], number) for a, b, number in wrong]  # masks are long
    return {"num_classes": len(classes), "pairs": shown}


def _serve_module(run: Run) -> Any:
    """Return the `serve.py` of a run's task if it shows inputs, else None."""
    task = str(run.params.get("task"))
    module = fetch_serve(task) if task in list_tasks() else None
    return module if hasattr(module, "fetch_inputs") else None


def _attach_inputs(run: Run, mistakes: list[dict[str, Any]], inputs: list[Any]) -> None:
    """Add the inputs of mistakes to `inputs`, once for all runs, and let each mistake hold its input's position.

    An InputError says that the data is gone, or that the task shows no inputs.
    """
    task, data_dir, module = str(run.params.get("task")), run.params.get("data_dir"), _serve_module(run)
    if module is None:
        raise InputError(f"Task {task!r} has no serve.py with fetch_inputs; model/__init__.py describes it.")
    if not isinstance(data_dir, str):
        raise InputError("The run does not record where its data was.")
    values = {name: run.params[name] for name in module.READS if name in run.params}
    ids = list(dict.fromkeys(row["id"] for row in mistakes))
    try:
        params = fetch_params_class(task).from_values(values, f"{run.path}")
        found = module.fetch_inputs(ids, "test", Path(data_dir), params)
    except OSError as error:
        raise InputError(f"{data_dir}: cannot be read ({error.strerror or error})") from None
    places = {name: position for position, name in enumerate(found, start=len(inputs))}
    inputs += map(_embed, found.values())
    for row in mistakes:
        row["input"] = places.get(row["id"])


def _embed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input as JSON can hold it: an image as a data URL, text and rows cut to a readable length."""
    if "image" in entry:
        picture, buffer = entry["image"], io.BytesIO()
        kind = "png" if max(picture.size) <= 32 else "jpeg"  # JPEG would show in small images
        picture.convert(picture.mode if picture.mode in ("L", "RGB") else "RGB").save(buffer, kind, optimize=True)
        data = base64.b64encode(buffer.getvalue()).decode()
        return {"image": f"data:image/{kind};base64,{data}", "side": max(picture.size)}
    if "tokens" in entry:
        return {"tokens": [str(token)[:LONGEST_TEXT] for token in entry["tokens"]]}
    cells = [[str(name), str(cell)[:LONGEST_TEXT]] for name, cell in entry["row"].items()]
    return {"row": cells[:MOST_CELLS], "more": max(0, len(cells) - MOST_CELLS)}
