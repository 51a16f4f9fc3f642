"""Files that are never seen half written, JSON that is always valid JSON, CSV that brings back what is in it."""

import csv
import io
import json
import math
import os
import stat

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import utils
from fiveline.record.atomic import append_line, temporary_path, write_lines
from fiveline.record.files import MAX_TEXT_BYTES, from_cell

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has other links, permissions and limits")


def read_mistake(function, path):
    with pytest.raises(utils.InputError) as caught:
        function(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_files_and_nothing_else(tmp_path, monkeypatch, broken):
    path, other = tmp_path / "last", tmp_path / "previous"
    for content in (b"1", b"2", b"3"):
        utils.write_atomically(path, content, other)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if broken == "fsync" else (type(path), "replace")), fail)
    with pytest.raises(OSError, match="No space left"):
        utils.write_atomically(path, b"new")
    assert path.read_bytes() == b"3" and (broken == "replace" or other.read_bytes() == b"2")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["last", "previous"]


def test_the_bytes_are_on_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.exists()))
    utils.write_atomically(path, b"new")
    assert synced == [False, True]  # the file itself, then the folder that names it


@pytest.mark.parametrize(
    ("row", "read"),
    [
        ({"loss": math.nan, "best": [math.inf, {"rate": -math.inf}]}, {"loss": None, "best": [None, {"rate": None}]}),
        ({"class": "two\u2028lines\x85or\x0cthree"}, {"class": "two\u2028lines\x85or\x0cthree"}),
        ({"data_dir": "no UTF-8: \udcff", "big": 10**30}, {"data_dir": "no UTF-8: \udcff", "big": 10**30}),
        ({"é": [True, None, 0.1, "\\ud800", (1, 2)]}, {"é": [True, None, 0.1, "\\ud800", [1, 2]]}),
    ],
)
def test_what_is_written_is_valid_json_and_reads_the_same(tmp_path, row, read):
    write_lines(tmp_path / "rows.jsonl", [row, row])
    assert utils.read_lines(tmp_path / "rows.jsonl") == [read, read]
    utils.save_dict_to_json({"rows": row}, tmp_path / "rows.json")
    assert utils.read_json(tmp_path / "rows.json") == {"rows": read}
    json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"), (b'{"a": 1', "not valid JSON"), (b'{"a": 1} x', "not valid JSON"),
        (b"[1]", "found list"), (b"3", "found int"), (b'{"a": "\xe9"}', "not a UTF-8 text file (byte 7)"),
        (b"[" * 100_000, "not valid JSON"), (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_json_object_is_named(tmp_path, content, reason):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    assert reason in read_mistake(utils.read_json, path)
    if content:
        assert reason in read_mistake(utils.read_lines, path)


def test_missing_huge_and_broken_files_are_named(tmp_path):
    assert "there is no such file" in read_mistake(utils.read_json, tmp_path / "none.json")
    assert utils.read_lines(tmp_path / "none.jsonl") == []
    assert "expected a regular file" in read_mistake(utils.read_json, tmp_path)
    path = tmp_path / "history.jsonl"
    path.write_text('{"epoch": 1}\n\n{"epoch": 2\n', encoding="utf-8")
    assert "history.jsonl, line 3: not valid JSON" in read_mistake(utils.read_lines, path)
    with path.open("wb") as file:
        file.truncate(MAX_TEXT_BYTES + 1)  # sparse: takes no room
    assert "16,777,217 bytes" in read_mistake(utils.read_json, path)
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert utils.read_json(path) == {"a": 1}  # without the byte-order mark


def is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.text("a,;\"' \r\n\u2028é=-+@\t1."), min_size=1)))
@example([["=1+1", "'=1+1", "''=1", " =1", "' =1", "-1.5", "'-1.5", "-", "'", "@SUM(A1)", "=cmd|' /C calc'!A0"]])
def test_csv_brings_back_every_text(rows):
    text = "".join(utils.csv_lines(rows))
    cells = list(csv.reader(io.StringIO(text, newline="")))
    assert [[from_cell(cell) for cell in row] for row in cells] == rows
    texts = [cell for row in cells for cell in row if not is_number(cell)]
    assert not any(text.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for text in texts)
    assert not text or text.endswith("\n") and not text.endswith("\r\n")


@posix
def test_no_link_is_followed(tmp_path, monkeypatch):
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"theirs")
    path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        append_line(path, {"epoch": 1})
    utils.write_atomically(path, b"ours")
    assert not path.is_symlink() and path.read_bytes() == b"ours"
    monkeypatch.setattr(os, "urandom", bytes)  # if someone could guess the name of the temporary file
    temporary_path(path).symlink_to(victim)
    with pytest.raises(FileExistsError, match="exists.*file"):
        utils.write_atomically(path, b"new")
    (tmp_path / "train.log").symlink_to(victim)
    os.mkfifo(tmp_path / "evaluate.log")
    for name, reason in (("train.log", "symbolic links"), ("evaluate.log", "No such device")):
        with pytest.raises(OSError, match=f"{reason}.*{name}"):
            utils.set_logger(tmp_path / name)
    assert victim.read_bytes() == b"theirs" and path.read_bytes() == b"ours"


@posix
def test_permissions_of_a_file_are_never_widened(tmp_path):
    before = os.umask(0o022)
    try:
        for mode in (0o600, 0o444, 0o666):
            path = tmp_path / f"file_{mode}"
            utils.write_atomically(path, b"new")
            path.chmod(mode)
            with utils.open_atomically(path):
                [temporary] = tmp_path.glob(".*.tmp")
                assert stat.S_IMODE(temporary.stat().st_mode) == mode & 0o644
            assert stat.S_IMODE(path.stat().st_mode) == mode & 0o644
    finally:
        os.umask(before)
