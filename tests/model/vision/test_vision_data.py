"""Batches of images: the same bytes from any process and cache, decoded again when a file changes; augmentation."""

import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from fiveline.device import epoch_draws
from fiveline.loader import batches_from, fetch_dataloader
from fiveline.tasks import fetch_facts
from model.vision import decode
from model.vision.data_loader import fetch_dataset
from model.vision.params import Params
from model.vision.readers import read_split
from tests.support.photos import make_folders, save_picture
from utils import fingerprint

PLAIN = Params(image_size=8, horizontal_flip=False)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder of images, 13 to train on and 6 to validate with; the user's cache folder is beside it."""
    generator = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 3)):
        counts = dict.fromkeys("ab", number)
        make_folders(tmp_path / "data", counts, lambda: generator.integers(0, 256, (9, 9, 3), dtype=np.uint8), [split])
    save_picture(tmp_path / "data/train/a/0.bmp")  # whose size does not depend on its contents
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"


def make_params(data_dir, **values):
    settings = {"image_size": 8, "batch_size": 4, "shift": 2, "jitter": 0.3, "horizontal_flip": True, **values}
    return fetch_facts(data_dir, Params(**settings))


def test_images_are_the_same_bytes_from_any_process_and_cache(images):
    before, runs = torch.get_rng_state(), []
    for cache, num_workers in (("none", 0), ("none", 2), ("memory", 0), ("disk", 0)):
        params = make_params(images, cache=cache, num_workers=num_workers)
        loader = fetch_dataloader("train", images, params, training=True)
        runs.append([tensor for epoch in (1, 2) for batch in batches_from(loader, epoch, 0)[0] for tensor in batch])
    assert torch.equal(torch.get_rng_state(), before)  # loading leaves the global generator alone
    assert len(runs[0]) == 16 and not torch.equal(runs[0][0], runs[0][8])
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)


def images_of(images, epoch, indices=range(13), **values):
    """Return images of train as they are in an epoch; 0: in no epoch of training."""
    dataset = fetch_dataset("train", images, make_params(images, **values))
    if epoch:
        dataset.set_epoch(epoch)
    return dataset.__getitems__(list(indices))[0]


def test_augmentation_depends_on_seed_epoch_and_example_alone(images):
    whole = images_of(images, 1)
    assert torch.equal(images_of(images, 1, [11, 4]), whole[[11, 4]])
    for second in (images_of(images, 2), images_of(images, 1, seed=231)):
        assert not any(torch.equal(image, before) for image, before in zip(second, whole, strict=True))


@pytest.mark.parametrize("size", [8, 13])
def test_flip_and_shift_are_those_of_numpy(images, size):
    values = {"jitter": 0.0, "image_size": size, "shift": 3, "normalize": "none"}
    plain, moved = ((images_of(images, n, **values) * 255).round().permute(0, 2, 3, 1).numpy() for n in (0, 1))
    draws = epoch_draws(Params().seed, 1, 13, 5).numpy()
    for image, draw, result in zip(plain, draws, moved, strict=True):
        expected = image[:, ::-1] if draw[0] < 0.5 else image
        y, x = (draw[1:3] * np.float32(7)).astype(int)
        expected = np.pad(expected, ((3, 3), (3, 3), (0, 0)), mode="edge")[y : y + size, x : x + size]
        assert np.array_equal(result, expected)


def test_jitter_changes_contrast_and_brightness_within_its_strength(images):
    values = {"shift": 0, "horizontal_flip": False, "normalize": "none"}
    plain, jittered = (images_of(images, 1, jitter=strength, **values) for strength in (0.0, 0.2))
    contrast, brightness = 0.8 + 0.4 * epoch_draws(Params().seed, 1, 13, 5).T[3:]
    for image, c, b, result in zip(plain, contrast, brightness, jittered, strict=True):
        torch.testing.assert_close(result, (((image - image.mean()) * c + image.mean()) * b).clamp(0, 1))


