"""Rows as batches: a whole split is one tensor in memory, standardised by what train has."""

from __future__ import annotations

import collections
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from model.tabular.cells import category_of, is_disguised, parse_number, value_order
from model.tabular.columns import (
    FEW_CATEGORIES,
    PLAIN_NUMBERS,
    describe_column,
    encode_column,
    feature_names,
    mean_and_std,
    missing_values,
    read_numbers,
    varies,
)
from model.tabular.params import Params
from model.tabular.readers import Table, read_split
from model.tabular.stream import stream_rows
from utils import InputError

FAR_AWAY = 1e9  # standard deviations of train; the squares of a split's errors still fit into float32


def fetch_facts(data_dir: Path, params: Params) -> dict[str, Any]:
    """Return what the train split decides.

    Returns:
        `columns`, one dict each as in columns.py; `feature_names`, one for each number that the net sees; then
        `classes` and `class_counts`, or, of a quantity, `target_mean` and `target_std`

    Raises:
        InputError: there is no train split, or it is broken
    """
    train = read_split("train", data_dir, params)
    names = params.features or [name for name in train.columns if name not in (params.target, params.id_column)]
    if not names:
        raise InputError(f"{train.path}: only the target in it; expected a column to predict it from")
    for name in params.categorical or []:
        train.column(name, "one listed in `categorical`")
    columns = [describe_column(train, name, params) for name in names]
    facts = _target_facts(train, params) if params.target_type == "number" else _class_facts(train, params)
    constant = [column["name"] for column in columns if not varies(column)]
    shown = ", ".join(map(repr, constant[:10])) + (", ..." if len(constant) > 10 else "")
    if len(constant) == len(columns):
        raise InputError(f"{train.path}: no column to predict from varies in its {len(train)} train rows ({shown})")
    if constant:
        logging.info(f"- {len(constant)} column(s) do not vary in train and are ignored: {shown}")
    return {
        "columns": columns,
        "feature_names": [name for column in columns for name in feature_names(column)],
        **facts,
    }


def _class_facts(train: Table, params: Params) -> dict[str, Any]:
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
    if len(classes) > FEW_CATEGORIES:
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


def _target_facts(train: Table, params: Params) -> dict[str, Any]:
    values = _target_numbers(train, params)
    mean, std = mean_and_std(values)
    if std == 0:
        raise InputError(
            f"{train.path}, column {params.target!r}: {values[0]:g} in all of its {len(train)} train rows; "
            "expected a target that varies by more than a ten-millionth of its size"
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


class RowDataset(TensorDataset):
    """The rows of one split: features, (num_rows, num_features), float32, and labels, (num_rows,).

    Labels are class numbers, int64, or a quantity in standard deviations of train from its mean, float32.

    Args:
        table: from `read_split`
        params: target, target_type, id_column, missing, and the facts
        split: its name, if the log is to say how many rows are unlike train

    Raises:
        InputError: a column or class that does not fit train, or an id that names two rows
    """

    def __init__(self, table: Table, params: Params, split: str = "") -> None:
        self.ids = _fetch_ids(table, params.id_column)
        labels = _encode_numbers(table, params) if params.target_type == "number" else _encode(table, params)
        super().__init__(_encode_features(table, params, split), labels)


def _fetch_ids(table: Table, id_column: str | None) -> list[str]:
    """Return the rows' names; raise InputError if two are the same."""
    if not id_column:
        return [str(row) for row in table.rows]
    ids = table.column(id_column, "id_column")
    first: dict[str, int] = {}
    for i, name in enumerate(ids):
        if first.setdefault(name, i) != i:
            raise InputError(
                f"{table.where(i, id_column)}: id {name!r} is also that of line {table.lines[first[name]]}; expected "
                "another id for each row. Correct it, or leave id_column out: rows are then counted"
            )
    return ids


def _encode_features(table: Table, params: Params, split: str = "") -> Tensor:
    """Return the net's inputs, (num_rows, num_features), float32."""
    missing = missing_values(params)
    encoded = [encode_column(table, column, missing, split) for column in params.facts["columns"]]
    return torch.from_numpy(np.concatenate(encoded, axis=1)).float()


def _encode(table: Table, params: Params) -> Tensor:
    """Return class numbers, (num_rows,), int64."""
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


def _encode_numbers(table: Table, params: Params) -> Tensor:
    """Return standardised targets, (num_rows,), float32."""
    values = _target_numbers(table, params)
    scaled = (values - params.facts["target_mean"]) / params.facts["target_std"]
    far = np.flatnonzero(np.abs(scaled) > FAR_AWAY)
    if len(far):
        raise InputError(
            f"{table.where(far[0], params.target)}: found {values[far[0]]:g}, which is {abs(scaled[far[0]]):.1g} "
            "standard deviations of train away from its mean; correct it"
        )
    return torch.from_numpy(scaled).float()


def fetch_dataset(split: str, data_dir: Path, params: Params) -> RowDataset:
    """Return the dataset of 'train', 'val' or 'test'.

    Raises:
        InputError: the data is missing or broken
    """
    return RowDataset(read_split(split, data_dir, params), params, "" if split == "train" else split)


def fetch_unlabelled(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, Table | InputError]]:
    """Yield new rows as `stream_rows` says."""
    return stream_rows(paths, params)


def collate_unlabelled(examples: Sequence[Table], params: Params) -> tuple[Tensor, None]:
    """Return rows as `RowDataset` does, from tables of one row each.

    Raises:
        InputError: text stands where train has numbers
    """
    names = [column["name"] for column in params.facts["columns"]]
    columns = {name: [table.column(name, "feature")[0] for table in examples] for name in names}
    rows, lines = [table.rows[0] for table in examples], [table.lines[0] for table in examples]
    return _encode_features(Table(examples[0].path, columns, rows, lines), params), None


def describe_inputs(params: Params) -> dict[str, Any]:
    """Return how rows become inputs and outputs become answers, for code without ours."""
    facts = params.facts
    described: dict[str, Any] = {
        "steps": [
            "go through `columns` in order, and put what each becomes side by side; take spaces around cells away",
            "two cells are equal if their texts are, in Unicode's form NFC, or if both are numbers of the same value, "
            "in ASCII and without leading zeros: 1 and 1.0 are equal, 1 and 01 are not",
            "one with `mean`: (number - mean) / std, where a number below `low` counts as `low` and one above `high` "
            "as `high`, or both as the mean if `rare` is true; 0 if the cell equals one of `missing`, or if `low` is "
            "`high`, whatever the cell holds; where has_missing is true, then 1 if the cell equals one of `missing`, "
            "else 0",
            "one with `categories`: as many numbers, and one more: 1 at the position of the category that the cell "
            "equals, 0 at the others; if it equals none, or one of `missing`, the numbers in `unseen`",
            "float32, in the order of `feature_names`",
        ],
        "columns": facts["columns"],
        "missing": params.missing,
        "feature_names": facts["feature_names"],
    }
    if params.target_type == "classes":
        outputs = "logits, one for each of `classes`; softmax over the last axis makes them probabilities"
        return described | {"outputs": outputs, "classes": params.classes}
    outputs = f"{params.target} in standard deviations from its mean: times `target_std`, plus `target_mean`"
    return described | {
        "outputs": outputs, "target_mean": facts["target_mean"], "target_std": facts["target_std"]
    }  # fmt: skip
