"""The scripts of data/ that build text from its published formats, on small files of those formats."""

import io
import shutil
import tarfile
import urllib.error
import urllib.request

import pytest

from tests.support.data import load_script, read_csv

REVIEWS = {
    f"aclImdb/{split}/{label}/{i}_{stars}.txt": f'{split} {label} {i}<br /><br />caf\u00e9 "quoted", and more'.encode()
    for split in ("train", "test")
    for label, stars in (("pos", 9), ("neg", 2))
    for i in range(20)
}


def build(name, folder, *words):
    data = {"imdb": "data/imdb", "shakespeare": "data/shakespeare"}[name]  # by these names, fiveline.new finds them
    load_script(f"{data}/build_dataset.py").main(["--output_dir", str(folder), *map(str, words)])


def write_archive(path, files, link=None):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if link is not None:
            member = tarfile.TarInfo("aclImdb/train/pos/92_9.txt")
            member.type, member.linkname = tarfile.SYMTYPE, str(link)
            archive.addfile(member)
    return path


def test_shakespeare_is_split_as_nanogpt_splits_it(tmp_path, capsys):
    text = "First Citizen:\r\nBefore we proceed any further, hear me speak.\n\n" * 20
    (tmp_path / "input.txt").write_text(text, newline="")
    build("shakespeare", tmp_path / "data", "--input", tmp_path / "input.txt")
    parts = [(tmp_path / f"data/{split}.txt").read_bytes().decode() for split in ("train", "val")]
    assert "".join(parts) == text and len(parts[0]) == int(len(text) * 0.9)
    assert f"val: {len(parts[1])} characters" in capsys.readouterr().out


def stopped(name, folder, capsys, *words):
    """Return the message that a builder stops with."""
    with pytest.raises(SystemExit) as stop:
        build(name, folder, *words)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1 and not list(folder.glob("train.*"))
    return message


@pytest.mark.parametrize("name", ["shakespeare", "imdb"])
def test_a_download_that_fails_or_is_not_the_known_file_is_refused(tmp_path, monkeypatch, capsys, name):
    def fail(url, timeout):
        raise urllib.error.URLError("no network")

    for urlopen, words in ((fail, "no network"), (lambda url, timeout: io.BytesIO(b"<html>"), "expected ")):
        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        assert words in stopped(name, tmp_path, capsys)


@pytest.mark.parametrize("is_folder", [False, True])
def test_imdb_becomes_three_tables(tmp_path, is_folder):
    more = {"aclImdb/README": b"read me", "aclImdb/train/unsup/0_0.txt": b"no label", "aclImdb/train/pos/0.txt": b"x"}
    source = write_archive(tmp_path / "aclImdb_v1.tar.gz", REVIEWS | more)
    if is_folder:
        shutil.unpack_archive(source, tmp_path)
        source = tmp_path / "aclImdb"
    build("imdb", tmp_path / "data", "--input", source)
    rows = {split: read_csv(tmp_path / f"data/{split}.csv") for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 36, "val": 4, "test": 40}
    assert [row["text"][:12] for row in rows["val"]] == ["train neg 18", "train neg 19", "train pos 18", "train pos 19"]
    assert all(row["label"] in row["text"] for found in rows.values() for row in found)
    assert rows["test"][0]["text"] == 'test neg 0\n\ncaf\u00e9 "quoted", and more'


def test_an_archive_writes_nowhere_else_and_reads_nothing_else(tmp_path):
    (tmp_path / "secret").write_text("secret")
    evil = {f"{tmp_path}/train/pos/90_9.txt": b"absolute", "../../train/pos/91_9.txt": b"above"}
    archive = write_archive(tmp_path / "evil.tar.gz", REVIEWS | evil, tmp_path / "secret")
    build("imdb", tmp_path / "data", "--input", archive)
    assert {path.name for path in tmp_path.iterdir()} == {"secret", "evil.tar.gz", "data"}
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"test.csv", "train.csv", "val.csv"}
    assert "secret" not in (tmp_path / "data/train.csv").read_text(encoding="utf-8")


def test_a_broken_archive_is_refused(tmp_path, capsys):
    path = write_archive(tmp_path / "a.tar.gz", {})
    assert "found 0 files such as train/neg" in stopped("imdb", tmp_path, capsys, "--input", path)
    path.write_bytes(write_archive(path, {name: content * 99 for name, content in REVIEWS.items()}).read_bytes()[:500])
    assert "end" in stopped("imdb", tmp_path, capsys, "--input", path)
    path.write_bytes(b"no archive")
    assert "could not be opened" in stopped("imdb", tmp_path, capsys, "--input", path)
