"""Columns of text as numbers: standardised, with an indicator of what is missing, or one slot for each category.

What train decides of a column is one dict of plain values, made by `describe_column` and followed by `encode_column`:

    {"name": "age", "mean": 48.2, "std": 13.1, "low": -17.3, "high": 113.7, "rare": False,
     "has_missing": True}
    {"name": "port", "categories": ["Cork", "Lima"], "unseen": [0.25, 0.75, 0.0]}

The first becomes two features: age, and whether it is missing. Numbers are limited to low and high: train's range, or
five standard deviations from the mean where that is wider. In a `rare` column only one or two rows of train differ
from all others: a number outside train's range counts as the mean. The second becomes three features: Cork, Lima, any
other. `unseen` stands for a cell that is neither: the last slot if train has such rows, or else the shares of the
categories in train, as a missing number gets the mean. What does not vary in train has no say: its features are the
same for every row of any split.
"""

from __future__ import annotations

import collections
import logging
import math
from collections.abc import Collection
from typing import Any

import numpy as np

from model.tabular.cells import (
    category_of,
    find_measures,
    is_disguised,
    is_moment,
    nfc,
    parse_number,
    value_order,
)
from model.tabular.params import Params
from model.tabular.quantities import PLAIN_NUMBERS, mean_and_std, missing_values, read_numbers
from model.tabular.readers import Table
from utils import InputError

MOST_CATEGORIES = 1000  # one slot each: beyond, the column is more likely a name or a text
FEW_CATEGORIES = 20  # so many are never too many
WORTH_A_WARNING = 0.05  # of the rows are unlike train; fewer get a line in the log
FEW_ROWS, MANY_ROWS = 3, 50  # nothing is learnt from fewer than 3 rows, where there are 50 or more


def describe_column(table: Table, name: str, params: Params) -> dict[str, Any]:
    """Return the facts that the train split decides of a feature.

    Args:
        table: train
        name: of the column
        params: categorical, missing, min_category_count

    Raises:
        InputError: there is no such column, text stands among numbers, or it has too many categories
    """
    missing = missing_values(params)
    different = {cell for cell in set(table.column(name, "feature")) if category_of(cell) not in missing}
    if not _is_categorical(table, name, different, params):
        return _describe_numbers(name, read_numbers(table, name, missing))
    return _describe_categories(table, name, params)


def _is_categorical(table: Table, name: str, different: Collection[str], params: Params) -> bool:
    if params.categorical is not None:
        return name in params.categorical
    if not different or any(math.isfinite(parse_number(cell)) for cell in different):
        return False
    disguised = {cell for cell in different if is_disguised(cell)} | find_measures(different, FEW_CATEGORIES)
    if len(disguised) > len(different) / 2:
        first = next(i for i, cell in enumerate(table.columns[name]) if cell in disguised)
        raise InputError(
            f"{table.where(first, name)}: found {table.columns[name][first]!r}, which is not read as a number "
            f"({len(disguised)} of the column's {len(different)} different values are like it); {PLAIN_NUMBERS}; "
            "if these are names of things, list the column in `categorical`"
        )
    moments = {cell for cell in different if is_moment(cell)}
    if len(moments) > max(len(different) / 2, FEW_CATEGORIES):
        logging.warning(
            f"- WARNING: column {name!r} holds {len(moments)} different dates or times, such as {min(moments)!r}, "
            "which are read as names; give numbers, such as the days since a date"
        )
    return True


def _describe_numbers(name: str, values: np.ndarray) -> dict[str, Any]:
    present = values[~np.isnan(values)]
    num_missing = len(values) - len(present)
    mean, std = mean_and_std(present)
    rare = std > 0 and _are_few(len(present) - np.unique(present, return_counts=True)[1].max(), len(values))
    if _counts_rows(present):
        logging.warning(
            f"- WARNING: column {name!r} holds {len(present)} different whole numbers, as a row number or an id does: "
            "if the rows are sorted, it gives the target away. Leave it out of `features`, or make it the id_column"
        )
    low, high = (present.min(), present.max()) if std else (mean, mean)
    reach = 0.0 if rare else 5 * std
    return {
        "name": name,
        "mean": mean,
        "std": std or 1.0,
        "low": float(min(low, mean - reach)),
        "high": float(max(high, mean + reach)),
        "rare": bool(rare),
        "has_missing": not _are_few(min(num_missing, len(present)), len(values)),
    }


def _are_few(number: int, num_rows: int) -> bool:
    """Say whether so few rows differ from all others that nothing can be learnt from them."""
    return number == 0 or (number < FEW_ROWS and num_rows >= MANY_ROWS)


def _counts_rows(values: np.ndarray) -> bool:
    """Say whether numbers are whole and all different, and nearly consecutive or in the order of the file."""
    if len(values) < 30 or (values != np.round(values)).any() or len(np.unique(values)) < len(values):
        return False
    steps = np.diff(values)
    return bool(np.ptp(values) < 3 * len(values) or (steps > 0).all() or (steps < 0).all())


