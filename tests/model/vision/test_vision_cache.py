"""Decoded images on disk: made once, shared, made again when a file changes, and never a reason to fail."""

import copy
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fiveline.loader import batches_from, fetch_dataloader
from fiveline.loading import cache
from fiveline.record.atomic import temporary_path
from model.vision import decode
from model.vision.data_loader import fetch_dataset, fetch_facts
from model.vision.params import Params
from model.vision.readers import read_split
from utils import InputError, fingerprint

PARAMS = Params(image_size=8, horizontal_flip=False, normalize="train")


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder of images, 12 to train on and 6 to validate with; the user's cache folder is beside it."""
    generator = np.random.default_rng(0)
    for split, number in (("train", 12), ("val", 6)):
        for i in range(number):
            path = tmp_path / "data" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, size=(9, 9, 3), dtype=np.uint8)).save(path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"


@pytest.fixture
def decoded_files(monkeypatch):
    """The names of the files that were decoded so far."""
    names = []
    original = decode.decode

    def counting(image, params):
        names.append(image.name)
        return original(image, params)

    counting.__wrapped__ = original
    monkeypatch.setattr(decode, "decode", counting)
    return names


def pixels_of(dataset):
    """Return the images of a dataset without normalisation, (n, height, width, channels), uint8."""
    plain = copy.copy(dataset)
    plain.params = dataset.params.model_copy(update={"normalize": "none"})
    return (plain.__getitems__(range(len(dataset)))[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def find_file(folder):
    (path,) = folder.glob("train_8x8x3-*.npy")
    return path


def fetch_pixels(data_dir, split="train", **values):
    params = PARAMS.model_copy(update=values)
    dataset = fetch_dataset(split, data_dir, params.with_facts(fetch_facts(data_dir, params)))
    return pixels_of(dataset)


def expected_pixels(data_dir, split="train", params=PARAMS):
    return torch.stack(
        [torch.tensor(decode.decode(path, params)) for path in read_split(split, data_dir, params).images]
    )


# ---- made once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["auto", "disk"])
def test_images_are_decoded_once_for_all_runs(images, decoded_files, kind):
    for _ in range(3):
        train, val = (fetch_pixels(images, split, cache=kind) for split in ("train", "val"))
    assert len(decoded_files) == 18 and len(set(decoded_files)) == 12  # the statistics of pixels included
    assert torch.equal(train, expected_pixels(images)) and torch.equal(val, expected_pixels(images, "val"))


@pytest.mark.parametrize("kind", ["memory", "none"])
def test_other_kinds_write_nothing(images, tmp_path, kind):
    assert torch.equal(fetch_pixels(images, cache=kind), expected_pixels(images))
    assert not (images / ".decoded").exists() and not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_second_run_maps_what_the_first_one_decoded(images, make_run, run_script):
    settings = {"data_dir": str(images), "image_channels": 3, "normalize": "train"}
    first, second = (make_run(name, **settings) for name in ("first", "second"))
    assert run_script("train.py", "--model_dir", first).returncode == 0
    result = run_script("train.py", "--model_dir", second)
    assert result.returncode == 0, result.stderr
    assert "decoding" not in result.stderr
    for name in ("metrics_val_best_weights.json", "metrics_val_last_weights.json"):
        assert (first / name).read_text() == (second / name).read_text()


def test_runs_that_cut_off_another_val_share_the_file(images, decoded_files):
    shutil.rmtree(images / "val")
    for fraction in (0.2, 0.4):
        for split in ("train", "val"):
            params = PARAMS.model_copy(update={"val_fraction": fraction})
            dataset = fetch_dataset(split, images, params.with_facts(fetch_facts(images, params)))
            assert len(decoded_files) == 12
            pixels = pixels_of(dataset)
            for name, image in zip(dataset.ids, pixels, strict=True):
                assert np.array_equal(image, decode.decode.__wrapped__(images / "train" / name, params))


def test_the_dataset_stays_the_same_for_everybody_else(images):
    before = fingerprint(images)
    fetch_pixels(images)
    assert (images / ".decoded").is_dir() and fingerprint(images) == before


@pytest.mark.slow
def test_many_processes_decode_once(images, project):
    code = f"""
import logging, sys, threading, time
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from pathlib import Path
from fiveline.loader import fetch_dataloader, batches_from
from model.vision import decode
from model.vision.data_loader import fetch_facts
from model.vision.params import Params
original = decode.decode
decode.decode = lambda *args: (time.sleep(0.05), original(*args))[1]
sys.stdin.read()
fetch_facts(Path({str(images)!r}), Params(image_size=8, normalize="train"))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=project, stdin=-1, stdout=-1, text=True) for _ in range(4)
    ]
    outputs = [process.communicate("")[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert "".join(outputs).count("- decoding 12 images once, into ") == 1


# ---- made again ---------------------------------------------------------------------------------------------------


def touch(images):
    os.utime(images / "train/a/0.png", ns=(1, 1))


def repaint(images):
    Image.new("RGB", (30, 30), "red").save(images / "train/a/0.png")


def add(images):
    Image.new("RGB", (9, 9), "red").save(images / "train/a/new.png")


def remove(images):
    (images / "train/a/0.png").unlink()


def rename(images):
    (images / "train/a/0.png").rename(images / "train/b/0.png")


@pytest.mark.parametrize("change", [touch, repaint, add, remove, rename])
def test_a_change_of_the_files_is_noticed(images, decoded_files, change):
    fetch_pixels(images)
    change(images)
    decoded_files.clear()
    pixels = fetch_pixels(images)
    assert len(decoded_files) == len(pixels)
    assert torch.equal(pixels, expected_pixels(images))
    assert len(list((images / ".decoded").glob("*.npy"))) == 1  # in the place of the old one


def test_another_size_or_colour_is_another_file(images, decoded_files):
    for values in ({"image_size": 10}, {"image_channels": 1}, {"image_size": 10}, {"image_channels": 1}):
        params = PARAMS.model_copy(update=values)
        assert torch.equal(fetch_pixels(images, **values), expected_pixels(images, params=params))
    assert len(decoded_files) == 2 * 12 + 4 * 12  # including expected_pixels


def test_another_way_to_decode_is_noticed(images, decoded_files, monkeypatch, tmp_path):
    fetch_pixels(images)
    edited = tmp_path / "decode.py"
    edited.write_text("# another one")
    monkeypatch.setattr(decode, "__file__", str(edited))
    fetch_pixels(images)
    assert len(decoded_files) == 24


# ---- damaged -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "foreign", "longer", "folder"])
def test_a_file_that_is_not_what_it_should_be_is_made_again(images, decoded_files, damage):
    fetch_pixels(images)
    path = find_file(images / ".decoded")
    whole = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-7], "header": b"x" + whole[1:], "foreign": b"x" * len(whole),
                          "longer": whole + b"x"}[damage])  # fmt: skip
    decoded_files.clear()
    assert torch.equal(fetch_pixels(images), expected_pixels(images))
    assert len(decoded_files) == 12 + 12 + 12 * (damage == "folder")  # where it ended in the user's cache folder
    assert damage == "folder" or path.read_bytes() == whole


def test_damaged_pixels_are_decoded_again(images):
    fetch_pixels(images)
    path = find_file(images / ".decoded")
    damaged = bytearray(path.read_bytes())
    damaged[128 + 3 * 192 + 7] ^= 1  # in the fourth image
    path.write_bytes(damaged)
    assert torch.equal(fetch_pixels(images), expected_pixels(images))
    assert path.read_bytes() != bytes(damaged)


def test_a_run_keeps_the_images_it_began_with(images):
    dataset = fetch_dataset("val", images, PARAMS.with_facts(fetch_facts(images, PARAMS)))
    before = pixels_of(dataset)
    Image.new("RGB", (9, 9), "red").save(images / "val/a/0.png")
    assert not torch.equal(fetch_pixels(images, "val"), before)  # another run, which makes the file again
    assert torch.equal(pixels_of(dataset), before)


def test_what_a_killed_process_left_is_cleared(images):
    (images / ".decoded").mkdir()
    stale = temporary_path(images / ".decoded/train_8x8x3-0.npy")
    stale.write_bytes(b"half")
    (images / ".decoded/train_8x8x3.lock").touch()
    older = images / ".decoded/train_8x8x3"  # of a version that named it so
    older.touch()
    assert torch.equal(fetch_pixels(images), expected_pixels(images))
    assert not stale.exists() and not older.exists()


def test_an_unreadable_image_is_named_and_leaves_nothing_behind(images):
    (images / "train/a/2.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"2\.png: not a readable image"):
        fetch_pixels(images)
    assert [path.suffix for path in (images / ".decoded").iterdir()] in ([], [".lock"])
    (images / "train/a/2.png").unlink()
    (images / "train/a/2.png").symlink_to("nowhere.png")
    with pytest.raises(InputError, match=r"2\.png: not a readable image"):
        fetch_pixels(images)


# ---- nowhere to write ----------------------------------------------------------------------------------------------


def test_a_read_only_dataset_is_decoded_into_the_users_cache(images, tmp_path, decoded_files, caplog):
    caplog.set_level(logging.INFO)
    images.chmod(0o555)
    try:
        for _ in range(2):
            assert torch.equal(fetch_pixels(images), expected_pixels(images))
    finally:
        images.chmod(0o755)
    assert len(decoded_files) == 12 + 2 * 12  # of which twice for what is expected
    assert not (images / ".decoded").exists()
    (folder,) = (tmp_path / "cache/fiveline").glob("data-*")
    path = find_file(folder)
    notes = [record.message for record in caplog.records if "read-only" in record.message]
    assert notes == [f"- decoded images cannot be kept in {images / '.decoded'} (it is read-only)"]
    assert f"- decoding 12 images once, into {path}" in caplog.text


@pytest.mark.parametrize("why", ["file in the way", "full", "no locks"])
def test_without_a_place_to_write_images_are_kept_in_memory(images, tmp_path, caplog, monkeypatch, why):
    caplog.set_level(logging.INFO)
    if why == "file in the way":
        (tmp_path / "cache").write_text("")
        (images / ".decoded").write_text("")
    elif why == "full":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))
    else:

        def acquire(self, *args, **options):
            raise NotImplementedError("FileSystem does not appear to support flock")

        monkeypatch.setattr(cache.FileLock, "acquire", acquire)
    assert torch.equal(fetch_pixels(images, cache="disk"), expected_pixels(images))
    assert len(re.findall("cannot be kept in .*(almost full|exists|directory|flock)", caplog.text)) == 4


@pytest.mark.skipif(os.name == "nt", reason="no limits of this kind")
def test_a_disk_that_becomes_full_leaves_nothing_behind(images, project, tmp_path):
    code = f"""
import logging, resource, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from model.vision.data_loader import fetch_dataset, fetch_facts
from model.vision.params import Params
params = Params(image_size=64)
params = params.with_facts(fetch_facts(Path({str(images)!r}), params))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
print(fetch_dataset("train", Path({str(images)!r}), params)[0][0].shape)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("cannot be kept in ") == 2 and "File too large" in result.stdout
    assert "torch.Size([3, 64, 64])" in result.stdout
    left = [*(images / ".decoded").iterdir(), *(tmp_path / "cache").rglob("*x*")]
    assert all(path.suffix == ".lock" for path in left)


def test_large_sets_are_decoded_when_needed_unless_somebody_says_more(images, caplog, monkeypatch, decoded_files):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(decode, "SMALL_BYTES", 12 * 8 * 8 * 3 - 1)
    params = Params(image_size=8, horizontal_flip=False)
    params = params.with_facts(fetch_facts(images, params))
    train, val = (fetch_dataset(split, images, params) for split in ("train", "val"))
    assert train.pixels is None and val.pixels is not None
    assert "- train: each of 12 images is decoded when it is needed; num_workers=... does it" in caplog.text
    assert decoded_files and not list((images / ".decoded").glob("train_*.npy"))
    mapped = fetch_dataset("train", images, params.model_copy(update={"cache": "disk"}).with_facts(params.facts))
    assert torch.equal(pixels_of(mapped), pixels_of(train))


# ---- packed --------------------------------------------------------------------------------------------------------


def test_packed_images_of_another_size_are_resized(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(20, 11, 9), dtype=np.uint8)
    for split in ("train", "val"):
        np.savez(tmp_path / f"{split}.npz", images=pixels, labels=np.arange(20) % 2)
    for kind in ("auto", "none"):
        assert np.array_equal(fetch_pixels(tmp_path, cache=kind)[7], decode.decode(pixels[7], PARAMS))


def test_a_large_npz_that_is_cut_is_refused(tmp_path):
    images = np.zeros((200, 8, 8), np.uint8)
    np.savez(tmp_path / "train.npz", images=images, labels=np.arange(200) % 2)
    whole = (tmp_path / "train.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "train.npz") as archive:
        directory = whole[archive.start_dir :]
    for data in (whole[:5000], whole[:5000] + directory):
        (tmp_path / "train.npz").write_bytes(data)
        with pytest.raises(InputError, match="train.npz: expected `images`"):
            read_split("train", tmp_path, PARAMS)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_from_a_file_from_memory_and_one_by_one_train_alike(images, num_workers):
    batches = []
    for kind in ("disk", "memory", "none"):
        params = Params(image_size=8, batch_size=4, shift=1, num_workers=num_workers, cache=kind)
        params = params.with_facts(fetch_facts(images, params))
        batches.append(list(batches_from(fetch_dataloader("train", images, params, training=True), 1, 0)[0]))
    for first, *others in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
