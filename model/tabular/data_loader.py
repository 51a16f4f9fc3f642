"""Rows as batches: a whole split is one tensor in memory, standardised by what train has."""

from __future__ import annotations

import logging
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
    varies,
)
from model.tabular.params import Params
from model.tabular.quantities import missing_values
from model.tabular.readers import Table, read_split
from model.tabular.stream import stream_rows
from model.tabular.targets import class_facts, encode_classes, encode_quantities, target_facts
from utils import InputError


def fetch_facts(data_dir: Path, params: Params) -> dict[str, Any]:
    """Return the facts that the train split decides.

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
    facts = target_facts(train, params) if params.target_type == "number" else class_facts(train, params)
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
        labels = encode_quantities(table, params) if params.target_type == "number" else encode_classes(table, params)
        super().__init__(_encode_features(table, params, split), labels)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return a batch of features and labels."""
        rows = torch.as_tensor(indices)
        return self.tensors[0].index_select(0, rows), self.tensors[1].index_select(0, rows)


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
            "one with `mean`: (number - mean) / std in float64, where a number below `low` counts as `low` and one "
            "above `high` as `high`, or both as the mean if `rare` is true; 0 if the cell equals one of `missing`, or "
            "if `low` is `high`, whatever the cell holds; where has_missing is true, then 1 if the cell equals one of "
            "`missing`, else 0",
            "one with `categories`: as many numbers, and one more: 1 at the position of the category that the cell "
            "equals, 0 at the others; if it equals none, or one of `missing`, the numbers in `unseen`",
            "turn the result into float32, and only then; it is in the order of `feature_names`",
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
