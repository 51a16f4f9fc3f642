"""The cache of arrays: made once for a key, an ordinary .npy, and never a reason to fail."""

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from fiveline.loading import cache, cached_array, files_key, on_device

SHAPE = (10, 2, 3)
VALUES = np.arange(60, dtype=np.uint8).reshape(SHAPE)


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """A function that fetches the array of a key, and the slices that were made for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    made = []

    def make(part):
        made.append(part)
        return VALUES[part]

    def fetch(key="key", **options):
        return cached_array(tmp_path / "data", "numbers", key, SHAPE, options.get("make", make))

    fetch.made, fetch.folder = made, tmp_path / "data/.decoded"
    return fetch


def test_an_array_is_made_once_and_is_a_plain_npy_file(fetch):
    assert np.array_equal(fetch(), VALUES) and np.array_equal(fetch(), VALUES) and len(fetch.made) == 1
    (path,) = fetch.folder.glob("*.npy")
    assert np.array_equal(np.load(path, mmap_mode="r"), VALUES)


def test_another_key_replaces_the_file(fetch):
    first = fetch("one")
    assert np.array_equal(fetch("two"), VALUES) and len(fetch.made) == 2
    assert len(list(fetch.folder.glob("*.npy"))) == 1 and np.array_equal(first, VALUES)  # still mapped


def test_writing_to_the_array_leaves_the_file_as_it_is(fetch):
    fetch()[:] = 0
    assert np.array_equal(fetch(), VALUES)


def test_large_arrays_are_made_in_parts(fetch, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK_BYTES", 18)
    assert np.array_equal(fetch(), VALUES)
    assert [VALUES[part].shape[0] for part in fetch.made] == [3, 3, 3, 1]


def test_a_very_large_array_is_opened_without_reading_it(fetch, monkeypatch):
    monkeypatch.setattr(cache, "CHECKED_BYTES", 1)
    monkeypatch.setattr(np, "fromfile", lambda *args, **options: pytest.fail("it was read"))
    assert np.array_equal(fetch(), VALUES) and np.array_equal(fetch(), VALUES) and len(fetch.made) == 1


def test_an_error_of_the_maker_leaves_nothing_behind(fetch):
    def fail(part):
        raise ValueError("no such image")

    with pytest.raises(ValueError, match="no such image"):
        fetch(make=fail)
    assert [path.suffix for path in fetch.folder.iterdir()] in ([], [".lock"])
    assert np.array_equal(fetch(), VALUES)


def test_threads_that_ask_at_once_make_it_once(fetch):
    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetch.made) == 1


def test_the_key_of_files_does_not_depend_on_the_name_of_their_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / name).write_text(name)
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)

    def key(folder, names="ab"):
        return files_key([folder / name for name in names], folder)

    assert key(Path("data")) == key(tmp_path / "data") == key(Path("link")) != key(Path("data"), "a")
    assert key(Path("data"), ["missing"]) != hashlib.sha256().hexdigest()
    (tmp_path / "data/a").write_text("other")
    assert key(Path("data")) != key(tmp_path / "data", "b")


def test_on_the_cpu_a_tensor_stays_where_it_is():
    import torch

    tensor = torch.zeros(3)
    assert on_device(tensor) is tensor
