"""What a page shows of a single run beyond its row: the confusion matrix and the worst mistakes, with their inputs."""

from __future__ import annotations

import base64
import collections
import importlib
import importlib.util
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fiveline.record.errors import InputError
from fiveline.report.details import PREDICTIONS, read_per_class, read_predictions
from fiveline.report.examples import is_quantity, is_tagged
from fiveline.report.runs import Run
from fiveline.tasks import fetch_params_class, list_tasks

SPLIT = "test"  # what evaluate.py scores unless it is told otherwise
MOST_RUNS = 200  # the best ones; reading the predictions of thousands takes minutes, and nobody looks at them
MOST_CLASSES = 40  # a larger confusion matrix is a list of what was most often taken for what
MOST_CONFUSIONS, MOST_MISTAKES, MOST_POINTS = 20, 24, 1000
MOST_IMAGE_BYTES = 4 * 2**20  # of all runs together; they share the examples that are hard
LONGEST_TEXT, MOST_CELLS = 2000, 30


def read_details(runs: Sequence[Run], problems: list[str], sources: set[Path]) -> dict[str, Any]:
    """Return what is known of the predictions of runs, the best first, and the inputs that they were wrong about.

    Args:
        runs: the runs
        problems: gets a line for a file that could not be read
        sources: gets the files that examples were taken from, or the folder that these are in

    Returns:
        `runs`: position -> `examples`, `mistakes` (in numbers and the worst of them) and `confusion`, or for
        quantities `points`; `inputs`: a list that mistakes point into; `notes`: why an input cannot be shown
    """
    details: dict[int, dict[str, Any]] = {}
    for position, run in enumerate(runs):
        if len(details) == MOST_RUNS:
            break
        rows = read_predictions(run, problems)
        if rows and "label" in rows[0] and "prediction" in rows[0]:
            details[position] = _describe(rows, read_per_class(run, problems))
            sources.add(run.path / PREDICTIONS)
    inputs, notes = _attach_inputs(runs, details, sources)
    return {"runs": details, "inputs": inputs, "notes": notes}


def _describe(rows: list[dict[str, str]], per_class: list[dict[str, str]]) -> dict[str, Any]:
    """Return what there is to say of the predictions of one run."""
    is_number = not per_class and is_quantity(rows)
    wrong = rows if is_number else [row for row in rows if row["label"] != row["prediction"]]
    worst = sorted(wrong, key=lambda row: -_number(row.get("loss", "")))[:MOST_MISTAKES]  # no loss, NaN: as it comes
    kept = [{key: text[:LONGEST_TEXT] for key, text in row.items()} for row in worst]
    detail: dict[str, Any] = {"examples": len(rows), "mistakes": len(wrong), "worst": kept}
    if is_number:
        points = [(_number(row["label"]), _number(row["prediction"])) for row in rows]
        points = [point for point in points if all(map(math.isfinite, point))]
        return {**detail, "points": points[:: math.ceil(len(points) / MOST_POINTS) or 1]}
    pairs = [(row["label"], row["prediction"]) for row in rows]
    if not per_class and is_tagged(rows):
        pairs = [pair for a, b in pairs for pair in zip(a.split(), b.split(), strict=True)]
    detail["confusion"] = _confusion(pairs, [row["class"] for row in per_class])
    detail["per_class"] = per_class[:MOST_CLASSES]
    return detail


def _number(text: str) -> float:
    """Return the number that a cell holds; what is none, NaN too, comes last."""
    try:
        number = float(text)
    except ValueError:
        return -math.inf
    return -math.inf if math.isnan(number) else number


