"""The rows behind the ids of a split, for a page that shows them. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from model.tabular.params import Params
from model.tabular.readers import read_split

# the hyperparameters that decide which examples a split has, and what they are called
READS = ("split_seed", "val_fraction", "test_fraction", "delimiter", "target", "target_type", "id_column")


def fetch_inputs(ids: Collection[str], split: str, data_dir: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Return the rows of a split by their id, as {"row": {column: cell}}, without the target.

    Args:
        ids: of the examples wanted; those that the split does not have are left out
        split: 'train', 'val' or 'test'
        data_dir: the dataset
        params: what READS says

    Raises:
        InputError: the data is gone, or broken
    """
    table, wanted = read_split(split, data_dir, params), set(ids)
    names = table.column(params.id_column, "id_column") if params.id_column else [str(row) for row in table.rows]
    columns = {name: cells for name, cells in table.columns.items() if name not in (params.target, params.id_column)}
    rows = {name: i for i, name in enumerate(names) if name in wanted}
    return {name: {"row": {column: cells[i] for column, cells in columns.items()}} for name, i in rows.items()}
