"""CSV files as columns of text, and the ways in which a folder can hold the three splits:

    train.csv, val.csv, test.csv      each split a file
    train.csv, test.csv               val is cut from train
    data.csv                          val and test are cut from the whole

UTF-8, a header in the first line, cells between params.delimiter, in quotes where they hold one. What is cut off is the
same for every run (params.split_seed, val_fraction, test_fraction), the same share of every class.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import difflib
import itertools
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.tabular.cells import nfc, parse_number
from model.tabular.params import Params
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


def read_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str] | InputError]]:
    """Yield the rows of a CSV file, the header first: the line that each ends in, and its cells without spaces around.

    In the place of a row that cannot be read there is an InputError; the rows behind it follow. Empty lines are passed
    over. A row is in memory only while it is read.

    Raises:
        InputError: the file cannot be opened, or not be read any further
    """
    text: list[str] = []  # the lines of the row that is being read
    warned = False
    try:
        # what is not UTF-8 is carried along, and found in its row
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(_keep(file, text), delimiter=delimiter, skipinitialspace=True, strict=True)
            while (row := _next_row(reader, path, text)) is not None:
                if len(text) > 1 and not warned and _holds_rows(row, delimiter):
                    warned = True
                    logging.warning(
                        f"- WARNING: {path}, lines {reader.line_num - len(text) + 1} to {reader.line_num} are one row: "
                        "a cell of it holds whole lines of the file; look at its quotes"
                    )
                if row not in ([], [""]):
                    yield reader.line_num, row
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _keep(lines: Iterable[str], text: list[str]) -> Iterator[str]:
    for line in lines:
        text.append(line)
        yield line


def _next_row(reader: Any, path: Path, text: list[str]) -> list[str] | InputError | None:
    """Return the cells of the next row, why it cannot be read, or None at the end."""
    first = reader.line_num + 1
    text.clear()
    try:
        row: list[str] | None = next(reader, None)
    except csv.Error as error:
        before, cell = _find_open_quote("".join(text), reader.dialect.delimiter)
        cure = "; close the quote that opens there, or write each quote within a cell twice" if '"' in cell[:1] else ""
        return InputError(f"{path}, line {first + before}: not CSV ({error}, in line {reader.line_num}){cure}")
    strange = [first + i for i, line in enumerate(text) if "\0" in line or not _is_text(line)]
    if strange:
        return InputError(f"{path}, line {strange[0]}: not UTF-8 text{_encoding_hint(text[0])}; save the file as UTF-8")
    return row if row is None else [cell.strip() for cell in row]


def _find_open_quote(text: str, delimiter: str) -> tuple[int, str]:
    """Return how many lines end before the first cell that is not CSV, and the text from there on."""
    whole_cell = re.compile(rf' *("([^"]|"")*"|[^" {delimiter}\r\n][^{delimiter}\r\n]*)?{delimiter}')
    end = 0
    while found := whole_cell.match(text, end):
        end = found.end()
    return len(re.findall(r"\r\n?|\n", text[:end])), text[end:].lstrip(" ")


def _holds_rows(row: Sequence[str] | InputError, delimiter: str) -> bool:
    """Say whether a cell holds as many delimiters as the lines in it have: two quotes there may be inch marks."""
    if isinstance(row, InputError) or len(row) < 2:
        return False
    ends = [max(cell.count("\n"), cell.count("\r")) for cell in row]
    return any(
        number and cell.count(delimiter) == number * (len(row) - 1) for cell, number in zip(row, ends, strict=True)
    )


def _is_text(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encoding_hint(line: str) -> str:
    begins_as_utf_16 = line.startswith(("\udcff\udcfe", "\udcfe\udcff")) or "\0" in line
    return " (it looks like UTF-16)" if begins_as_utf_16 else ""


def read_header(rows: Iterator[tuple[int, list[str] | InputError]], path: Path, delimiter: str) -> list[str]:
    """Return the names of the columns.

    Raises:
        InputError: the header is no row of names, or has one twice
    """
    _, header = next(rows, (0, []))
    if isinstance(header, InputError):
        raise header
    header = [nfc(name) for name in header]
    if not any(header):
        raise InputError(f"{path}: empty; expected the columns' names in the first line and a row in each below")
    others = [sign for sign in ",;\t" if sign != delimiter and len(header) == 1 and sign in header[0]]
    if others:
        raise InputError(f"{path}: one column, {header[0][:60]!r}; with delimiter={others[0]!r} there are more")
    if "" not in header[:-1] and header[-1] == "":
        raise InputError(f"{path}: the header ends with {delimiter!r}; take it away there and in the rows, or name it")
    if "" in header:
        raise InputError(
            f"{path}: column {header.index('') + 1} has no name (pandas writes its index so); take the column out, or "
            "name it and make it the id_column"
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(
            f"{path}: {len(twice)} name(s) twice in the header, {', '.join(twice[:5])}; rename one of each"
        )
    return header


def check_length(row: Sequence[str], header: Sequence[str], where: str, delimiter: str) -> None:
    """Raise InputError if a row is longer or shorter than the header."""
    if len(row) != len(header):
        raise InputError(
            f"{where}: found {len(row)} cells, expected {len(header)} as in the header; "
            f"a cell that holds a {delimiter!r} needs quotes around it"
        )


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
