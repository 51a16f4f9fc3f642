"""Columns of text as numbers: standardised, with an indicator of what is missing, or one slot for each category.

`describe` makes one dict of a column of train, which `encode` follows for any split:

    {"name": "age", "mean": 48.2, "std": 13.1, "low": -17.3, "high": 113.7, "has_missing": True}
    {"name": "port", "categories": ["Cork", "Lima"], "unseen": [0.25, 0.75, 0.0]}

The first becomes two features: age, and whether it is missing. Numbers are limited to low and high: train's range, or
five standard deviations from the mean where that is wider. The second becomes three features: Cork, Lima, any other.
`unseen` stands for a cell that is neither: the last slot if train has such rows, or else the shares of the categories
in train. A column that does not vary in train becomes the same features in every row of any split.
"""

from __future__ import annotations

import collections
import contextlib
import decimal
import functools
import logging
import math
import re
import unicodedata
from collections.abc import Collection
from typing import Any

import numpy as np

from model.tabular.params import Params
from model.tabular.readers import Table
from utils import InputError

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# a number that may be written in several ways; one with leading zeros, such as 007, is a name
CATEGORY_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]{1,2})?")
DECORATION = re.compile(r"[\s,'’−%‰$¢£¤¥\u20a0-\u20cf]|EUR|USD|GBP|CHF|JPY|CNY|INR")
PLAIN_NUMBERS = "write numbers as 1234.5, without decimal commas, thousands separators, percent and currency signs"
MAX_CATEGORIES = 1000  # one slot each; a column with more is more likely a name or a text


@functools.lru_cache(maxsize=100_000)  # most columns repeat their values, and train is read twice
def parse_number(text: str) -> float:
    """Return the number in a cell such as 12, -0.5 or 1e-3; infinity for other text and for numbers from 1e30 on."""
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    return value if abs(value) < 1e30 else math.inf  # a larger distance from the mean may not fit into float32


@functools.lru_cache(maxsize=10_000)
def category_of(text: str) -> str:
    """Return one spelling for all equal cells: 1, 1.0 and 1e0 are one category, and so are NFC and NFD; 01 is not 1."""
    if not CATEGORY_NUMBER.fullmatch(text) or math.isinf(parse_number(text)):
        return unicodedata.normalize("NFC", text)
    digits = format(decimal.Decimal(text), "f")  # a float would round the last digits of an id
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if digits == "-0" else digits


def is_disguised(text: str) -> bool:
    """Return whether a cell that `parse_number` does not read looks like a number, as 1,5 and 12% do."""
    with contextlib.suppress(ValueError):
        float(DECORATION.sub("", text.strip("()")))
        return math.isinf(parse_number(text))
    return False


def missing_values(params: Params) -> set[str]:
    """Return the texts that count as missing, as `category_of` spells them and as the user does."""
    return {text.strip() for text in params.missing} | {category_of(text.strip()) for text in params.missing}


