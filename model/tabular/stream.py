"""Rows of CSV files, one after the other: files of any length, and a broken row does not stop the rest."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.tabular.params import Params
from model.tabular.readers import Table, check_header, check_length
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
    except OSError as error:
        yield str(path), InputError(f"{path}: cannot be read ({error.strerror})")


def _stream_file(path: Path, params: Params) -> Iterator[tuple[str, Table | InputError]]:
    # what is not UTF-8 is carried along, and found in its row
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=params.delimiter, skipinitialspace=True, strict=True)
        header = _read_header(reader, path, params)
        for number, found in enumerate(_stream_cells(reader), start=1):
            name, where = f"{path}:{number}", f"{path}, row {number} (line {reader.line_num})"
            try:
                row = _checked(found, where)
                check_length(row, header, where, params.delimiter)
            except InputError as error:
                yield name, error
                continue
            columns = {column: [cell.strip()] for column, cell in zip(header, row, strict=True)}
            table = Table(path, columns, [number], [reader.line_num])
            yield columns.get(params.id_column or "", [name])[0], table


def _stream_cells(reader: Iterator[list[str]]) -> Iterator[list[str] | csv.Error]:
    """Yield the rows that are not empty, and what is wrong with those that are none; the reader goes on behind them."""
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield error
            continue
        if row is None:
            return
        if row not in ([], [""]):
            yield row


def _read_header(reader: Iterator[list[str]], path: Path, params: Params) -> list[str]:
    header = [name.strip() for name in _checked(next(_stream_cells(reader), []), f"{path}, line 1")]
    check_header(header, path, params.delimiter)
    empty = Table(path, {name: [] for name in header}, [], [])
    for column in params.facts["columns"]:
        empty.column(column["name"], "feature")
    return header


def _checked(found: list[str] | csv.Error, where: str) -> list[str]:
    """Return a row that is one; raise InputError if it is not CSV, or not text."""
    if isinstance(found, csv.Error):
        raise InputError(f"{where}: not CSV ({found}); look at the quotes there")
    try:
        "".join(found).encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: not UTF-8; save the file as UTF-8") from None
    return found
