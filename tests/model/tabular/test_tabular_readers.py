"""CSV files: random ones are read as written, or as csv reads them, or refused with file and line; mistakes; splits."""

import contextlib
import csv
import io
import math
import re
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import utils
from model.tabular.columns import parse_number
from model.tabular.params import Params
from model.tabular.readers import read_split, read_table
from model.tabular.serve import fetch_unlabelled
from tests.support.data import load, refusal

SMALL = "size,color,label\n1,red,a\n2,blue,b\n3,red,a\n4,green,b\n"
ODD_NUMBERS = [
    "1_000", "0x10", "1e400", " 1", "١", "Infinity", "-0", "1.", ".5", "nan", "NaN", "-inf", "1e-400", "007", "+3",
    "-1E5", "1e", "e5", ".", "--1", "1 2", "1,5", "12%", "²", "1e30", "9.9e29", "0.1", "", "NA", "?",
]  # fmt: skip
WORDS = ["x", "Zoë", '5 "inch', "a,b", "a;b", "a\tb", "two\nlines", "two\r\nlines", "'", "#", "-", "  ", "日本"]
SIGNS = [",", ";", "\t", '"', '""', "\n", "\r\n", "\r", "\n\n", " ", "a,b\n", "\ufeff", "\0", "a;b\n1;2\n"]
OF_THE_FILE = r"empty|one column|column |the header|the first line|name\(s\) twice|holds a header"