def read_numbers(table: Table, name: str, missing: Collection[str]) -> np.ndarray:
    """Return the numbers of a column, float64, NaN where one is missing; raise InputError for any other cell."""
    cells = table.column(name)
    values = np.array([math.nan if cell in missing else parse_number(cell) for cell in cells], dtype=np.float64)
    for i in np.flatnonzero(np.isinf(values)).tolist():
        cure = PLAIN_NUMBERS if is_disguised(cells[i]) else "correct it, or add it to `missing`"
        cure += (
            ". If it is the name of a thing, list the column in `categorical`; or, as the target, target_type=classes"
        )
        raise InputError(f"{table.where(i, name)}: found {cells[i]!r}, expected a number below 1e30; {cure}")
    values[np.isin(values, [parse_number(text) for text in missing])] = math.nan  # -999.0 is -999
    return values


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation; the first value and 0 where only rounding may differ."""
    if len(values) == 0 or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return float(values[0]) if len(values) else 0.0, 0.0
    return float(values.mean()), float(values.std())


def describe(table: Table, name: str, params: Params) -> dict[str, Any]:
    """Return the facts of a feature that train decides; raise InputError if there is no such column or it is broken."""
    missing, cells = missing_values(params), table.column(name)
    different = {cell for cell in set(cells) if category_of(cell) not in missing}
    is_categorical = bool(different) and all(math.isinf(parse_number(cell)) for cell in different)
    if params.categorical is not None:
        is_categorical = name in params.categorical
    elif is_categorical and (num_disguised := sum(map(is_disguised, different))) > len(different) / 2:
        first = next(i for i, cell in enumerate(cells) if is_disguised(cell))
        found = f"{num_disguised} of the column's {len(different)} different values are like it"
        cure = f"{PLAIN_NUMBERS}; if these are names of things, list the column in `categorical`"
        raise InputError(f"{table.where(first, name)}: found {cells[first]!r}, which is not a number ({found}); {cure}")
    return _describe_categories(table, name, params) if is_categorical else _describe_numbers(table, name, missing)


def _describe_numbers(table: Table, name: str, missing: Collection[str]) -> dict[str, Any]:
    values = read_numbers(table, name, missing)
    present = values[~np.isnan(values)]
    mean, std = mean_and_std(present)
    low, high = (present.min(), present.max()) if std else (mean, mean)
    limits = {"low": float(min(low, mean - 5 * std)), "high": float(max(high, mean + 5 * std))}
    has_missing = 0 < len(present) < len(values)
    return {"name": name, "mean": mean, "std": std or 1.0, **limits, "has_missing": has_missing}


def _describe_categories(table: Table, name: str, params: Params) -> dict[str, Any]:
    counts = collections.Counter(map(category_of, table.column(name)))
    frequent = {category for category, count in counts.items() if count >= params.min_category_count}
    categories = sorted(frequent - missing_values(params), key=lambda text: (parse_number(text), text))
    num_rows = sum(counts[category] for category in categories)
    found = f"{len(categories)} categories in {num_rows} train rows"
    cure = "raise min_category_count, make it the id_column, or leave it out of `features`"
    if len(categories) > MAX_CATEGORIES:
        raise InputError(f"{table.path}, column {name!r}: {found}, expected at most {MAX_CATEGORIES}; {cure}")
    if len(categories) > 20 and num_rows < 4 * len(categories):
        logging.warning(f"- WARNING: column {name!r} is nearly unique: {found}, too few to learn from; {cure}")
    has_others = num_rows < len(table)
    unseen = [0.0 if has_others else counts[category] / num_rows for category in categories]
    return {"name": name, "categories": categories, "unseen": [*unseen, float(has_others)]}


def feature_names(column: dict[str, Any]) -> list[str]:
    """Return a name for each feature that a column becomes."""
    name = column["name"]
    if "categories" in column:
        return [*(f"{name}={category}" for category in column["categories"]), f"{name}: other"]
    return [name, f"{name}: missing"] if column["has_missing"] else [name]


def varies(column: dict[str, Any]) -> bool:
    """Return whether the features of a column differ between rows of train."""
    if "categories" in column:
        return len(column["categories"]) + (column["unseen"][-1] > 0) > 1
    return column["has_missing"] or column["low"] < column["high"]


def encode(table: Table, params: Params, split: str = "") -> np.ndarray:
    """Return the net's inputs, (num_rows, num_features), float32; log how many rows of `split` are unlike train."""
    missing, encoded = missing_values(params), []
    for column in params.facts["columns"]:
        encode_column = _encode_categories if "categories" in column else _encode_numbers
        features, unlike = encode_column(table, column, missing)
        encoded.append(features)
        for words, rows in unlike.items():  # which rows are unlike train, by words that say how
            if split and rows.any():
                level, sign = (logging.WARNING, "WARNING: ") if rows.mean() >= 0.05 else (logging.INFO, "")
                found = f"{rows.sum()} of {len(rows)} rows of {split} ({rows.mean():.1%}) {words}"
                example = table.column(column["name"])[int(rows.argmax())]
                logging.log(level, f"- {sign}column {column['name']!r}: {found}; the first is {example!r}")
    features = np.concatenate(encoded, axis=1, dtype=np.float32, casting="same_kind")
    return features.reshape(len(table), len(params.facts["feature_names"]))  # else the facts contradict each other


def _encode_numbers(table: Table, column: dict[str, Any], missing: Collection[str]) -> tuple[np.ndarray, dict]:
    # older checkpoints have no limits, or a rule for columns in which few rows of train differ from all others
    low, high, rare = column.get("low", -math.inf), column.get("high", math.inf), column.get("rare", False)
    if low == high:  # train has one number, so other text does no harm
        cells = table.column(column["name"])
        values = np.array([math.nan if category_of(cell) in missing else low for cell in cells])
    else:
        values = read_numbers(table, column["name"], missing)
    is_missing, is_far = np.isnan(values), (values < low) | (values > high)
    scaled = (np.clip(values, low, high) - column["mean"]) / column["std"]
    features = np.where(is_missing | (is_far & rare), 0.0, scaled)  # 0 is the mean of train
    unlike = {"are far outside train's range and are limited to it": is_far}
    if low < high and not column["has_missing"]:
        unlike["hold no value, unlike train, and get its mean"] = is_missing
    return np.stack([features, is_missing][: 1 + column["has_missing"]], axis=1), unlike


def _encode_categories(table: Table, column: dict[str, Any], missing: Collection[str]) -> tuple[np.ndarray, dict]:
    number = len(column["categories"])
    # older checkpoints compare texts, and put every other text into the last slot
    spell, unseen = (category_of, column["unseen"]) if "unseen" in column else (str, [0.0] * number + [1.0])
    positions = {category: i for i, category in enumerate(column["categories"])} | dict.fromkeys(missing, number)
    cells = [spell(cell) for cell in table.column(column["name"])]
    features = np.vstack([np.eye(number, number + 1), unseen])[[positions.get(cell, number) for cell in cells]]
    is_new = np.array([cell not in positions for cell in cells])
    return features, {"hold a category that train does not have, or too rarely": is_new}
