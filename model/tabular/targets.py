"""The column to predict: classes, in every spelling of one, or a quantity in standard deviations of train."""

from __future__ import annotations

import collections
import json
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.tabular.cells import category_of, is_disguised, parse_number, value_order
from model.tabular.params import Params
from model.tabular.quantities import PLAIN_NUMBERS, RESOLUTION, mean_and_std, missing_values, read_numbers
from model.tabular.readers import Table
from utils import InputError

FEW_CLASSES = 20  # this many are never taken for a quantity
SMALLEST_UNIT, LARGEST_UNIT = 1e-15, 1e15
FAR_AWAY = 1e9  # standard deviations of train; the squares of a split's errors still fit into float32


def class_facts(train: Table, params: Params) -> dict[str, Any]:
    """Return the names of the classes in train, `classes`, and the number of rows of each, `class_counts`.

    Raises:
        InputError: a row has no class, all have the same, or the classes are a quantity
    """
    spellings: dict[str, list[str]] = collections.defaultdict(list)
    for cell in _present_targets(train, params):
        spellings[category_of(cell)].append(cell)
    if len(spellings) < 2:
        raise InputError(
            f"{train.path}, column {params.target!r}: one class, {next(iter(spellings))!r}, in all of its "
            f"{len(train)} train rows; expected two or more"
        )
    # a class is named as in the file, where all of its rows agree
    counts = {cells[0] if len(set(cells)) == 1 else name: len(cells) for name, cells in spellings.items()}
    classes = sorted(counts, key=value_order)
    if len(classes) > FEW_CLASSES:
        _check_many_classes(train, classes, params)
    return {"classes": classes, "class_counts": [counts[name] for name in classes]}


def _check_many_classes(train: Table, classes: Sequence[str], params: Params) -> None:
    """Warn of many classes; raise InputError if they are a quantity."""
    where = f"{train.path}, column {params.target!r}"
    if all(math.isfinite(parse_number(name)) or is_disguised(name) for name in classes):
        if any(is_disguised(name) for name in classes):
            raise InputError(
                f"{where}: {len(classes)} numbers like {classes[-1]!r} are hardly classes; {PLAIN_NUMBERS}"
            )
        if len(classes) > len(train) / 2:
            raise InputError(
                f"{where}: {len(classes)} different numbers in {len(train)} train rows are "
                "hardly classes; for a quantity set target_type to 'number'"
            )
        logging.warning(
            f"- WARNING: {where}: {len(classes)} different numbers are taken for classes; if they are a quantity, set "
            "target_type to 'number'"
        )
    elif len(train) < 4 * len(classes):
        logging.warning(f"- WARNING: {where} is nearly unique: {len(classes)} classes in {len(train)} train rows")


def target_facts(train: Table, params: Params) -> dict[str, Any]:
    """Return the mean and the standard deviation of a quantity in train, `target_mean` and `target_std`.

    Raises:
        InputError: a target is missing, is not a number, or does not vary
    """
    values = _target_numbers(train, params)
    mean, std = mean_and_std(values)
    if std == 0:
        raise InputError(
            f"{train.path}, column {params.target!r}: {values[0]:g} in all of its {len(train)} train rows; "
            f"expected a target that varies by more than {RESOLUTION:g} of its size"
        )
    if not SMALLEST_UNIT < std < LARGEST_UNIT:
        raise InputError(
            f"{train.path}, column {params.target!r}: its standard deviation is {std:.1g}, expected one between "
            f"{SMALLEST_UNIT:g} and {LARGEST_UNIT:g}, so that squared errors fit into float32; take another unit for it"
        )
    different = np.unique(values)
    if len(different) <= 10 < len(values) / 4 and (different == np.round(different)).all():
        logging.warning(
            f"- WARNING: {train.path}, column {params.target!r}: {len(different)} different whole numbers are taken "
            "for a quantity; if they are classes, set target_type to 'classes'"
        )
    return {"target_mean": mean, "target_std": std}


def _target_numbers(table: Table, params: Params) -> np.ndarray:
    """Return the targets, (num_rows,), float64; raise InputError if one is missing or not a number."""
    _present_targets(table, params)
    return read_numbers(table, params.target, (), "target")


def _present_targets(table: Table, params: Params) -> list[str]:
    """Return the target's cells; raise InputError if one has no value."""
    cells, missing = table.column(params.target, "target"), missing_values(params)
    for i, cell in enumerate(cells):
        if category_of(cell) in missing:
            others = json.dumps([text for text in params.missing if text.strip() not in (cell, category_of(cell))])
            or_class = f"; if {cell!r} is a class, set missing to {others} in params.json" if cell else ""
            raise InputError(
                f"{table.where(i, params.target)}: found {cell!r}, expected a target: `missing` counts this as no "
                f"value; take the row out of the file{or_class}"
            )
    return cells


def encode_classes(table: Table, params: Params) -> Tensor:
    """Return class numbers, (num_rows,), int64; raise InputError if a row has a class that train has not."""
    # the exact name first: older checkpoints may have both 1 and 1.0
    exact = {name: number for number, name in enumerate(params.classes)}
    numbers = {category_of(name): number for name, number in exact.items()} | exact
    labels = []
    for i, cell in enumerate(_present_targets(table, params)):
        label = numbers.get(cell, numbers.get(category_of(cell)))
        if label is None:
            known = ", ".join(params.classes[:10])
            raise InputError(
                f"{table.where(i, params.target)}: class {cell!r} is not among the classes that train had when the run "
                f"began: {known}; correct it, or let train have examples of it and begin a new run"
            )
        labels.append(label)
    return torch.tensor(labels, dtype=torch.int64)


def encode_quantities(table: Table, params: Params) -> Tensor:
    """Return standardised targets, (num_rows,), float32; raise InputError if one is not a number, or far away."""
    values = _target_numbers(table, params)
    scaled = (values - params.facts["target_mean"]) / params.facts["target_std"]
    far = np.flatnonzero(np.abs(scaled) > FAR_AWAY)
    if len(far):
        raise InputError(
            f"{table.where(far[0], params.target)}: found {values[far[0]]:g}, which is {abs(scaled[far[0]]):.1g} "
            "standard deviations of train away from its mean; correct it"
        )
    return torch.from_numpy(scaled).float()
