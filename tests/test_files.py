"""Files that are never seen half written, JSON that is always valid JSON, CSV that brings back what is in it."""

import csv
import io
import itertools
import json
import math
import os
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import utils
from record.files import MAX_TEXT_BYTES, read_text


def read_mistake(function, path):
    with pytest.raises(utils.InputError) as caught:
        function(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    utils.write_atomically(path, b"a long old text")
    utils.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if broken == "fsync" else (type(path), "replace")), fail)
    with pytest.raises(OSError, match="No space left"):
        utils.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_bytes_are_on_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.exists()))
    utils.write_atomically(path, b"new")
    assert synced == [False, True]  # the file itself, then the folder that names it


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([number]) * (2**16 + number) for number in range(20)]
    utils.write_atomically(path, contents[0])
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(5):
            for content in contents:
                utils.write_atomically(path, content)
    finally:
        done.set()
        reader.join()
    assert seen and seen <= set(contents)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def without_nan(value):
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(max_size=5), plain, max_size=4), max_size=4))
@example(rows=[{"loss": math.nan, "best": [math.inf, {"rate": -math.inf}]}])
@example(rows=[{"class": "two\u2028lines\x85or\x0cthree"}])
@example(rows=[{"data_dir": "no UTF-8: \udcff"}])
def test_what_is_written_is_valid_json_and_reads_the_same(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp()
    utils.write_lines(folder / "rows.jsonl", rows)
    assert utils.read_lines(folder / "rows.jsonl") == without_nan(rows)
    utils.save_dict_to_json({"rows": rows}, folder / "rows.json")
    assert utils.read_json(folder / "rows.json") == {"rows": without_nan(rows)}

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    json.loads((folder / "rows.json").read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not valid JSON"), (b'{"a": 1', "not valid JSON"), (b'{"a": 1} x', "not valid JSON"),
        (b"[1]", "found list"), (b"3", "found int"), (b'{"a": "\xe9"}', "not a UTF-8 text file (byte 7)"),
        (b"[" * 100_000, "not valid JSON"), (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_json_object_is_named(tmp_path, content, told):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    assert told in read_mistake(utils.read_json, path)
    if content:
        assert told in read_mistake(utils.read_lines, path)


def test_a_missing_file_is_named_but_no_history_is_no_lines(tmp_path):
    assert "there is no such file" in read_mistake(utils.read_json, tmp_path / "none.json")
    assert utils.read_lines(tmp_path / "none.jsonl") == []
    assert "cannot be read" in read_mistake(utils.read_json, tmp_path)


def test_the_broken_line_is_told(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"epoch": 1}\n\n{"epoch": 2\n', encoding="utf-8")
    with pytest.raises(utils.InputError, match="history.jsonl, line 3: not valid JSON"):
        utils.read_lines(path)


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "params.json"
    with path.open("wb") as file:
        file.truncate(MAX_TEXT_BYTES + 1)  # sparse: takes no room
    assert "16,777,217 bytes" in read_mistake(utils.read_json, path)


def test_a_byte_order_mark_is_dropped(tmp_path):
    path = tmp_path / "some.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert utils.read_json(path) == {"a": 1}
    assert read_text(path) == '{"a": 1}'


@given(st.lists(st.lists(st.text("a,;\"' \r\n\u2028é"), min_size=1)))
def test_csv_brings_back_every_text(rows):
    text = "".join(utils.csv_lines(rows))
    assert list(csv.reader(io.StringIO(text, newline=""))) == rows
    assert not text or text.endswith("\n") and not text.endswith("\r\n")


def test_csv_comes_row_by_row():
    lines = utils.csv_lines([number, None] for number in itertools.count())
    assert list(itertools.islice(lines, 3)) == ["0,\n", "1,\n", "2,\n"]


def test_half_a_line_at_the_end_of_a_growing_file_is_passed_over(tmp_path):
    path = tmp_path / "history.jsonl"
    for text, expected in (
        ('{"a": 1}\n{"a": 2', [{"a": 1}]),
        ('{"a": 1}\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ('{"a"', []),
        ('{"a": 1}\n{"b": {"c": 2}', [{"a": 1}]),
    ):
        path.write_text(text)
        assert utils.read_lines(path, is_growing=True) == expected
    path.write_text('{"a": 1\n{"a": 2}\n')
    with pytest.raises(utils.InputError, match="line 1: not valid JSON"):
        utils.read_lines(path, is_growing=True)
