"""Each example's share in the metrics, and the report made of it: intervals, confusion matrix, predictions."""

from __future__ import annotations

import collections
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import utils
from fiveline.device import pieces
from fiveline.metrics import count_scored
from fiveline.report.intervals import interval
from fiveline.report.shares import Finish, Shares, to_npz, with_occurrence

MOST_CLASSES_SHOWN = 20  # a confusion matrix that still fits a terminal
MOST_CLASSES_KEPT = 100  # with more, a row of numbers for each example fills the memory
FIRST_COLUMNS = ("label", "prediction", "confidence", "loss")


class ExampleScores:
    """Numerator and denominator of every metric for each example, and its predictions.

    Args:
        loss_fn: (outputs, labels) -> scalar mean
        metrics: name -> fn(outputs, labels) -> (numerator, denominator)
        ids: a name for each example; None for their positions
    """

    def __init__(self, loss_fn: Any, metrics: Mapping[str, Any], ids: Sequence[str] | None = None) -> None:
        self.loss_fn, self.metrics, self.ids = loss_fn, metrics, ids
        self.values: dict[str, float] = {}  # the metrics over all examples
        self.rows: list[dict[str, Any]] = []
        self._pairs: dict[str, list[np.ndarray]] = {name: [] for name in [*metrics, "loss"]}

    def add(self, outputs: Any, labels: torch.Tensor, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch that is on the CPU, with a row from the task's `predictions` for each example.

        A row that has no `loss` gets one; it is empty where no label of the example is scored.
        """
        for (output, label), row in zip(pieces((outputs, labels), 1), rows, strict=True):
            num_scored = count_scored(label)
            loss = self.loss_fn(output, label) * num_scored
            self.rows.append(dict(row))
            self.rows[-1].setdefault("loss", float(loss / num_scored) if num_scored else None)
            self._add("loss", loss.where(num_scored > 0, 0.0), num_scored)  # a mean over nothing is NaN
            for name, metric in self.metrics.items():
                self._add(name, *metric(output, label))

    def _add(self, name: str, numerator: torch.Tensor, denominator: torch.Tensor) -> None:
        parts = [torch.as_tensor(part, dtype=torch.float64).reshape(-1) for part in (numerator, denominator)]
        if len(parts[0]) <= MOST_CLASSES_KEPT:
            self._pairs[name].append(torch.stack(parts).numpy())

    def shares(self) -> dict[str, Shares]:
        """Return each example's share of the metrics that have at most MOST_CLASSES_KEPT classes."""
        stacked = {name: np.stack(pairs, axis=1) for name, pairs in self._pairs.items() if pairs}
        return with_occurrence({name: (*pair, _finish_of(self.metrics.get(name))) for name, pair in stacked.items()})

    @functools.cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """A 95% confidence interval for each metric that has enough examples."""
        found = {name: interval(shares) for name, shares in self.shares().items()}
        return {name: ends for name, ends in found.items() if ends is not None}


def _finish_of(metric: Any) -> Finish:
    """Return the function of numbers that is applied to a metric's mean ratio."""
    finish = getattr(metric, "finish", float)
    return lambda value: float(finish(torch.tensor(value, dtype=torch.float64)))


def save_scores(
    model_dir: Path, name: str, source: Mapping[str, str], scores: ExampleScores, params: utils.Params
) -> tuple[str, dict[str, Any]]:
    """Write an evaluation's files, whose names end in `name`; return the tables to print, and the entries of --json.

    `source` holds the checkpoint's path, its checksum before it was loaded, and the data's folder. A Stop says that a
    run has replaced the checkpoint since then.
    """
    intervals = scores.intervals  # may take seconds: before the lock, for which a training run may wait
    with utils.scores_lock(model_dir):
        if utils.checksum(Path(source["checkpoint"])) != source["sha256"]:
            raise utils.Stop(
                f"{source['checkpoint']} was replaced by a run while it was scored, so the metrics were not written; "
                "rerun the same command to score the new weights"
            )
        for path in (model_dir / f"scored_{name}.json", model_dir / f"shares_{name}.npz"):
            path.unlink(missing_ok=True)  # until the report is complete, it belongs to no checkpoint
        report = write_report(model_dir, name, scores, params)
        utils.save_dict_to_json({**source, "intervals": intervals}, model_dir / f"scored_{name}.json")
    files = sorted(str(path) for path in model_dir.iterdir() if path.stem.endswith(f"_{name}"))
    return report, {"metrics": scores.values, "intervals": intervals, "files": files}


def write_report(model_dir: Path, name: str, scores: ExampleScores, params: utils.Params) -> str:
    """Write an evaluation's files, such as `metrics_{name}.json`, and return the tables to print."""
    ends = {metric: f"{low:.4f} to {high:.4f}" for metric, (low, high) in scores.intervals.items()}
    table = [[metric, value, ends.get(metric, "")] for metric, value in scores.values.items()]
    report = [tabulate(table, headers=["metric", "value", "95% interval"], floatfmt=".4f")]
    utils.save_dict_to_json(scores.values, model_dir / f"metrics_{name}.json")
    ids = scores.ids if scores.ids is not None else range(len(scores.rows))
    found = {key for row in scores.rows for key in row}
    columns = [*(key for key in FIRST_COLUMNS if key in found), *sorted(found.difference(FIRST_COLUMNS))]
    rows = ([key, *map(row.get, columns)] for key, row in zip(ids, scores.rows, strict=True))
    _write_csv(model_dir / f"predictions_{name}.csv", ["id", *columns], rows)
    classes = params.facts.get("classes")
    if classes:
        report += _report_classes(model_dir / f"per_class_{name}.csv", classes, scores)
    # last, so that the other files exist where this one does
    utils.write_atomically(model_dir / f"shares_{name}.npz", to_npz(scores.shares()))
    logging.info(f"- Saved metrics_{name}.json and predictions_{name}.csv in {model_dir}")
    return "\n\n".join(report)


def _report_classes(path: Path, classes: Sequence[str], scores: ExampleScores) -> list[str]:
    """Write the scores of each class, and return them and the confusion matrix as tables, where these are small."""
    # a mask or several tags are lists, or left out
    parts = [part for row in scores.rows for part in (row.get("label", []), row.get("prediction"))]
    confusion = None if any(isinstance(part, list | tuple) for part in parts) else _count_pairs(classes, scores.rows)
    vectors = {name: each for name, each in scores.shares().items() if each.occurs.shape[1] == len(classes) > 1}
    per_class = {name: each.class_ratios() for name, each in vectors.items()}
    columns: dict[str, Sequence[Any]] = {} if confusion is None else {"examples": confusion.sum(axis=1).tolist()}
    for metric, values in per_class.items():
        columns[metric.removeprefix("macro_")] = [None if np.isnan(value) else float(value) for value in values]
    _write_csv(path, ["class", *columns], zip(classes, *columns.values(), strict=True))
    names = [utils.escaped(str(name)) for name in classes]
    report = _warn_of_classes(names, per_class)
    if len(classes) <= MOST_CLASSES_SHOWN:
        report.append(tabulate({"class": names, **columns}, headers="keys", floatfmt=".4f", disable_numparse=[0]))
        if confusion is not None:
            cells = [[name, *(str(n) if n else "." for n in row)] for name, row in zip(names, confusion, strict=True)]
            matrix = tabulate(cells, headers=["", *names], stralign="right", disable_numparse=True)
            report.append(f"Confusion matrix: a row for each label, a column for each prediction\n{matrix}")
    return report


def _warn_of_classes(names: Sequence[str], per_class: Mapping[str, np.ndarray]) -> list[str]:
    """Return warnings on macro scores: the classes that are missing from them, or are always wrong."""
    values = np.stack(list(per_class.values())) if per_class else np.ones((1, len(names)))
    warnings = []
    for why, mask in (
        ("in neither labels nor predictions, so they are left out of macro scores", np.isnan(values)),
        ("without a single hit, so that the intervals of macro scores may miss the truth", values == 0),
    ):
        if found := [names[i] for i in np.flatnonzero(mask.all(axis=0)).tolist()]:
            more = f", ... ({len(found)} in all)" if len(found) > 10 else ""
            warnings.append(f"WARNING: classes {why}: {', '.join(found[:10])}{more}")
    return warnings


def _count_pairs(classes: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the confusion matrix, (labels, predictions); an InputError for a name that is not one of the classes."""
    counts, known = collections.Counter((row["label"], row.get("prediction")) for row in rows), set(classes)
    if wrong := [pair for pair in counts if not known.issuperset(pair)]:
        raise utils.InputError(
            f"predictions: a row has the label {wrong[0][0]!r} and the prediction {wrong[0][1]!r}; expected two of the "
            f"names in facts['classes'], {', '.join(map(str, classes[:6]))} ..., or lists"
        )
    return np.array([[counts[label, prediction] for prediction in classes] for label in classes])


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = "".join(utils.csv_lines([columns, *rows]))
    utils.write_atomically(path, text.encode("utf-8", "backslashreplace"))  # file names need not be valid text
