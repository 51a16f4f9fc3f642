"""CSV files as columns of text, and the ways in which a folder holds the three splits:

    train.csv, val.csv, test.csv      each split is a file
    train.csv, test.csv               val is cut from train
    data.csv                          val and test are cut from it

The files are UTF-8, with column names in the first line and params.delimiter between cells. Which rows are cut off
depends on split_seed, val_fraction and test_fraction alone; it is the same share of every class.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import difflib
import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.tabular.params import Params
from utils import InputError

NOT_UTF_8 = re.compile("[\udc80-\udcff]")  # as errors="surrogateescape" reads bytes that are not UTF-8


class Row(NamedTuple):
    """A row of a CSV file: its number, from 1 after the header, its last line in the file, and its stripped cells."""

    number: int
    line: int
    cells: list[str]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of a CSV file, and the names of their cells."""

    path: Path
    header: list[str]
    rows: list[Row]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str, role: str = "feature") -> list[str]:
        """Return the cells of a column; if there is none, raise InputError, which names the column's role."""
        name = unicodedata.normalize("NFC", name)
        if name not in self.header:
            close = difflib.get_close_matches(name, self.header, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            shown = ", ".join(self.header[:10]) + (", ..." if len(self.header) > 10 else "")
            raise InputError(f"{self.path}: there is no column {name!r}, the {role}; {hint}It has {shown}")
        position = self.header.index(name)
        return [row.cells[position] for row in self.rows]

    def where(self, position: int, name: str) -> str:
        """Return the words that say where a cell is."""
        return f"{self.path}, row {self.rows[position].number} (line {self.rows[position].line}), column {name!r}"

    def ids(self, id_column: str | None) -> list[str]:
        """Return a name for each row; raise InputError if two rows have the same."""
        if not id_column:
            return [str(row.number) for row in self.rows]
        first: dict[str, int] = {}
        for i, name in enumerate(self.column(id_column, "id_column")):
            if first.setdefault(name, i) != i:
                twice = f"id {name!r} is also the id of line {self.rows[first[name]].line}"
                cure = "expected another id for each row. Correct it, or leave id_column out: rows are then counted"
                raise InputError(f"{self.where(i, id_column)}: {twice}; {cure}")
        return list(first)


def read_table(path: Path, delimiter: str = ",") -> Table:
    """Return a whole CSV file; raise InputError at the first row that cannot be read, or if there are no rows."""
    rows: list[Any] = list(read_rows(path, delimiter))
    if broken := [row for row in rows if isinstance(row, InputError)]:
        raise broken[0]
    if len(rows) == 1:
        raise InputError(f"{path}: holds a header and nothing below; expected at least one row")
    return Table(path, rows[0].cells, rows[1:])


def read_rows(path: Path, delimiter: str) -> Iterator[Row | InputError]:
    """Yield the header of a CSV file, as row 0, and its rows; an InputError in place of a row that cannot be read."""
    header: list[str] = []
    number = 0
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            while (cells := _next_cells(reader, path)) is not None:
                if cells in ([], [""]):
                    continue
                if not header:
                    header = cells = _check_header(cells, path, delimiter)
                elif isinstance(cells, list) and len(cells) != len(header):
                    found = f"found {len(cells)} cells, expected {len(header)} as in the header"
                    hint = f"a cell that holds a {delimiter!r} needs quotes around it"
                    cells = InputError(f"{path}, row {number} (line {reader.line_num}): {found}; {hint}")
                yield Row(number, reader.line_num, cells) if isinstance(cells, list) else cells
                number += 1
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not header:
        raise InputError(f"{path}: empty; expected the columns' names in the first line and a row in each below")


def _next_cells(reader: Any, path: Path) -> list[str] | InputError | None:
    """Return the cells of the next row, or the reason why it cannot be read, or None at the end."""
    first = reader.line_num + 1
    try:
        cells: list[str] = next(reader)
    except StopIteration:
        return None
    except csv.Error as error:
        cure = "close the quote that opens there or below, or write each quote within a cell twice"
        return InputError(f"{path}, line {first}: not CSV ({error}, in line {reader.line_num}); {cure}")
    text = "".join(cells)
    if "\0" in text or (not text.isascii() and NOT_UTF_8.search(text)):
        return InputError(f"{path}, line {reader.line_num}: not UTF-8 text (Windows-1252, UTF-16?); save it as UTF-8")
    return [cell.strip() for cell in cells]


def _check_header(header: list[str] | InputError, path: Path, delimiter: str) -> list[str]:
    """Return the names of the columns; raise InputError if the first line is not a row of different names."""
    if isinstance(header, InputError):
        raise header
    names = [unicodedata.normalize("NFC", name) for name in header]
    twice = [name for name, count in sorted(collections.Counter(names).items()) if count > 1]
    if len(names) == 1 and (others := {*names[0]} & {*",;\t"} - {delimiter}):
        raise InputError(f"{path}: one column, {names[0][:60]!r}; with delimiter={min(others)!r} there are more")
    if "" in names:
        raise InputError(f"{path}: column {names.index('') + 1} has no name (an index?); take it out, or name it")
    if twice:
        raise InputError(f"{path}: {len(twice)} name(s) twice in the header, {', '.join(twice[:5])}; rename them")
    return names


def read_split(split: str, data_dir: Path, params: Params) -> Table:
    """Return the rows of 'train', 'val' or 'test'; raise InputError if the data is missing or broken."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: there is no such data directory; --data_dir says where the data is")
    found = {name for name in ("train", "val", "test", "data") if (data_dir / f"{name}.csv").is_file()}
    if split in found and ("val" in found if split == "train" else "train" in found):
        return read_table(data_dir / f"{split}.csv", params.delimiter)
    fractions = {"val": params.val_fraction} | ({} if "train" in found else {"test": params.test_fraction})
    whole_path = data_dir / ("train.csv" if "train" in found else "data.csv")
    if not whole_path.is_file() or split not in ("train", *fractions):
        holds = ", ".join(sorted(path.name for path in data_dir.iterdir())[:6]) or "nothing"
        expected = "expected train.csv, val.csv and test.csv, or data.csv to cut them from"
        raise InputError(f"{data_dir}: there is no {split}.csv in it; it holds {holds}, {expected}")
    whole = read_table(whole_path, params.delimiter)
    targets = whole.column(params.target, "target")
    positions = _cut(targets if params.target_type == "classes" else [""] * len(whole), fractions, params.split_seed)
    shown = f"{split} is {len(positions[split])} of its {len(whole)} rows"
    logging.info(f"- {whole_path} is split by split_seed {params.split_seed}: {shown}")
    return Table(whole_path, whole.header, [whole.rows[i] for i in positions[split]])


def _cut(labels: Sequence[str], fractions: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Share out positions among the splits, the same share of every class; a class keeps its last example in train."""
    every, generator = np.asarray(labels), np.random.default_rng(seed)
    chosen: dict[str, list[int]] = {"train": [], **{split: [] for split in fractions}}
    for label in np.unique(every):
        order = generator.permutation(np.flatnonzero(every == label)).tolist()
        size = len(order)
        for split, fraction in fractions.items():
            number = min(max(1, round(size * fraction)), len(order) - 1)
            chosen[split] += order[:number]
            order = order[number:]
        chosen["train"] += order
    return {split: sorted(positions) for split, positions in chosen.items()}
