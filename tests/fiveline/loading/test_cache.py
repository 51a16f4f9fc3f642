"""The cache of arrays: made once for a key, an ordinary .npy, and never a reason to fail."""

import contextlib
import itertools
import logging
import os
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from fiveline.loading import cache, cached_array, cached_stream
from fiveline.record.atomic import temporary_path

SHAPE = (10, 2, 3)
VALUES = np.arange(60, dtype=np.uint8).reshape(SHAPE)


@pytest.fixture
def fetch(tmp_path, monkeypatch, caplog):
    """A function that fetches the array of a key, and the slices that were made for it."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    made = []

    def make(part):
        made.append(part)
        return VALUES[part]

    def fetch(key="key", make=make):
        return cached_array(tmp_path / "data", "numbers", key, SHAPE, make)

    fetch.made, fetch.folder = made, tmp_path / "data/.decoded"
    return fetch


def test_an_array_is_made_once_in_parts_and_is_a_plain_npy_file(fetch, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK_BYTES", 18)
    threads = [threading.Thread(target=fetch) for _ in range(4)]  # at once
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(fetch(), VALUES) and [VALUES[part].shape[0] for part in fetch.made] == [3, 3, 3, 1]
    (path,) = fetch.folder.glob("*.npy")
    assert np.array_equal(np.load(path, mmap_mode="r"), VALUES)
    fetch()[:] = 0  # which leaves the file as it is
    assert np.array_equal(fetch(), VALUES)


def test_another_key_replaces_the_file_and_what_a_killed_process_left(fetch):
    first = fetch("one")
    stale = temporary_path(fetch.folder / "numbers-0.npy")
    stale.write_bytes(b"half")
    assert np.array_equal(fetch("two"), VALUES) and len(fetch.made) == 2 and not stale.exists()
    assert len(list(fetch.folder.glob("*.npy"))) == 1 and np.array_equal(first, VALUES)  # still mapped


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_a_file_that_is_not_what_it_should_be_is_made_again(fetch, damage):
    fetch()
    (path,) = fetch.folder.glob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-7] if damage is None else damage + whole[1:] if damage else damage)
    assert np.array_equal(fetch(), VALUES) and len(fetch.made) == 2 and path.read_bytes() == whole


def test_a_dataset_whose_folder_cannot_be_written_is_cached_in_the_users_folder(fetch, tmp_path, caplog):
    fetch.folder.write_text("a file in the way")  # root may write into a read-only folder
    assert np.array_equal(fetch(), VALUES) and np.array_equal(fetch(), VALUES) and len(fetch.made) == 1
    (path,) = (tmp_path / "cache/fiveline").glob("data-*/numbers-*.npy")
    assert caplog.text.count(f"- numbers cannot be kept in {fetch.folder} (") == 1
    assert f"- decoding numbers once, into {path}" in caplog.text


@pytest.mark.parametrize("why", ["full", "no locks"])
def test_without_a_place_to_write_there_is_no_array(fetch, caplog, monkeypatch, why):
    def acquire(self, *args, **options):
        raise NotImplementedError("FileSystem does not appear to support flock")

    if why == "full":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))
    else:
        monkeypatch.setattr(cache.FileLock, "acquire", acquire)
    assert fetch() is None and caplog.text.count("numbers cannot be kept in ") == 2


@pytest.mark.parametrize("num_full", [0, 1, 2])
def test_a_stream_is_whole_wherever_it_can_be_kept(fetch, tmp_path, monkeypatch, num_full):
    """The disks of the first folders turn out to be full in the second part of the array."""
    monkeypatch.setattr(cache, "CHUNK_BYTES", 50)
    real, opened = cache.open_atomically, []

    @contextlib.contextmanager
    def open_atomically(path, mode):
        with real(path, mode=mode) as file:
            opened.append(path)
            is_full = path.name.startswith("words") and len(opened) <= num_full + 1  # before it is the length's file
            write, parts = file.write, itertools.count()
            file = SimpleNamespace(
                write=lambda data: write(data) if not is_full or next(parts) < 2 else os.write(-1, data)
            )
            yield file

    monkeypatch.setattr(cache, "open_atomically", open_atomically)
    values = np.arange(100, dtype=np.uint16) * 500
    found = cached_stream(tmp_path / "data", "words", "key", lambda: iter(np.split(values, [7, 50])), values.dtype)
    assert found.dtype == np.uint16 and np.array_equal(found, values) and len(opened) == 1 + min(num_full + 1, 2)
