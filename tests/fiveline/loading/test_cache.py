"""The cache of arrays: made once for a key, an ordinary .npy, and never a reason to fail."""

import contextlib
import logging
import os
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from fiveline.loading import cache, cached_array
from fiveline.record.atomic import temporary_path

SHAPE = (10, 2, 3)
VALUES = np.arange(60, dtype=np.uint8).reshape(SHAPE)


@pytest.fixture
def fetch(tmp_path, monkeypatch, caplog):
    """A function that fetches the array of a key, and the parts that were made for it."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    made = []

    def parts():
        for part in (VALUES[:3], VALUES[3:9], VALUES[9:]):
            made.append(len(part))
            yield part

    def fetch(key="key"):
        return cached_array(tmp_path / "data", "numbers", key, parts)

    fetch.made, fetch.folder = made, tmp_path / "data/.decoded"
    return fetch


def test_an_array_is_made_once_in_parts_and_is_a_plain_npy_file(fetch):
    threads = [threading.Thread(target=fetch) for _ in range(4)]  # at once
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(fetch(), VALUES) and fetch.made == [3, 6, 1]
    (path,) = fetch.folder.glob("*.npy")
    assert np.array_equal(np.load(path, mmap_mode="r"), VALUES)
    fetch()[:] = 0  # which leaves the file as it is
    assert np.array_equal(fetch(), VALUES)


def test_another_key_replaces_the_file_and_what_a_killed_process_left(fetch):
    first = fetch("one")
    stale = temporary_path(fetch.folder / "numbers-0.npy")
    stale.write_bytes(b"half")
    assert np.array_equal(fetch("two"), VALUES) and len(fetch.made) == 6 and not stale.exists()
    assert len(list(fetch.folder.glob("*.npy"))) == 1 and np.array_equal(first, VALUES)  # still mapped


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_a_file_that_is_not_what_it_should_be_is_made_again(fetch, damage):
    fetch()
    (path,) = fetch.folder.glob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-7] if damage is None else damage + whole[1:] if damage else damage)
    assert np.array_equal(fetch(), VALUES) and len(fetch.made) == 6 and path.read_bytes() == whole


def test_a_dataset_whose_folder_cannot_be_written_is_cached_in_the_users_folder(fetch, tmp_path, caplog):
    fetch.folder.write_text("a file in the way")  # root may write into a read-only folder
    assert np.array_equal(fetch(), VALUES) and np.array_equal(fetch(), VALUES) and len(fetch.made) == 3
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
def test_a_disk_that_fills_up_costs_a_folder_but_no_values(fetch, monkeypatch, num_full):
    """The disks of the first folders turn out to be full in the second part of the array."""
    real, opened = cache.open_atomically, []

    @contextlib.contextmanager
    def open_atomically(path, mode):
        with real(path, mode=mode) as file:
            opened.append(path)
            write = file.write
            if len(opened) <= num_full:
                full = SimpleNamespace(tell=file.tell, seek=file.seek)
                full.write = lambda data: write(data) if file.tell() < 140 else os.write(-1, data)
                yield full
            else:
                yield file

    monkeypatch.setattr(cache, "open_atomically", open_atomically)
    found = fetch()
    assert found is None if num_full == 2 else np.array_equal(found, VALUES)
    assert len(opened) == min(num_full + 1, 2) and not list(fetch.folder.glob(".*.tmp"))
