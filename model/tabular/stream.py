"""Rows of CSV files, one after the other: files of any length, and a broken row does not stop the rest."""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.tabular.cells import category_of
from model.tabular.params import Params
from model.tabular.quantities import missing_values
from model.tabular.readers import Table
from model.tabular.rows import check_length, read_header, read_rows
from utils import InputError


def stream_rows(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, Table | InputError]]:
    """Yield the rows of CSV files by their names, each as a table of one; an InputError in the place of a broken one.

    A row's name is its cell in params.id_column, or else its file and its number in it. Only the columns that the net
    looks at need to be there. A file that cannot be read at all is one broken row.

    Args:
        paths: the files
        params: delimiter, id_column, and the columns in its facts
    """
    for path in paths:
        yield from _stream_file_or_error(path, params)


def _stream_file_or_error(path: Path, params: Params) -> Iterator[tuple[str, Table | InputError]]:
    try:
        yield from _stream_file(path, params)
    except InputError as error:
        yield str(path), error


def _stream_file(path: Path, params: Params) -> Iterator[tuple[str, Table | InputError]]:
    rows = read_rows(path, params.delimiter)
    header = read_header(rows, path, params.delimiter)
    empty = Table(path, {name: [] for name in header}, [], [])
    for column in params.facts["columns"]:
        empty.column(column["name"], "feature")
    missing = missing_values(params)
    known = {each["name"]: missing.union(each["categories"]) for each in params.facts["columns"] if "unseen" in each}
    unseen: collections.Counter[str] = collections.Counter()
    number = 0
    for number, (line, row) in enumerate(rows, start=1):
        name = f"{path}:{number}"
        try:
            if isinstance(row, InputError):
                raise row
            check_length(row, header, f"{path}, row {number} (line {line})", params.delimiter)
        except InputError as error:
            yield name, error
            continue
        table = Table(path, {column: [cell] for column, cell in zip(header, row, strict=True)}, [number], [line])
        unseen.update(each for each in known if category_of(table.columns[each][0]) not in known[each])
        yield table.columns.get(params.id_column or "", [name])[0], table
    for each, count in unseen.items():
        logging.warning(
            f"- WARNING: column {each!r}: {count} of {number} rows of {path} hold a category that train does not have"
        )
