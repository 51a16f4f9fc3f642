"""Batches of images: the same bytes from any process; augmentation depends on seed, epoch and example alone."""

import numpy as np
import pytest
import torch

from fiveline.device import epoch_draws
from fiveline.loader import batches_from, fetch_dataloader
from fiveline.tasks import fetch_facts
from model.vision.data_loader import fetch_dataset
from model.vision.params import Params
from tests.support.photos import make_folders


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of small images: 21 to train on, 6 to validate with."""
    generator, folder = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    for split, number in (("train", 7), ("val", 2)):
        counts = dict.fromkeys("abc", number)
        make_folders(folder, counts, lambda: generator.integers(0, 256, size=(8, 8, 3), dtype=np.uint8), [split])
    return folder


def make_params(data_dir, **values):
    settings = {"image_size": 8, "batch_size": 4, "shift": 2, "jitter": 0.3, "horizontal_flip": True, **values}
    return fetch_facts(data_dir, Params(**settings))


def two_epochs(dataloader):
    batches = []
    for epoch in (1, 2):
        batches += list(batches_from(dataloader, epoch, 0)[0])
    return batches


def test_images_are_the_same_bytes_from_any_process_and_cache(images):
    before = torch.get_rng_state()
    first, *others = (
        two_epochs(fetch_dataloader("train", images, make_params(images, cache=cache, num_workers=n), training=True))
        for cache, n in (("none", 0), ("none", 2), ("memory", 0), ("disk", 0))
    )
    assert torch.equal(torch.get_rng_state(), before)  # loading leaves the global generator alone
    assert len(first) == 12 and not torch.equal(first[0][0], first[6][0])
    for other in others:
        for one, two in zip(first, other, strict=True):
            for a, b in zip(one, two, strict=True):
                assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)


def images_of(images, epoch, indices=range(21), **values):
    """Return images of train as they are in an epoch; 0: in no epoch of training."""
    dataset = fetch_dataset("train", images, make_params(images, **values))
    if epoch:
        dataset.set_epoch(epoch)
    return dataset.__getitems__(list(indices))[0]


def test_augmentation_depends_on_seed_epoch_and_example_alone(images):
    whole = images_of(images, 1)
    assert torch.equal(images_of(images, 1, [17, 4]), whole[[17, 4]])
    for second in (images_of(images, 2), images_of(images, 1, seed=231)):
        assert not any(torch.equal(image, before) for image, before in zip(second, whole, strict=True))


@pytest.mark.parametrize("size", [8, 13])
def test_flip_and_shift_are_those_of_numpy(images, size):
    values = {"jitter": 0.0, "image_size": size, "shift": 3, "normalize": "none"}
    plain, moved = ((images_of(images, n, **values) * 255).round().permute(0, 2, 3, 1).numpy() for n in (0, 1))
    draws = epoch_draws(Params().seed, 1, 21, 5).numpy()
    for image, draw, result in zip(plain, draws, moved, strict=True):
        expected = image[:, ::-1] if draw[0] < 0.5 else image
        y, x = (draw[1:3] * np.float32(7)).astype(int)
        expected = np.pad(expected, ((3, 3), (3, 3), (0, 0)), mode="edge")[y : y + size, x : x + size]
        assert np.array_equal(result, expected)


def test_jitter_keeps_within_its_strength(images):
    values = {"shift": 0, "horizontal_flip": False, "normalize": "none"}
    plain, jittered = (images_of(images, 1, jitter=strength, **values) for strength in (0.0, 0.2))
    assert jittered.min() >= 0 and jittered.max() <= 1 and plain.max() <= 1
    ratio = jittered.mean(dim=(1, 2, 3)) / plain.mean(dim=(1, 2, 3))
    assert 0.78 < ratio.min() < 0.95 and 1.05 < ratio.max() < 1.22


def test_only_training_is_augmented(images):
    params, raw = make_params(images), make_params(images, shift=0, jitter=0.0, horizontal_flip=False)
    for split in ("train", "val"):
        pairs = zip(fetch_dataloader(split, images, params), fetch_dataloader(split, images, raw), strict=True)
        assert all(torch.equal(one, other) for (one, _), (other, _) in pairs)
    trained, evaluated = (
        torch.cat([x for x, _ in batches_from(fetch_dataloader("train", images, each, training=True), 1, 0)[0]])
        for each in (params, raw)
    )
    assert not torch.equal(trained, evaluated)
