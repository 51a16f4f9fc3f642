"""CSV files as columns of text, and the ways in which a folder can hold the three splits:

    train.csv, val.csv, test.csv      each split a file
    train.csv, test.csv               val is cut from train
    data.csv                          val and test are cut from the whole

UTF-8, a header in the first line, cells between params.delimiter, in quotes where they hold one. What is cut off is the
same for every run (params.split_seed, val_fraction, test_fraction), the same share of every class.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.tabular.cells import nfc, parse_number
from model.tabular.params import Params
from model.tabular.rows import check_length, read_header, read_rows
from utils import InputError


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of a CSV file.

    Args:
        path: the file
        columns: name -> the cells, as text without spaces around
        rows: the number of each row in the file, from 1 after the header
        lines: the file's line that each row ends in, from 1
    """

    path: Path
    columns: dict[str, list[str]]
    rows: list[int]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Sequence[int]) -> Table:
        """Return some of the rows."""
        columns = {name: [cells[i] for i in positions] for name, cells in self.columns.items()}
        return Table(self.path, columns, [self.rows[i] for i in positions], [self.lines[i] for i in positions])

    def column(self, name: str, role: str) -> list[str]:
        """Return the cells of a column.

        Args:
            name: as in the header
            role: what the column is wanted for, in the message

        Raises:
            InputError: there is no such column
        """
        name = nfc(name)
        if name not in self.columns:
            close = difflib.get_close_matches(name, self.columns, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            shown = ", ".join(list(self.columns)[:10]) + (", ..." if len(self.columns) > 10 else "")
            if any(math.isfinite(parse_number(each)) for each in self.columns):
                shown += "; the first line should hold names"
            raise InputError(f"{self.path}: there is no column {name!r}, the {role}; {hint}It has {shown}")
        return self.columns[name]

    def where(self, position: int, name: str) -> str:
        """Say where a cell is."""
        return f"{self.path}, row {self.rows[position]} (line {self.lines[position]}), column {name!r}"


def read_table(path: Path, delimiter: str = ",") -> Table:
    """Return the table in a CSV file; empty lines are passed over.

    Raises:
        InputError: not UTF-8, no rows, a header without names or with one twice, a row longer or shorter than it
    """
    found = read_rows(path, delimiter)
    header = read_header(found, path, delimiter)
    rows: list[list[str]] = []
    lines: list[int] = []
    for line, row in found:
        if isinstance(row, InputError):
            raise row
        check_length(row, header, f"{path}, row {len(rows) + 1} (line {line})", delimiter)
        rows.append(row)
        lines.append(line)
    if not rows:
        raise InputError(f"{path}: holds a header and nothing below; expected at least one row")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    return Table(path, columns, list(range(1, len(rows) + 1)), lines)


def read_split(split: str, data_dir: Path, params: Params) -> Table:
    """Return the rows of 'train', 'val' or 'test'.

    Raises:
        InputError: the data is missing, in none of the known shapes, or broken
    """
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: there is no such data directory; --data_dir says where the data is")
    there = {name for name in ("train", "val", "test", "data") if (data_dir / f"{name}.csv").is_file()}
    if split in there and ("val" in there if split == "train" else "train" in there):
        return read_table(data_dir / f"{split}.csv", params.delimiter)
    fractions = {"val": params.val_fraction}
    if "train" not in there:
        fractions["test"] = params.test_fraction
    whole_path = data_dir / ("train.csv" if "train" in there else "data.csv")
    if not whole_path.is_file() or split not in ("train", *fractions):
        names = sorted(path.name for path in data_dir.iterdir())
        raise InputError(
            f"{data_dir}: there is no {split}.csv in it; it holds {', '.join(names[:6]) or 'nothing'}, "
            "expected train.csv, val.csv and test.csv, or data.csv to cut them from"
        )
    whole = read_table(whole_path, params.delimiter)
    targets = whole.column(params.target, "target")
    positions = _cut(targets if params.target_type == "classes" else [""] * len(whole), fractions, params.split_seed)
    logging.info(
        f"- {whole_path} is split by split_seed {params.split_seed}: {split} is {len(positions[split])} "
        f"of its {len(whole)} rows"
    )
    return whole.take(positions[split])


def _cut(labels: Sequence[str], fractions: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Share out positions between train and the splits in `fractions`, the same share of every class.

    A class gives each split at least one example, but keeps its last one in train.
    """
    generator = np.random.default_rng(seed)
    chosen: dict[str, list[int]] = {"train": [], **{split: [] for split in fractions}}
    positions_of: dict[str, list[int]] = collections.defaultdict(list)
    for i, label in enumerate(labels):
        positions_of[label].append(i)
    for _, positions in sorted(positions_of.items()):
        order = iter([positions[i] for i in generator.permutation(len(positions))])
        left = len(positions)
        for split, fraction in fractions.items():
            number = min(max(1, round(len(positions) * fraction)), left - 1)
            chosen[split] += itertools.islice(order, number)
            left -= number
        chosen["train"] += order
    return {split: sorted(positions) for split, positions in chosen.items()}
