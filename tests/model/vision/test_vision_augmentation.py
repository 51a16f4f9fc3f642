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


def augmented(images, epoch=1, split="train", **values):
    """Return all images of a split as they are in an epoch."""
    dataset = fetch_dataset(split, images, make_params(images, **values))
    dataset.set_epoch(epoch)
    return dataset.__getitems__(list(range(len(dataset))))[0]


def test_augmentation_depends_on_seed_epoch_and_example_alone(images):
    dataset = fetch_dataset("train", images, make_params(images))
    dataset.set_epoch(1)
    whole, _ = dataset.__getitems__(list(range(21)))
    assert torch.equal(dataset.__getitems__([17, 4])[0], whole[[17, 4]])
    assert torch.equal(dataset[4][0], whole[4])
    dataset.set_epoch(2)
    second, _ = dataset.__getitems__(list(range(21)))
    assert not any(torch.equal(image, before) for image, before in zip(second, whole, strict=True))
    dataset.set_epoch(1)
    assert torch.equal(dataset.__getitems__(list(range(21)))[0], whole)
    assert not torch.equal(augmented(images, seed=231), whole)


@pytest.mark.parametrize("size", [8, 13])
def test_flip_and_shift_are_those_of_numpy(images, size):
    params = make_params(images, jitter=0.0, image_size=size, shift=3, normalize="none")
    dataset = fetch_dataset("train", images, params)
    plain = (dataset.__getitems__(list(range(21)))[0] * 255).round().permute(0, 2, 3, 1).numpy()
    dataset.set_epoch(1)
    moved = dataset.__getitems__(list(range(21)))[0]
    draws = epoch_draws(params.seed, 1, 21, 5).numpy()
    for image, draw, result in zip(plain, draws, moved, strict=True):
        expected = image[:, ::-1] if draw[0] < 0.5 else image
        y, x = (draw[1:3] * np.float32(7)).astype(int)
        expected = np.pad(expected, ((3, 3), (3, 3), (0, 0)), mode="edge")[y : y + size, x : x + size]
        assert np.array_equal((result * 255).round().permute(1, 2, 0).numpy(), expected)


def test_jitter_keeps_within_its_strength(images):
    plain, jittered = (
        augmented(images, shift=0, horizontal_flip=False, normalize="none", jitter=strength) for strength in (0.0, 0.2)
    )
    assert jittered.min() >= 0 and jittered.max() <= 1 and plain.max() <= 1
    ratio = jittered.mean(dim=(1, 2, 3)) / plain.mean(dim=(1, 2, 3))
    assert 0.78 < ratio.min() < 0.95 and 1.05 < ratio.max() < 1.22


def test_only_training_is_augmented(images):
    params = make_params(images)
    raw = make_params(images, shift=0, jitter=0.0, horizontal_flip=False)
    for split in ("train", "val"):
        batches = fetch_dataloader(split, images, params)
        expected = fetch_dataloader(split, images, raw)
        evaluated, expected = (torch.cat([x for x, _ in loader]) for loader in (batches, expected))
        assert torch.equal(evaluated, expected)
    batches, _ = batches_from(fetch_dataloader("train", images, params, training=True), 1, 0)
    trained = torch.cat([x for x, _ in batches])
    plain = torch.cat([x for x, _ in fetch_dataloader("train", images, raw)])
    assert not torch.equal(trained.sort(0).values, plain.sort(0).values)