def _describe_categories(table: Table, name: str, params: Params) -> dict[str, Any]:
    missing, cells = missing_values(params), table.columns[name]
    counts = collections.Counter(category_of(cell) for cell in cells)
    categories = sorted(
        (category for category in counts.keys() - missing if counts[category] >= params.min_category_count),
        key=value_order,
    )
    num_rows = sum(counts[category] for category in categories)
    cure = "raise min_category_count, make it the id_column, or leave it out of `features`"
    if len(categories) > MOST_CATEGORIES:
        raise InputError(
            f"{table.path}, column {name!r}: {len(categories)} categories in {len(table)} rows, expected at most "
            f"{MOST_CATEGORIES}; {cure}"
        )
    if len(categories) > FEW_CATEGORIES and num_rows < 4 * len(categories):
        logging.warning(
            f"- WARNING: column {name!r} is nearly unique: {len(categories)} categories in {num_rows} train rows. They "
            f"become {len(categories) + 1} features that can hardly be learnt from; {cure}"
        )
    if _are_few(len(cells) - num_rows, len(cells)):
        unseen = [*(counts[category] / num_rows for category in categories), 0.0]
    else:
        unseen = [*(0.0 for _ in categories), 1.0]
    return {"name": name, "categories": categories, "unseen": unseen}


def feature_names(column: dict[str, Any]) -> list[str]:
    """Return a name for each feature that a column becomes."""
    name = column["name"]
    if "categories" in column:
        return [*(f"{name}={category}" for category in column["categories"]), f"{name}: other"]
    return [name, f"{name}: missing"] if column["has_missing"] else [name]


def varies(column: dict[str, Any]) -> bool:
    """Say whether the features of a column differ between rows of train."""
    if "categories" in column:
        return len(column["categories"]) + (column["unseen"][-1] > 0) > 1
    return bool(column["has_missing"] or column["low"] < column["high"])


def encode_column(table: Table, column: dict[str, Any], missing: Collection[str], split: str = "") -> np.ndarray:
    """Return the features that a column becomes, float64, (num_rows, len(feature_names(column))).

    Args:
        table: any split
        column: from `describe_column` on train
        missing: from `missing_values`
        split: its name, if the log is to say how many rows are unlike train

    Raises:
        InputError: there is no such column, or text stands where train has numbers
    """
    encode = _encode_categories if "categories" in column else _encode_numbers
    features, unlike = encode(table, column, missing)
    for what, rows in unlike.items() if split else ():
        share = float(np.mean(rows))
        if share > 0:
            level, sign = (logging.WARNING, "WARNING: ") if share >= WORTH_A_WARNING else (logging.INFO, "")
            example = table.columns[nfc(column["name"])][int(np.argmax(rows))]
            logging.log(
                level,
                f"- {sign}column {column['name']!r}: {np.sum(rows)} of {len(rows)} rows of {split} ({share:.1%}) "
                f"{what}; the first is {example!r}",
            )
    return features


def _encode_numbers(
    table: Table, column: dict[str, Any], missing: Collection[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the features of a column of numbers, and which rows are unlike train, by what is unlike."""
    low, high = column.get("low", -math.inf), column.get("high", math.inf)  # older checkpoints have no limits
    if low == high:
        cells = table.column(column["name"], "feature")
        values = np.array([math.nan if category_of(cell) in missing else low for cell in cells])
    else:
        values = read_numbers(table, column["name"], missing)
    is_missing = np.isnan(values)
    is_far = (values < low) | (values > high)
    scaled = (np.clip(values, low, high) - column["mean"]) / column["std"]
    features = np.where(is_missing | (is_far & column.get("rare", False)), 0.0, scaled)  # 0 is the mean of train
    unlike = {"are far outside train's range and are limited to it": is_far}
    if column["has_missing"]:
        return np.stack([features, is_missing], axis=1), unlike
    if low < high:
        unlike["hold no value, unlike train, and get its mean"] = is_missing
    return features[:, None], unlike


def _encode_categories(
    table: Table, column: dict[str, Any], missing: Collection[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the features of a column of categories, and which rows are unlike train, by what is unlike."""
    number = len(column["categories"])
    positions = {category: i for i, category in enumerate(column["categories"])}
    # older checkpoints compare texts, and put every other text into the last slot
    spell, unseen = (category_of, column["unseen"]) if "unseen" in column else (str, [0.0] * number + [1.0])
    cells = [spell(cell) for cell in table.column(column["name"], "feature")]
    found = np.array([positions.get(cell, number) for cell in cells])
    is_missing = np.array([cell in missing for cell in cells])
    slots = np.concatenate([np.eye(number, number + 1), [unseen]])
    features = slots[np.where(is_missing, number, found)]
    return features, {"hold a category that train does not have, or too rarely": (found == number) & ~is_missing}
