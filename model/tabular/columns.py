"""Columns of text as numbers: standardised, with an indicator of what is missing, or one slot for each category.

What train decides of a column is one dict of plain values, made by `describe_column` and followed by `encode_column`:

    {"name": "age", "mean": 48.2, "std": 13.1, "has_missing": True}     two features: age, and whether it is missing
    {"name": "port", "categories": ["Cork", "Lima"]}                    three: Cork, Lima, any other or none
"""

from __future__ import annotations

import collections
import logging
import math
from collections.abc import Collection
from typing import Any

import numpy as np

from model.tabular.params import Params
from model.tabular.readers import Table
from utils import InputError

MOST_CATEGORIES = 1000  # one slot each: beyond, the column is more likely a name or a text
LARGEST = 1e30  # of a number; its square still fits into float64, and its distance from the mean into float32


def parse_number(text: str) -> float:
    """Return the number in a cell; infinity if it holds none, or one that is not finite or absurdly large."""
    try:
        value = float(text)
    except ValueError:
        return math.inf
    return value if abs(value) < LARGEST and "_" not in text else math.inf  # float() takes 2024_01 for a number


def read_numbers(table: Table, name: str, missing: Collection[str], role: str = "feature") -> np.ndarray:
    """Return the numbers of a column, float64, (num_rows,), NaN where one is missing.

    Raises:
        InputError: there is no such column, or a cell holds something else; names the first
    """
    cells = table.column(name, role)
    values = np.array([math.nan if cell in missing else parse_number(cell) for cell in cells], dtype=np.float64)
    wrong = np.flatnonzero(np.isinf(values))
    if len(wrong):
        cure = "`target_type` can be 'classes'" if role == "target" else "list the column in `categorical`"
        raise InputError(
            f"{table.where(wrong[0], name)}: found {cells[wrong[0]]!r}, expected a number ({len(wrong)} of "
            f"{len(cells)} rows hold none); mend it, or add it to `missing`, or, if these are names of things, {cure}"
        )
    return values


def value_order(text: str) -> tuple[float, str]:
    """Sort numbers by size, then everything else as text."""
    return parse_number(text), text


def describe_column(table: Table, name: str, params: Params) -> dict[str, Any]:
    """Return what the train split decides of a feature.

    Args:
        table: train
        name: of the column
        params: categorical, missing, min_category_count

    Raises:
        InputError: there is no such column, text stands among numbers, or it has too many categories
    """
    missing = set(params.missing)
    cells = table.column(name, "feature")
    different = set(cells) - missing
    if not different:
        logging.info(f"- column {name!r} has no value in train: nothing can be learnt from it")
    if not _is_categorical(name, different, params):
        values = read_numbers(table, name, missing)
        present = values[~np.isnan(values)]
        varies = len(present) > 0 and present.min() < present.max()  # the std of equal numbers may be 1e-17, not 0
        return {
            "name": name,
            "mean": float(present.mean()) if len(present) else 0.0,
            "std": float(present.std()) if varies else 1.0,
            "has_missing": len(present) < len(values),
        }
    counts = collections.Counter(cells)
    categories = sorted((cell for cell in different if counts[cell] >= params.min_category_count), key=value_order)
    if len(categories) > MOST_CATEGORIES:
        raise InputError(
            f"{table.path}, column {name!r}: {len(categories)} categories in {len(table)} rows, expected at most "
            f"{MOST_CATEGORIES}; raise min_category_count, make it the id_column, or leave it out of `features`"
        )
    return {"name": name, "categories": categories}


def _is_categorical(name: str, different: Collection[str], params: Params) -> bool:
    if params.categorical is not None:
        return name in params.categorical
    return len(different) > 0 and all(math.isinf(parse_number(cell)) for cell in different)


def feature_names(column: dict[str, Any]) -> list[str]:
    """Return a name for each feature that a column becomes."""
    name = column["name"]
    if "categories" in column:
        return [*(f"{name}={category}" for category in column["categories"]), f"{name}: other"]
    return [name, f"{name}: missing"] if column["has_missing"] else [name]


def encode_column(table: Table, column: dict[str, Any], missing: Collection[str]) -> np.ndarray:
    """Return the features that a column becomes, float64, (num_rows, len(feature_names(column))).

    Args:
        table: any split
        column: from `describe_column` on train
        missing: params.missing

    Raises:
        InputError: there is no such column, or text stands where train has numbers
    """
    if "categories" in column:
        positions = {category: i for i, category in enumerate(column["categories"])}
        cells = table.column(column["name"], "feature")
        slots = np.zeros((len(cells), len(positions) + 1))
        slots[np.arange(len(cells)), [positions.get(cell, len(positions)) for cell in cells]] = 1
        return slots
    values = read_numbers(table, column["name"], missing)
    is_missing = np.isnan(values)
    features = np.where(is_missing, 0.0, (values - column["mean"]) / column["std"])  # 0 is the mean of train
    return np.stack([features, is_missing], axis=1) if column["has_missing"] else features[:, None]