def _confusion(pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> dict[str, Any]:
    """Return `classes` and `counts`, a row for each label; of many classes, `pairs`, the most frequent confusions."""
    counts = collections.Counter(pairs)
    seen = {name for pair in counts for name in pair}
    classes = [*names, *sorted(seen.difference(names))]
    if len(classes) <= MOST_CLASSES:
        counted = [[counts[a, b] for b in classes] for a in classes]
        return {"classes": [name[:LONGEST_TEXT] for name in classes], "counts": counted}
    wrong = [(a, b, number) for (a, b), number in counts.most_common() if a != b][:MOST_CONFUSIONS]
    shown = [(a[:LONGEST_TEXT], b[:LONGEST_TEXT], number) for a, b, number in wrong]  # of masks, they are long
    return {"num_classes": len(classes), "pairs": shown}


def _attach_inputs(
    runs: Sequence[Run], details: Mapping[int, dict[str, Any]], sources: set[Path]
) -> tuple[list[Any], list[str]]:
    """Let each mistake say the position of its input, once for all runs that were wrong about it."""
    groups: dict[str, list[int]] = {}
    for position in details:
        groups.setdefault(_source(runs[position]), []).append(position)
    inputs: list[Any] = []
    notes: list[str] = []
    num_bytes = 0
    for positions in groups.values():
        ids = list(dict.fromkeys(row["id"] for position in positions for row in details[position]["worst"]))
        try:
            found = _fetch_inputs(runs[positions[0]], ids)
        except InputError as error:
            notes.append(f"The examples themselves are not shown. {error}")
            for position in positions:
                details[position]["note"] = len(notes) - 1
            continue
        places: dict[str, int] = {}
        for name in ids:
            entry = _embed(found[name]) if name in found else None
            num_bytes += len(entry.get("image", "")) if entry else 0
            if entry and num_bytes <= MOST_IMAGE_BYTES:
                places[name] = len(inputs)
                inputs.append(entry)
                sources.add(found[name].get("source") or Path(runs[positions[0]].params["data_dir"]))
        for position in positions:
            for row in details[position]["worst"]:
                row["input"] = places.get(row["id"])
    return inputs, notes


def _source(run: Run) -> str:
    """Return a text that two runs share if the same ids mean the same examples to them."""
    task = run.params.get("task")
    names = ["data_dir", *(_show_module(str(task)).READS if _has_show(task) else ())]
    return json.dumps([str(task), *(run.params.get(name) for name in names)], default=str)


def _has_show(task: Any) -> bool:
    return task in list_tasks() and importlib.util.find_spec(f"model.{task}.show") is not None


def _show_module(task: str) -> Any:
    return importlib.import_module(f"model.{task}.show")


def _fetch_inputs(run: Run, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what the examples look like, by their id.

    Raises:
        InputError: the data is gone, or the task does not show any
    """
    task, data_dir = run.params.get("task"), run.params.get("data_dir")
    if not _has_show(task):
        raise InputError(f"Task {task!r} has no show.py; model/__init__.py says what that is.")
    if not isinstance(data_dir, str):
        raise InputError("The run does not say where its data was.")
    module, params_class = _show_module(str(task)), fetch_params_class(str(task))
    values = {name: run.params[name] for name in module.READS if name in run.params}
    try:
        params = params_class.from_values(values, f"{run.path}")
        found: dict[str, dict[str, Any]] = module.fetch_inputs(ids, SPLIT, Path(data_dir), params)
    except OSError as error:
        raise InputError(f"{data_dir}: cannot be read ({error.strerror or error})") from None
    return found


def _embed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input as JSON can hold it: an image as a data URL, text and rows cut to a length that can be read."""
    if "image" in entry:
        picture, buffer = entry["image"], io.BytesIO()
        is_small = max(picture.size) <= 32  # there, JPEG would show
        mode = picture.mode if picture.mode in ("L", "RGB") else "RGB"
        picture.convert(mode).save(buffer, *(["PNG"] if is_small else ["JPEG"]), optimize=True)
        data = base64.b64encode(buffer.getvalue()).decode()
        kind = "png" if is_small else "jpeg"
        return {"image": f"data:image/{kind};base64,{data}", "side": max(picture.size)}
    if "tokens" in entry:
        return {"tokens": [str(token)[:LONGEST_TEXT] for token in entry["tokens"]]}
    cells = [[str(name), str(cell)[:LONGEST_TEXT]] for name, cell in entry["row"].items()]
    return {"row": cells[:MOST_CELLS], "more": max(0, len(cells) - MOST_CELLS)}
