"""The saved predictions of a run, example by example, and what each of them contributed to a metric.

What a metric is, its name says: a candidate counts only where it gives the value that evaluate.py has written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from report.resampling import Shares

MOST_CLASSES = 100  # beyond, a row of so many numbers for each example fills the memory
TOLERANCE = 1e-4  # predictions are written with five or six digits

Rows = Sequence[Mapping[str, str]]


def fetch_shares(name: str, value: float, rows: Rows, classes: Sequence[str]) -> Shares | None:
    """Return what each example contributed to a metric; None if the predictions do not tell.

    Args:
        name: of the metric
        value: that evaluate.py has written
        rows: the predictions
        classes: all there are
    """
    for candidate in CANDIDATES.get(name, ()):
        try:
            shares = candidate(rows, classes)
        except (KeyError, ValueError, MemoryError):  # a column is missing or holds something else
            continue
        if shares is not None and math.isclose(shares.value(), value, rel_tol=TOLERANCE, abs_tol=TOLERANCE / 100):
            return shares
    return None


def is_tagged(rows: Rows) -> bool:
    """Return whether labels are tags, one for each token of a sentence."""
    return all(len(row["label"].split()) == len(row["prediction"].split()) for row in rows) and any(
        " " in row["label"] for row in rows
    )


def is_quantity(rows: Rows) -> bool:
    """Return whether a number was predicted, not a class: there is no confidence in it."""
    return "confidence" not in rows[0] and all(_is_float(row["label"]) for row in rows)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _column(values: Sequence[float]) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]  # (num_examples, 1)


def _right(rows: Rows, _: Sequence[str]) -> Shares:
    return Shares(_column([row["label"] == row["prediction"] for row in rows]), np.ones((len(rows), 1)))


def _right_tokens(rows: Rows, _: Sequence[str]) -> Shares:
    pairs = [_tags(row) for row in rows]
    hits = [sum(a == b for a, b in zip(*pair, strict=True)) for pair in pairs]
    return Shares(_column(hits), _column([len(label) for label, _ in pairs]))


def _tags(row: Mapping[str, str]) -> tuple[list[str], list[str]]:
    return row["label"].split(), row["prediction"].split()


def _loss(rows: Rows, _: Sequence[str]) -> Shares:
    return Shares(_column([float(row["loss"]) for row in rows]), np.ones((len(rows), 1)))


def _loss_of_tokens(rows: Rows, _: Sequence[str]) -> Shares:
    lengths = [len(row["label"].split()) for row in rows]
    return Shares(_column([float(row["loss"]) * n for row, n in zip(rows, lengths, strict=True)]), _column(lengths))


def _absolute(rows: Rows, _: Sequence[str]) -> Shares:
    return Shares(
        _column([abs(float(row["label"]) - float(row["prediction"])) for row in rows]), np.ones((len(rows), 1))
    )


def _squared(rows: Rows, _: Sequence[str]) -> Shares:
    errors = _column([float(row["label"]) - float(row["prediction"]) for row in rows])
    return Shares(errors**2, np.ones((len(rows), 1)), math.sqrt)


def _of_classes(called: float, are: float) -> Callable[[Rows, Sequence[str]], Shares | None]:
    """Return precision (of those called so), recall (of those that are so) or F1 (of both), averaged over classes."""

    def shares(rows: Rows, classes: Sequence[str]) -> Shares | None:
        if len(classes) > MOST_CLASSES:
            return None
        position = {name: i for i, name in enumerate(classes)}
        is_label, is_prediction = np.zeros((2, len(rows), len(classes)))
        for i, row in enumerate(rows):
            is_label[i, position[row["label"]]] = is_prediction[i, position[row["prediction"]]] = 1
        return Shares((called + are) * is_label * is_prediction, called * is_prediction + are * is_label)

    return shares


def _of_entities(found: float, there: float) -> Callable[[Rows, Sequence[str]], Shares]:
    """Return precision (of those found), recall (of those that are there) or F1 (of both) of entities."""

    def shares(rows: Rows, _: Sequence[str]) -> Shares:
        pairs = [[entities(tags) for tags in _tags(row)] for row in rows]
        hits = _column([len(true & predicted) for true, predicted in pairs])
        num_true, num_predicted = (_column([len(pair[i]) for pair in pairs]) for i in (0, 1))
        return Shares((found + there) * hits, found * num_predicted + there * num_true)

    return shares


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Return the entities in a sentence: first token, last token, type.

    B- begins one, and so does an I- after O or after another type; a tag without a prefix is a type by itself.

    Source: the rules are those of conlleval.pl (Tjong Kim Sang and De Meulder, 2003).
    """
    found, start, before = set(), 0, ""
    for i, tag in enumerate([*tags, "O"]):
        kind = "" if tag == "O" else tag[2:] if tag.startswith(("B-", "I-")) else tag
        if kind != before or tag.startswith("B-"):
            if before:
                found.add((start, i - 1, before))
            start, before = i, kind
    return found


CANDIDATES: dict[str, tuple[Callable[[Rows, Sequence[str]], Any], ...]] = {
    "accuracy": (_right, _right_tokens),
    "loss": (_loss, _loss_of_tokens),
    "mae": (_absolute,),
    "rmse": (_squared,),
    "macro_precision": (_of_classes(1, 0),),
    "macro_recall": (_of_classes(0, 1),),
    "macro_f1": (_of_classes(1, 1),),
    "precision": (_of_entities(1, 0),),
    "recall": (_of_entities(0, 1),),
    "f1": (_of_entities(1, 1),),
}
