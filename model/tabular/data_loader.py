"""Rows as a dataset: a whole split is one tensor in memory, standardised by what train has."""

from __future__ import annotations

import collections
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from fiveline.loading import on_device
from model.tabular import columns
from model.tabular.columns import category_of, parse_number
from model.tabular.params import Params
from model.tabular.readers import Table, read_split
from utils import InputError


def fetch_facts(data_dir: Path, params: Params) -> dict[str, Any]:
    """Return the facts that the train split decides; raise InputError if the split is missing or broken.

    They are `columns`, one dict each as in columns.py; `feature_names`, one for each input of the net; and `classes`,
    or, to predict a number, `target_mean` and `target_std`.
    """
    train = read_split("train", data_dir, params)
    names = params.features or [name for name in train.header if name not in (params.target, params.id_column)]
    for name in params.categorical or []:
        train.column(name, "one listed in `categorical`")
    described = [columns.describe(train, name, params) for name in names]
    constant = [column["name"] for column in described if not columns.varies(column)]
    if len(constant) == len(described):
        found = f"found {len(described)} column(s) beside the target, of which none varies in {len(train)} train rows"
        raise InputError(f"{train.path}: {found}; expected columns to predict {params.target!r} from")
    if constant:
        logging.info(f"- {len(constant)} column(s) do not vary in train and are ignored: {', '.join(constant[:10])}")
    feature_names = [name for column in described for name in columns.feature_names(column)]
    return {"columns": described, "feature_names": feature_names, **_target_facts(train, params)}


def _target_facts(train: Table, params: Params) -> dict[str, Any]:
    """Return the facts that the targets of train decide; raise InputError if they do not fit target_type."""
    targets, rows = _targets(train, params), f"{len(train)} train rows"
    where = f"{train.path}, column {params.target!r}"
    if params.target_type == "number":
        mean, std = columns.mean_and_std(targets)
        if not 1e-15 < std < 1e15:
            found = f"found {targets[0]:g} and a standard deviation of {std:.1g} in {rows}, expected 1e-15 to 1e15"
            raise InputError(f"{where}: {found}, which float32 can square; take another unit for it, or another target")
        return {"target_mean": mean, "target_std": std}
    spellings = collections.defaultdict(set)
    for cell in targets:
        spellings[category_of(cell)].add(cell)
    # a class is named as in the file, where all of its rows agree
    names = [cells.pop() if len(cells) == 1 else name for name, cells in spellings.items()]
    classes = sorted(names, key=lambda name: (parse_number(name), name))
    if len(classes) < 2:
        raise InputError(f"{where}: one class, {classes[0]!r}, in all of its {rows}; expected two or more")
    if len(classes) > 20 and all(math.isfinite(parse_number(name)) or columns.is_disguised(name) for name in classes):
        found = f"{where}: {len(classes)} different numbers in {rows}, such as {classes[-1]!r}"
        cure = f"to predict a number, set target_type to 'number' and {columns.PLAIN_NUMBERS}"
        if len(classes) > len(train) / 2:
            raise InputError(f"{found}, are hardly classes; {cure}")
        logging.warning(f"- WARNING: {found}, are taken for classes; {cure}")
    return {"classes": classes}


def _targets(table: Table, params: Params) -> Any:
    """Return the target's cells, a list, or its numbers, an array; raise InputError if one is missing or broken."""
    cells, missing = table.column(params.target, "target"), columns.missing_values(params)
    cure = "take the row out of the file, or, if this is a class, take it out of `missing` in params.json"
    for i, cell in enumerate(cells):
        if category_of(cell) in missing:
            found = f"found {cell!r}, expected a target: `missing` counts this as no value"
            raise InputError(f"{table.where(i, params.target)}: {found}; {cure}")
    return columns.read_numbers(table, params.target, ()) if params.target_type == "number" else cells


def _encode_targets(table: Table, params: Params) -> Tensor:
    """Return the labels; raise InputError if train has no example of a row's class."""
    targets = _targets(table, params)
    if params.target_type == "number":
        mean, std = params.facts["target_mean"], params.facts["target_std"]
        if not (isinstance(mean, float) and isinstance(std, float) and std > 0):
            raise ValueError(f"target_mean {mean!r}, target_std {std!r}; expected two numbers, the second above 0")
        return torch.from_numpy((targets - mean) / std).float()
    # the exact name first: older checkpoints may have both 1 and 1.0
    exact = {name: number for number, name in enumerate(params.classes)}
    numbers = {category_of(name): number for name, number in exact.items()} | exact
    labels = [numbers.get(cell, numbers.get(category_of(cell))) for cell in targets]
    if None in labels:
        first, known = labels.index(None), f"train had when the run began: {', '.join(params.classes[:10])}"
        found = f"class {targets[first]!r} is not among the classes that {known}"
        raise InputError(f"{table.where(first, params.target)}: {found}; correct it, or train a new run with it")
    return torch.tensor(labels)


class RowDataset(TensorDataset):
    """The rows of a table: features, (num_rows, num_features), float32, and labels, (num_rows,), int64 or float32."""

    def __init__(self, table: Table, params: Params, split: str = "") -> None:
        self.ids, labels = table.ids(params.id_column), _encode_targets(table, params)
        features = torch.from_numpy(columns.encode(table, params, split))
        features = on_device(features) if params.num_workers == 0 else features
        super().__init__(features, labels.to(features.device))

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Return a whole batch at once, which is faster than collating its examples."""
        positions = torch.from_numpy(np.asarray(indices)).to(self.tensors[0].device, non_blocking=True)
        return tuple(tensor.index_select(0, positions) for tensor in self.tensors)


def fetch_dataset(split: str, data_dir: Path, params: Params) -> RowDataset:
    """Return the dataset of 'train', 'val' or 'test'; raise InputError if the data is missing or does not fit train."""
    return RowDataset(read_split(split, data_dir, params), params, "" if split == "train" else split)
