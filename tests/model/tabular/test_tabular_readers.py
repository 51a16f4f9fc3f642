"""CSV files: random ones are read as written, or as the csv module reads them, or refused with file and line."""

import contextlib
import csv
import io
import itertools
import math
import re
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import utils
from model.tabular.columns import missing_values, parse_number, read_numbers
from model.tabular.params import Params
from model.tabular.readers import read_table
from model.tabular.serve import fetch_unlabelled

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
ODD_NUMBERS = [
    "1_000", "0x10", "1e400", " 1", "١", "Infinity", "-0", "1.", ".5", "nan", "NaN", "-inf", "1e-400", "007", "+3",
    "-1E5", "1e", "e5", ".", "--1", "1 2", "1,5", "12%", "²", "1e30", "9.9e29", "0.1", "", "NA", "?",
]  # fmt: skip
WORDS = ["x", "Zoë", '5 "inch', "a,b", "a;b", "a\tb", "two\nlines", "two\r\nlines", "'", "#", "-", "  ", "日本"]


def read(content, delimiter=","):
    """Return a table of bytes, or the message that refuses them, which names the file and, of a row, a line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        path.write_bytes(content)
        try:
            table = read_table(path, delimiter)
        except utils.InputError as error:
            return str(error).replace(str(path), "rows.csv")
        compare_with_stream(table, path, delimiter)
        return table


def compare_with_stream(table, path, delimiter):
    """Read the rows one by one, as predict.py does: they are the same."""
    params = Params(delimiter=delimiter).with_facts({"columns": [{"name": name} for name in table.header]})
    rows = list(fetch_unlabelled([path], params))
    assert [name for name, _ in rows] == [f"{path}:{number}" for number in range(1, len(table) + 1)]
    for i, (_, row) in enumerate(rows):
        assert row.header == table.header and row.rows == [table.rows[i]]


@st.composite
def written_files(draw):
    """Draw a table and its bytes: delimiter, quotes, line ends, empty lines and a byte order mark as they come."""
    delimiter = draw(st.sampled_from(",;\t"))
    number = draw(st.integers(2, 4))
    cell = st.sampled_from([*ODD_NUMBERS, *WORDS]) | st.text(
        st.characters(codec="utf-8", exclude_characters="\0"), max_size=4
    )
    rows = draw(st.lists(st.lists(cell, min_size=number, max_size=number), min_size=1, max_size=5))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    lines, line_numbers, line = [], [], 0
    for row in [[f"column {i}" for i in range(number)], *rows]:
        blank = draw(st.integers(0, 1)) * end
        quoted = [draw(st.booleans()) or must_be_quoted(text, delimiter) for text in row]
        texts = [
            f'"{text.replace(chr(34), chr(34) * 2)}"' if quote else text
            for text, quote in zip(row, quoted, strict=True)
        ]
        lines.append(blank + delimiter.join(texts) + end)
        line += sum(len(re.findall(r"\r\n?|\n", text)) for text in (blank, *texts)) + 1
        line_numbers.append(line)
    content = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + "".join(lines).encode()
    return delimiter, rows, line_numbers[1:], content


def must_be_quoted(text, delimiter):
    return any(sign in text for sign in (delimiter, '"', "\n", "\r")) or text.startswith(" ")


@settings(SETTINGS, max_examples=50)
@given(written_files())
def test_a_written_table_is_read_back(written):
    delimiter, rows, line_numbers, content = written
    table = read(content, delimiter)
    assert [row.cells for row in table.rows] == [[text.strip() for text in row] for row in rows]
    assert [(row.number, row.line) for row in table.rows] == list(enumerate(line_numbers, start=1))


def read_otherwise(content, delimiter):
    """Return (header, rows) as the csv module reads them, or None where it, or the text, is broken."""
    text = content.decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True))
    rows = [[cell.strip() for cell in row] for row in rows]
    header, *rows = [row for row in rows if row not in ([], [""])]
    header = [unicodedata.normalize("NFC", name) for name in header]
    if len(header) == 1 and any(sign in header[0] for sign in ",;\t"):
        raise ValueError  # the delimiter is another
    if "" in header or len(set(header)) < len(header) or not rows or any(len(row) != len(header) for row in rows):
        raise ValueError
    return header, rows


PIECES = st.sampled_from(
    [
        *ODD_NUMBERS,
        *WORDS,
        ",",
        ";",
        "\t",
        '"',
        '""',
        "\n",
        "\r\n",
        "\r",
        "\n\n",
        " ",
        "a,b\n",
        "\ufeff",
        "\0",
        "a;b\n1;2\n",
    ]
)


@SETTINGS
@given(
    st.lists(PIECES, max_size=12).map("".join),
    st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le"]),
    st.sampled_from(",;\t"),
    st.sampled_from(["", "a,b\n", "a;b\n1;2\n"]),
)
def test_any_text_is_read_as_by_the_csv_module_or_refused_by_file_and_line(text, encoding, delimiter, start):
    content = (start + text).encode(encoding, errors="ignore")
    expected = None
    with contextlib.suppress(ValueError, csv.Error):  # UnicodeDecodeError is a ValueError
        expected = None if b"\0" in content else read_otherwise(content, delimiter)
    found = read(content, delimiter)
    if expected is None:
        assert isinstance(found, str) and found.startswith("rows.csv")
        about_the_file = (
            "empty",
            "one column",
            "column ",
            "the header",
            "the first line",
            "name(s) twice",
            "holds a header",
        )
        assert re.search(r"\bline \d+", found) or any(words in found for words in about_the_file)
    else:
        header, rows = expected
        assert found.header == header
        assert [row.cells for row in found.rows] == rows


NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@SETTINGS
@given(st.sampled_from(ODD_NUMBERS) | st.floats().map(repr) | st.text("0123456789+-.eE_ xinfa١", max_size=6))
def test_a_cell_is_a_number_by_a_plain_rule(text):
    cell, missing = text.strip(), Params().missing
    value = float(cell) if NUMBER.fullmatch(cell) else math.inf
    expected = value if abs(value) < 1e30 else math.inf
    assert parse_number(cell) == expected or cell in missing
    table = read(f'a,b\n7,1\n"{text}",2\n'.encode())
    if cell in missing:
        np.testing.assert_array_equal(read_numbers(table, "a", missing_values(Params())), [7, math.nan])
    elif math.isfinite(expected):
        np.testing.assert_array_equal(read_numbers(table, "a", missing_values(Params())), [7, expected])
    else:
        with pytest.raises(utils.InputError, match=r"rows\.csv, row 2 \(line 3\), column 'a': found"):
            read_numbers(table, "a", missing_values(Params()))


# ---- quotes


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a,b", '1,"5 inch', *(f"{i},p" for i in range(99))], 2),
        (["a,b", '1,"5 inch', "2,p", '3,"a cell"', "4,p"], 2),
        (["a,b", '"two', 'lines","5 inch', "2,p"], 2),
        (["a,b", '1,"two', 'lines"', ' "5" inch,2', "2,p"], 4),
        (["a,b", '1,"says ""yes"" and', 'no"', '"', "2,p"], 4),
        (["a", "", 'x "5', '"1'], 4),
        (['a,"b', "1,2"], 1),
    ],
)
def test_an_open_quote_is_found_where_its_row_begins(lines, expected, end):
    content = end.join(lines).encode()
    message = read(content)
    assert (
        message.startswith(f"rows.csv, line {expected}: not CSV (")
        and "close the quote that opens there or below" in message
    )


@pytest.fixture
def standard_field_limit():
    """csv has one limit for a whole process, and reading predictions raises it."""
    before = csv.field_size_limit(131_072)
    yield
    csv.field_size_limit(before)


def test_an_open_quote_in_a_long_file_is_found_where_it_opens(standard_field_limit):
    lines = ["a,b", *(f"{i},p" for i in range(50)), '51,"5 inch', *(f"{i},p" for i in range(40_000))]
    assert read("\n".join(lines).encode()).startswith("rows.csv, line 52: not CSV (field larger than field limit")


def test_a_stream_goes_on_behind_what_it_cannot_read(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'a,b\n1,2\n"5" inch,3\n\xff,4\n5,6,7\n8,9\n10,"open\n11,12\n')
    params = Params().with_facts({"columns": [{"name": "a"}]})
    found = [
        str(row) if isinstance(row, utils.InputError) else row.column("a")
        for _, row in fetch_unlabelled([path], params)
    ]
    assert found[0] == ["1"] and found[4] == ["8"] and len(found) == 6
    for position, words in {
        1: "line 3: not CSV",
        2: "line 4: not UTF-8",
        3: "(line 5): found 3 cells",
        5: "line 7: not",
    }.items():
        assert words in found[position]


# ---- headers and encodings


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a,b,\n1,2,\n", "rows.csv: column 3 has no name"),
        (b",a,b\n0,1,2\n", "rows.csv: column 1 has no name (an index?); take it out"),
        (b"a,b\n1,2,\n", "row 1 (line 2): found 3 cells, expected 2"),
        (b"a|b\n1|2\n", "there is no column 'y', the target; It has a|b"),
        (b"1,0.5\n2,0.7\n", "It has 1, 0.5"),
        ("a,b\nx,é\n".encode("latin-1"), "rows.csv, line 2: not UTF-8 text; save the file as UTF-8"),
        ("a,b\nx,é\n".encode("utf-16"), "rows.csv, line 1: not UTF-8 text (it looks like UTF-16)"),
        ("a,b\nx,y\n".encode("utf-16-le"), "rows.csv, line 1: not UTF-8 text (it looks like UTF-16)"),
        (b"a,b\n" + b"1,2\n" * 9000 + b"\xff,2\n", "rows.csv, line 9002: not UTF-8 text"),
        ("e\u0301,é\n1,2\n".encode(), "1 name(s) twice in the header, é"),
    ],
)
def test_a_header_or_an_encoding_that_does_not_fit_is_named(content, expected):
    found = read(content)
    if not isinstance(found, str):
        with pytest.raises(utils.InputError) as error:
            found.column("y", "target")
        found = str(error.value)
    assert expected in found


@pytest.mark.parametrize(("mark", "end"), list(itertools.product([b"", b"\xef\xbb\xbf"], [b"\n", b"\r\n", b"\r"])))
def test_marks_line_ends_and_empty_lines_change_nothing(mark, end):
    table = read(mark + end.join([b"", b" a , b", b"", b'1," 2 "', b"  ", b"3,4"]))
    assert table.header == ["a", "b"] and table.rows == [(1, 4, ["1", "2"]), (2, 6, ["3", "4"])]