def read(content, delimiter=","):
    """Return a table of bytes, or the message that refuses them, which names the file and, of a row, a line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        path.write_bytes(content)
        try:
            table = read_table(path, delimiter)
        except utils.InputError as error:
            return str(error).replace(str(path), "rows.csv")
        # one by one, as predict.py reads them, the rows are the same
        params = Params(delimiter=delimiter).with_facts({"columns": [{"name": name} for name in table.header]})
        found = [(name, row.header, row.rows) for name, row in fetch_unlabelled([path], params)]
        assert found == [(f"{path}:{number}", table.header, [row]) for number, row in enumerate(table.rows, start=1)]
        return table


def read_otherwise(content, delimiter):
    """Return header and rows as the csv module reads them; raise ValueError where they, or the text, are broken."""
    text = content.decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True))
    rows = [[cell.strip() for cell in row] for row in rows]
    header, *rows = [row for row in rows if row not in ([], [""])]
    header = [unicodedata.normalize("NFC", name) for name in header]
    has_other_delimiter = len(header) == 1 and any(sign in header[0] for sign in ",;\t")
    if "" in header or len(set(header)) < len(header) or not rows or has_other_delimiter or "\0" in text:
        raise ValueError
    if any(len(row) != len(header) for row in rows):
        raise ValueError
    return header, rows


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([*ODD_NUMBERS, *WORDS, *SIGNS]), max_size=12).map("".join),
    st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le"]),
    st.sampled_from(",;\t"),
    st.sampled_from(["", "a,b\n", "a;b\n1;2\n"]),
)
def test_any_text_is_read_as_by_the_csv_module_or_refused_by_file_and_line(text, encoding, delimiter, start):
    content, expected = (start + text).encode(encoding, errors="ignore"), None
    with contextlib.suppress(ValueError, csv.Error):  # UnicodeDecodeError is a ValueError
        expected = read_otherwise(content, delimiter)
    found = read(content, delimiter)
    if expected is None:
        assert isinstance(found, str) and re.search(rf"^rows.csv.*(\bline \d+|{OF_THE_FILE})", found, re.DOTALL)
    else:
        assert (found.header, [row.cells for row in found.rows]) == expected


def test_a_cell_is_a_number_by_a_plain_rule():
    found = {text: parse_number(text) for text in [*ODD_NUMBERS, *WORDS]}
    assert {text: value for text, value in found.items() if value < math.inf} == {
        "-0": 0, "1.": 1, ".5": 0.5, "1e-400": 0, "007": 7, "+3": 3, "-1E5": -1e5, "9.9e29": 9.9e29, "0.1": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a,b", '1,"5 inch', "2,p", '3,"a cell"', "4,p"], 2),
        (["a,b", '"two', 'lines","5 inch', "2,p"], 2),
        (["a,b", '1,"says ""yes"" and', 'no"', ' "5" inch,2', "2,p"], 4),
        (['a,"b', "1,2"], 1),
        (["a,b", *(f"{i},p" for i in range(50)), '51,"5 inch', *(f"{i},p" for i in range(20_000))], 52),
    ],
)
def test_an_open_quote_is_found_where_its_row_begins(lines, expected):
    before = csv.field_size_limit(131_072)  # one limit for a whole process; reading predictions raises it
    for end in ("\n", "\r\n", "\r"):
        message = read(end.join(lines).encode())
        assert message.startswith(f"rows.csv, line {expected}: not CSV (")
        assert "close the quote that opens there or below" in message
    csv.field_size_limit(before)


def test_a_stream_goes_on_behind_what_it_cannot_read(tmp_path, caplog):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'a,b\n1,2\n"5" inch,3\n\xff,4\n5,6,7\n8,9\n10,"open\n11,12\n')
    params = Params().with_facts({"columns": [{"name": "a", "categories": ["1"], "unseen": [1, 0]}]})
    rows = [row for _, row in fetch_unlabelled([path], params)]
    found = [str(row) if isinstance(row, utils.InputError) else row.column("a")[0] for row in rows]
    expected = ["1", "line 3: not CSV", "line 4: not UTF-8", "(line 5): found 3 cells", "8", "line 7: not"]
    assert all(words in text for text, words in zip(found, expected, strict=True)), found
    assert f"column 'a': 1 of 6 rows of {path} hold an unknown category" in caplog.text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "train.csv: empty"),
        ("a,label\n", "train.csv: holds a header and nothing below"),
        (",a,b\n0,1,2\n", "train.csv: column 1 has no name (an index?); take it out"),
        ("a,b\n1,2,\n", "row 1 (line 2): found 3 cells, expected 2"),
        ("a;label\n1;2\n", "with delimiter=';' there are more"),
        ("a,labels\n1,2\n3,4\n", "no column 'label', the target; did you mean 'labels'? It has a, labels"),
        ("a,b\nx,é\n".encode("latin-1"), "train.csv, line 2: not UTF-8 text (Windows-1252, UTF-16?); save it as UTF-8"),
        ("a,b\nx,é\n".encode("utf-16"), "train.csv, line 1: not UTF-8 text"),
        (b"a,b\n" + b"1,2\n" * 9000 + b"\xff,2\n", "train.csv, line 9002: not UTF-8 text"),
        ("e\u0301,é\n1,2\n", "1 name(s) twice in the header, é"),
        ("a,label\n1,x\n2,\n", "row 2 (line 3), column 'label': found '', expected a target"),
        ("a,label\n1,x\n2,x\n", "column 'label': one class, 'x', in all of its 2 train rows"),
        ('a,label\n1,"x\n"\nthree,y\n', "train.csv, row 2 (line 4), column 'a': found 'three', expected a number"),
    ],
    ids=range(13),
)
def test_mistakes_in_train_are_reported(tmp_path, content, expected):
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert expected in refusal(load, tmp_path, Params(target="label"))


def test_mistakes_in_later_splits_names_and_folders_are_reported(tmp_path):
    def mistake(folder=tmp_path, split="train", **values):
        return refusal(load, folder, Params(**{"target": "label", **values}), split)

    assert "there is no such data directory; --data_dir says" in mistake(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    assert "there is no train.csv in it; it holds notes.txt, expected train.csv" in mistake()
    (tmp_path / "train.csv").write_text(SMALL)
    for text, expected in (
        ("size,label\n1,a\n", "val.csv: there is no column 'color', the feature; It has size, label"),
        (SMALL.replace("label", "other"), "val.csv: there is no column 'label', the target"),
        (SMALL.replace("\n2,", "\ntwo,"), "val.csv, row 2 (line 3), column 'size': found 'two'"),
        (SMALL + "5,red,c\n", "row 5 (line 6), column 'label': class 'c' is not among the classes that train had when"),
    ):
        (tmp_path / "val.csv").write_text(text)
        assert expected in mistake(split="val")
    assert "there is no test.csv" in mistake(split="test")
    assert "no column 'colour', the feature; did you mean 'color'?" in mistake(features=["colour"])
    assert "no column 'colour', the one listed in `categorical`" in mistake(categorical=["colour"])
    assert "no column 'key', the id_column" in mistake(id_column="key")
    message = "train.csv, row 3 (line 4), column 'color': id 'red' is also the id of line 2"
    assert message in mistake(id_column="color")


def test_one_file_is_split_by_seed_and_class(tmp_path, caplog):
    caplog.set_level("INFO")
    rows = "".join(f"{i},{'rare' if i % 10 == 0 else 'often'}\n" for i in range(100))
    (tmp_path / "data.csv").write_text("a,label\n" + rows)
    params = Params(target="label", val_fraction=0.2, test_fraction=0.1)
    tables = {split: read_split(split, tmp_path, params) for split in ("train", "val", "test")}
    assert [len(table) for table in tables.values()] == [70, 20, 10]
    assert [table.column("label").count("rare") for table in tables.values()] == [7, 2, 1]
    assert sorted(row.number for table in tables.values() for row in table.rows) == list(range(1, 101))
    assert "split by split_seed 230: val is 20 of its 100 rows" in caplog.text
    for values, is_same in (({"seed": 1}, True), ({"split_seed": 1}, False)):
        again = read_split("val", tmp_path, params.model_copy(update=values))
        assert (again.rows == tables["val"].rows) == is_same
    (tmp_path / "data.csv").rename(tmp_path / "train.csv")  # then val is cut from it, and test is a file
    (tmp_path / "test.csv").write_text(SMALL)
    found = [{row.number for row in read_split(split, tmp_path, params).rows} for split in ("train", "val", "test")]
    assert not found[0] & found[1] and [*map(len, found)] == [80, 20, 4]