def test_only_training_is_augmented(images):
    params, raw = make_params(images), make_params(images, shift=0, jitter=0.0, horizontal_flip=False)
    for split in ("train", "val"):
        pairs = zip(fetch_dataloader(split, images, params), fetch_dataloader(split, images, raw), strict=True)
        assert all(torch.equal(one, other) for (one, _), (other, _) in pairs)


@pytest.fixture
def decoded_files(monkeypatch):
    """The names of the files that were decoded so far."""
    names, original = [], decode.decode
    monkeypatch.setattr(decode, "decode", lambda image, params: (names.append(image.name), original(image, params))[1])
    return names


def fetch_pixels(data_dir, split="train", **values):
    """Return the images of a split, (n, height, width, channels), uint8."""
    dataset = fetch_dataset(split, data_dir, fetch_facts(data_dir, PLAIN.model_copy(update=values)))
    return (dataset.__getitems__(range(len(dataset)))[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def expected_pixels(data_dir, split="train", params=PLAIN):
    paths = read_split(split, data_dir, params).images
    return torch.from_numpy(np.stack([decode.decode(path, params) for path in paths]))


@pytest.mark.parametrize("kind", ["auto", "disk", "memory", "none"])
def test_images_are_decoded_once_for_all_runs_or_nothing_is_written(images, tmp_path, decoded_files, kind):
    before = fingerprint(images)
    for _ in range(2):
        train, val = (fetch_pixels(images, split, cache=kind) for split in ("train", "val"))
    if kind in ("auto", "disk"):
        assert len(decoded_files) == 13 + 6
        modes = {path.stat().st_mode & 0o777 for path in (images / ".decoded").glob("*.npy")}
        assert modes == {0o600}
    assert (images / ".decoded").exists() == (kind in ("auto", "disk")) and not (tmp_path / "cache").exists()
    assert fingerprint(images) == before  # the dataset stays the same for other runs
    assert torch.equal(train, expected_pixels(images)) and torch.equal(val, expected_pixels(images, "val"))


def repaint_at_the_same_time(images):
    path = images / "train/a/0.bmp"
    status = path.stat()
    save_picture(path, "blue")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


CHANGES = {
    "add": lambda images: Image.new("RGB", (9, 9), "red").save(images / "train/a/new.png"),
    "rename": lambda images: (images / "train/a/0.png").rename(images / "train/b/9.png"),
    "repaint at the same time": repaint_at_the_same_time,
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
        expected = expected_pixels(images, params=PLAIN.model_copy(update=values))
        assert torch.equal(fetch_pixels(images, **values), expected)
    assert len(decoded_files) == (2 + 4) * 13  # including expected_pixels
    (tmp_path / "decode.py").write_text("# another one")
    monkeypatch.setattr(decode, "__file__", str(tmp_path / "decode.py"))
    fetch_pixels(images, image_size=10)
    assert len(decoded_files) == 7 * 13


def test_large_sets_are_decoded_when_needed_unless_cache_says_more(images, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(decode, "SMALL_BYTES", 13 * 8 * 8 * 3 - 1)
    pixels = fetch_pixels(images)
    assert "- train: each of 13 images is decoded when it is needed; num_workers=... decodes images" in caplog.text
    assert not (images / ".decoded").exists() and torch.equal(fetch_pixels(images, cache="disk"), pixels)
    assert list((images / ".decoded").glob("train_*.npy"))


@pytest.mark.parametrize("size", [(11, 9), (8, 8, 3)])
def test_packed_images_are_resized_unless_they_have_the_size(tmp_path, size):
    pixels = np.random.default_rng(0).integers(0, 256, size=(20, *size), dtype=np.uint8)
    for split in ("train", "val"):
        np.savez(tmp_path / f"{split}.npz", images=pixels, labels=np.arange(20) % 2)
    for kind in ("auto", "none"):
        expected = decode.decode(pixels[7], PLAIN) if size == (11, 9) else pixels[7]
        assert np.array_equal(fetch_pixels(tmp_path, cache=kind)[7], expected)
