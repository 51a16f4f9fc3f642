"""Each example's share in the metrics, and the report made of it: intervals, confusion matrix, predictions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import utils
from fiveline.device import pieces
from fiveline.metrics import as_sum, count_scored, ratio
from fiveline.report.intervals import interval
from fiveline.report.shares import Shares, finish_name, to_npz, with_occurrence

MOST_CLASSES_SHOWN = 20  # a confusion matrix that still fits a terminal
MOST_CLASSES_KEPT = 100  # beyond, a row with this many numbers for each example fills the memory


class ExampleScores:
    """Numerator and denominator of every metric, one example at a time, and what was predicted for it.

    Args:
        loss_fn: (outputs, labels) -> scalar mean
        metrics: name -> fn(outputs, labels) -> (numerator, denominator)
        ids: a name for each example, in the order in which they are added; None for their positions
    """

    def __init__(
        self,
        loss_fn: Callable[..., torch.Tensor],
        metrics: Mapping[str, Callable[..., Any]],
        ids: Sequence[str] | None = None,
    ) -> None:
        self.loss_fn, self.metrics, self.ids = loss_fn, metrics, ids
        self.rows: list[dict[str, Any]] = []
        self._pairs: dict[str, list[np.ndarray]] = {name: [] for name in [*metrics, "loss"]}
        self._intervals: dict[str, tuple[float, float]] | None = None

    def add(self, outputs: Any, labels: torch.Tensor, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch that is on the CPU.

        Args:
            outputs: batch first; a tensor, or a tuple or dict of tensors
            labels: batch first
            rows: of the task's `predictions`, one an example
        """
        self._intervals = None
        self.rows += [dict(row) for row in rows]
        for output, label in pieces((outputs, labels), 1):
            num_scored = count_scored(label)
            loss = self.loss_fn(output, label) * num_scored
            self._add("loss", loss.where(num_scored > 0, 0.0), num_scored)  # a mean over nothing is NaN
            for name, metric in self.metrics.items():
                self._add(name, *metric(output, label))

    def _add(self, name: str, numerator: torch.Tensor, denominator: torch.Tensor) -> None:
        pair = torch.stack([as_sum(numerator), as_sum(denominator)]).reshape(2, -1)
        if pair.shape[1] <= MOST_CLASSES_KEPT:
            self._pairs[name].append(pair.numpy())

    def shares(self) -> dict[str, Shares]:
        """Return each example's share of the metrics that have at most MOST_CLASSES_KEPT classes."""
        stacked = {name: np.stack(pairs, axis=1) for name, pairs in self._pairs.items() if pairs}
        parts = {name: (pair[0], pair[1]) for name, pair in stacked.items()}
        return with_occurrence(parts, {name: _finish_of(self.metrics.get(name)) for name in parts})

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return a 95% confidence interval for each metric of which the examples say enough; computed once."""
        if self._intervals is None:
            found = {name: interval(shares) for name, shares in self.shares().items()}
            self._intervals = {name: ends for name, ends in found.items() if ends is not None}
        return self._intervals

    def per_class(self) -> dict[str, np.ndarray]:
        """Return metrics before averaging: name -> (num_classes,), with NaN for a class that does not occur."""
        values = {}
        for name, shares in self.shares().items():
            if shares.numerators.shape[1] > 1:
                sums = torch.from_numpy(np.stack([shares.numerators, shares.denominators]).sum(axis=1))
                values[name] = np.where(shares.occurs.any(axis=0), ratio(*sums).numpy(), np.nan)
        return values

    def to_npz(self) -> bytes:
        """Return the shares as a file."""
        shares = self.shares()
        return to_npz(shares, {name: finish_name(each.finish) for name, each in shares.items()})


def _finish_of(metric: Any) -> Callable[[float], float]:
    """Return the function of numbers that is applied to a metric's mean ratio."""
    if not hasattr(metric, "finish"):
        return float
    return lambda value: float(metric.finish(torch.tensor(value, dtype=torch.float64)))


