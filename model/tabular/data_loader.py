"""Rows as batches: a whole split is one tensor in memory, standardised by what train has."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from model.tabular.columns import (
    describe_column,
    encode_column,
    feature_names,
    parse_number,
    read_numbers,
    value_order,
)
from model.tabular.params import Params
from model.tabular.readers import Table, read_split
from model.tabular.stream import stream_rows
from utils import InputError

FEW_CLASSES = 20  # so many are never taken for a quantity


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
    return {
        "columns": columns,
        "feature_names": [name for column in columns for name in feature_names(column)],
        **facts,
    }


def _class_facts(train: Table, params: Params) -> dict[str, Any]:
    counts = collections.Counter(_present_targets(train, params))
    if len(counts) < 2:
        raise InputError(
            f"{train.path}, column {params.target!r}: one class, {next(iter(counts))!r}, in all of its "
            f"{len(train)} train rows; expected two or more"
        )
    classes = sorted(counts, key=value_order)
    if len(counts) > max(FEW_CLASSES, len(train) / 2) and np.isfinite([parse_number(name) for name in classes]).all():
        raise InputError(
            f"{train.path}, column {params.target!r}: {len(counts)} different numbers in {len(train)} train rows are "
            "hardly classes; for a quantity set target_type to 'number'"
        )
    return {"classes": classes, "class_counts": [counts[name] for name in classes]}


def _target_facts(train: Table, params: Params) -> dict[str, Any]:
    _present_targets(train, params)
    values = read_numbers(train, params.target, params.missing, "target")
    if values.min() == values.max():
        raise InputError(
            f"{train.path}, column {params.target!r}: {values[0]:g} in all of its {len(train)} train rows; "
            "expected a target that varies"
        )
    return {"target_mean": float(values.mean()), "target_std": float(values.std())}


def _present_targets(table: Table, params: Params) -> list[str]:
    """Return the target's cells; raise InputError if one has no value."""
    cells = table.column(params.target, "target")
    for i, cell in enumerate(cells):
        if cell in params.missing:
            raise InputError(
                f"{table.where(i, params.target)}: found {cell!r}, expected a target; take the row out of the file"
            )
    return cells


class RowDataset(TensorDataset):
    """The rows of one split: features, (num_rows, num_features), float32, and labels, (num_rows,).

    Labels are class numbers, int64, or a quantity in standard deviations of train from its mean, float32.

    Args:
        table: from `read_split`
        params: target, target_type, id_column, missing, and the facts

    Raises:
        InputError: a column or class that does not fit train
    """

    def __init__(self, table: Table, params: Params) -> None:
        self.ids = table.column(params.id_column, "id_column") if params.id_column else [str(row) for row in table.rows]
        labels = _encode_numbers(table, params) if params.target_type == "number" else _encode(table, params)
        super().__init__(_encode_features(table, params), labels)


def _encode_features(table: Table, params: Params) -> Tensor:
    """Return what the net sees of each row, (num_rows, num_features), float32."""
    missing = set(params.missing)
    encoded = [encode_column(table, column, missing) for column in params.facts["columns"]]
    return torch.from_numpy(np.concatenate(encoded, axis=1)).float()


def _encode(table: Table, params: Params) -> Tensor:
    """Return class numbers, (num_rows,), int64."""
    numbers = {name: number for number, name in enumerate(params.classes)}
    cells = _present_targets(table, params)
    for i, cell in enumerate(cells):
        if cell not in numbers:
            known = ", ".join(params.classes[:10])
            raise InputError(
                f"{table.where(i, params.target)}: class {cell!r} is not in train, which has {known}; "
                "mend it, or let train have examples of it"
            )
    return torch.tensor([numbers[cell] for cell in cells], dtype=torch.int64)


def _encode_numbers(table: Table, params: Params) -> Tensor:
    """Return standardised targets, (num_rows,), float32."""
    _present_targets(table, params)
    values = read_numbers(table, params.target, params.missing, "target")
    return torch.from_numpy((values - params.facts["target_mean"]) / params.facts["target_std"]).float()


def fetch_dataset(split: str, data_dir: Path, params: Params) -> RowDataset:
    """Return the dataset of 'train', 'val' or 'test'.

    Raises:
        InputError: the data is missing or broken
    """
    return RowDataset(read_split(split, data_dir, params), params)


def fetch_unlabelled(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, Table | InputError]]:
    """Yield new rows as `stream_rows` says."""
    return stream_rows(paths, params)


def collate_unlabelled(examples: Sequence[Table], params: Params) -> tuple[Tensor, None]:
    """Return rows as `RowDataset` does, from tables of one row each.

    Raises:
        InputError: text stands where train has numbers
    """
    names = [column["name"] for column in params.facts["columns"]]
    columns = {name: [table.columns[name][0] for table in examples] for name in names}
    rows, lines = [table.rows[0] for table in examples], [table.lines[0] for table in examples]
    return _encode_features(Table(examples[0].path, columns, rows, lines), params), None


def describe_inputs(params: Params) -> dict[str, Any]:
    """Return how rows become inputs and outputs become answers, for code without ours."""
    facts = params.facts
    described: dict[str, Any] = {
        "steps": [
            "go through `columns` in order, and put what each becomes side by side; take spaces around cells away",
            "one with `mean`: (number - mean) / std, or 0 if the cell is one of `missing`; where has_missing is true, "
            "then 1 if the cell is one of `missing`, else 0",
            "one with `categories`: 1 at the cell's position among them, or after the last one if it is not there; "
            "0 at the others",
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
