"""CSV files row by row, for training and for predict.py: what cannot be read is reported with its file and line."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from model.tabular.cells import nfc
from utils import InputError


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
    if header[0].startswith("sep="):
        raise InputError(f"{path}: the first line, {header[0]}, is for spreadsheets only; take it out")
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