def write_report(
    model_dir: Path,
    name: str,
    values: Mapping[str, float],
    scores: ExampleScores,
    params: utils.Params,
) -> str:
    """Write the files of an evaluation, and return the tables to print: metrics with their intervals, classes.

    Args:
        model_dir: the run's directory
        name: what to call the files after, `test_best` for one
        values: of `evaluate`
        scores: of each example
        params: with facts
    """
    intervals = scores.intervals()
    table = [
        [metric, value, f"{intervals[metric][0]:.4f} to {intervals[metric][1]:.4f}" if metric in intervals else ""]
        for metric, value in values.items()
    ]
    report = [tabulate(table, headers=["metric", "value", "95% interval"], floatfmt=".4f")]
    utils.save_dict_to_json(values, model_dir / f"metrics_{name}.json")
    columns = ["id", *sorted({key for row in scores.rows for key in row}, key=_column_order)]
    rows = [{"id": scores.ids[i] if scores.ids is not None else i, **row} for i, row in enumerate(scores.rows)]
    _write_csv(model_dir / f"predictions_{name}.csv", columns, rows)
    classes = params.facts.get("classes")
    if classes:
        report += _report_classes(model_dir / f"per_class_{name}.csv", classes, scores)
    utils.write_atomically(model_dir / f"shares_{name}.npz", scores.to_npz())  # last: then the others are beside it
    logging.info(f"- Saved metrics_{name}.json and predictions_{name}.csv in {model_dir}")
    return "\n\n".join(report)


def _column_order(name: str) -> tuple[int, str]:
    known = ["label", "prediction", "confidence", "loss"]
    return (known.index(name) if name in known else len(known), name)


def _report_classes(path: Path, classes: Sequence[str], scores: ExampleScores) -> list[str]:
    """Write and return what a reader wants to know of each class: how often it was right, and taken for which other."""
    confusion = None if any(map(_is_of_many, scores.rows)) else _count_pairs(classes, scores.rows)
    per_class = {name: values for name, values in scores.per_class().items() if len(values) == len(classes)}
    rows = [
        {
            "class": name,
            **({} if confusion is None else {"examples": int(confusion[i].sum())}),
            **{metric.removeprefix("macro_"): _number(v[i]) for metric, v in per_class.items()},
        }
        for i, name in enumerate(classes)
    ]
    _write_csv(path, list(rows[0]), rows)
    warnings = _warn_of_classes(classes, per_class)
    if len(classes) > MOST_CLASSES_SHOWN:
        return warnings
    names = [utils.escaped(str(name)) for name in classes]
    shown = [{**row, "class": name} for row, name in zip(rows, names, strict=True)]
    tables = [*warnings, tabulate(shown, headers="keys", floatfmt=".4f", disable_numparse=[0])]
    if confusion is not None:
        cells = [[name, *(str(n) if n else "." for n in confusion[i].tolist())] for i, name in enumerate(names)]
        matrix = tabulate(cells, headers=["", *names], stralign="right", disable_numparse=True)
        tables.append(f"Confusion matrix: a row for each label, a column for each prediction\n{matrix}")
    return tables


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _warn_of_classes(classes: Sequence[str], per_class: Mapping[str, np.ndarray]) -> list[str]:
    """Return warnings on macro scores: the classes that are missing from them, or are always wrong."""
    if not per_class:
        return []
    values = np.stack(list(per_class.values()))
    groups = {
        "in neither labels nor predictions, so left out of macro scores": np.isnan(values).all(axis=0),
        "without a single hit, so that the intervals of macro scores may miss the truth": (values == 0).all(axis=0),
    }
    found = {why: [str(classes[i]) for i in np.flatnonzero(mask).tolist()] for why, mask in groups.items()}
    return [
        f"WARNING: classes {why}: {', '.join(names[:10])}{f', ... ({len(names)} in all)' if len(names) > 10 else ''}"
        for why, names in found.items()
        if names
    ]


def _is_of_many(row: Mapping[str, Any]) -> bool:
    """Return whether an example has many labels, a mask or several tags: given as a list, or left out."""
    return "label" not in row or any(isinstance(row.get(name), list | tuple) for name in ("label", "prediction"))


def _count_pairs(classes: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the confusion matrix, (labels, predictions).

    Raises:
        InputError: a label or a prediction is none of the classes
    """
    positions = {name: i for i, name in enumerate(classes)}
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    for row in rows:
        label, prediction = row["label"], row.get("prediction")
        if label not in positions or prediction not in positions:
            raise utils.InputError(
                f"predictions: a row has the label {label!r} and the prediction {prediction!r}; expected two of the "
                f"names in facts['classes'], {', '.join(map(str, list(classes)[:6]))} ..., or lists (the contract is "
                "in model/__init__.py)"
            )
        confusion[positions[label], positions[prediction]] += 1
    return confusion


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(utils.csv_lines([columns, *([row.get(name) for name in columns] for row in rows)]))
    utils.write_atomically(path, text.encode("utf-8", "backslashreplace"))  # a file's name may be no text
