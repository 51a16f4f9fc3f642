"""Decoded images: the same pixels from a file, from memory and one by one; decoded again when a file changes."""

import copy
import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from model.vision import decode
from model.vision.data_loader import fetch_dataset, fetch_facts
from model.vision.params import Params
from model.vision.readers import read_split
from utils import fingerprint

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

    monkeypatch.setattr(decode, "decode", counting)
    return names


def pixels_of(dataset):
    """Return the images of a dataset without normalisation, (n, height, width, channels), uint8."""
    plain = copy.copy(dataset)
    plain.params = dataset.params.model_copy(update={"normalize": "none"})
    return (plain.__getitems__(range(len(dataset)))[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def fetch_pixels(data_dir, split="train", **values):
    params = PARAMS.model_copy(update=values)
    return pixels_of(fetch_dataset(split, data_dir, params.with_facts(fetch_facts(data_dir, params))))


def expected_pixels(data_dir, split="train", params=PARAMS):
    return torch.stack(
        [torch.tensor(decode.decode(path, params)) for path in read_split(split, data_dir, params).images]
    )


@pytest.mark.parametrize("kind", ["auto", "disk", "memory", "none"])
def test_images_are_decoded_once_for_all_runs_or_nothing_is_written(images, tmp_path, decoded_files, kind):
    before = fingerprint(images)
    for _ in range(2):
        train, val = (fetch_pixels(images, split, cache=kind) for split in ("train", "val"))
    if kind in ("auto", "disk"):
        assert len(decoded_files) == 18 and len(set(decoded_files)) == 12  # the statistics of pixels included
    assert (images / ".decoded").exists() == (kind in ("auto", "disk")) and not (tmp_path / "cache").exists()
    assert fingerprint(images) == before  # the dataset stays the same for other runs
    assert torch.equal(train, expected_pixels(images)) and torch.equal(val, expected_pixels(images, "val"))


CHANGES = {
    "touch": lambda images: os.utime(images / "train/a/0.png", ns=(1, 1)),
    "repaint": lambda images: Image.new("RGB", (30, 30), "red").save(images / "train/a/0.png"),
    "add": lambda images: Image.new("RGB", (9, 9), "red").save(images / "train/a/new.png"),
    "remove": lambda images: (images / "train/a/0.png").unlink(),
    "rename": lambda images: (images / "train/a/0.png").rename(images / "train/b/0.png"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_files_is_noticed(images, decoded_files, change):
    fetch_pixels(images)
    CHANGES[change](images)
    decoded_files.clear()
    pixels = fetch_pixels(images)
    assert len(decoded_files) == len(pixels)
    assert torch.equal(pixels, expected_pixels(images))
    assert len(list((images / ".decoded").glob("*.npy"))) == 1  # in the place of the old one


def test_another_size_or_colour_or_way_to_decode_is_noticed(images, decoded_files, monkeypatch, tmp_path):
    for values in ({"image_size": 10}, {"image_channels": 1}, {"image_size": 10}, {"image_channels": 1}):
        params = PARAMS.model_copy(update=values)
        assert torch.equal(fetch_pixels(images, **values), expected_pixels(images, params=params))
    assert len(decoded_files) == 2 * 12 + 4 * 12  # including expected_pixels
    (tmp_path / "decode.py").write_text("# another one")
    monkeypatch.setattr(decode, "__file__", str(tmp_path / "decode.py"))
    fetch_pixels(images, image_size=10)
    assert len(decoded_files) == 7 * 12


def test_without_a_place_to_write_images_are_kept_in_memory(images, tmp_path):
    (tmp_path / "cache").write_text("")
    (images / ".decoded").write_text("")
    assert torch.equal(fetch_pixels(images, cache="disk"), expected_pixels(images))


def test_large_sets_are_decoded_when_needed_unless_cache_says_more(images, caplog, monkeypatch, decoded_files):
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


@pytest.mark.parametrize("size", [(11, 9), (8, 8, 3)])
def test_packed_images_are_resized_unless_they_have_the_size(tmp_path, size):
    pixels = np.random.default_rng(0).integers(0, 256, size=(20, *size), dtype=np.uint8)
    for split in ("train", "val"):
        np.savez(tmp_path / f"{split}.npz", images=pixels, labels=np.arange(20) % 2)
    for kind in ("auto", "none"):
        expected = decode.decode(pixels[7], PARAMS) if size == (11, 9) else pixels[7]
        assert np.array_equal(fetch_pixels(tmp_path, cache=kind)[7], expected)
