"""Batches of images: the same bytes from any process; augmentation depends on seed, epoch and example alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from fiveline.device import epoch_draws
from fiveline.loader import batches_from, fetch_dataloader
from fiveline.tasks import fetch_facts
from model.vision.data_loader import fetch_dataset
from model.vision.params import Params


@pytest.fixture
def images(tmp_path):
    """A folder of small images: 21 to train on, 5 to validate with."""
    generator = np.random.default_rng(0)
    for split, number in (("train", 21), ("val", 5)):
        for i in range(number):
            path = tmp_path / split / "abc"[i % 3] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path


def make_params(data_dir, **values):
    settings = {"image_size": 8, "batch_size": 4, "shift": 2, "jitter": 0.3, "horizontal_flip": True, **values}
    return fetch_facts(data_dir, Params(**settings))


def two_epochs(dataloader):
    batches = []
    for epoch in (1, 2):
        batches += list(batches_from(dataloader, epoch, 0)[0])
    return batches


def test_workers_give_the_same_bytes(images):
    first, *others = (
        two_epochs(fetch_dataloader("train", images, make_params(images, cache=cache, num_workers=n), training=True))
        for cache, n in (("none", 0), ("none", 2), ("memory", 0), ("disk", 0), ("disk", 2), ("auto", 2))
    )
    assert len(first) == 12
    for other in others:
        for one, two in zip(first, other, strict=True):
            for a, b in zip(one, two, strict=True):
                assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    assert not torch.equal(first[0][0], first[6][0])


def test_workers_resume_in_the_middle_of_an_epoch(images):
    params = make_params(images, cache="none", num_workers=2)
    whole = two_epochs(fetch_dataloader("train", images, params, training=True))
    dataloader = fetch_dataloader("train", images, params, training=True)
    rest = list(batches_from(dataloader, 2, 3)[0])
    assert len(rest) == 3
    for (a, b), (c, d) in zip(rest, whole[9:], strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)


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


def test_augmentation_mirrors_and_moves(images):
    plain = augmented(images, shift=0, jitter=0.0, horizontal_flip=False)
    flipped = augmented(images, shift=0, jitter=0.0)
    is_flipped = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, plain, strict=True)]
    is_same = [torch.equal(a, b) for a, b in zip(flipped, plain, strict=True)]
    assert all(a != b for a, b in zip(is_flipped, is_same, strict=True)) and 4 < sum(is_flipped) < 17
    seen = set()
    for image, moved in zip(plain, augmented(images, jitter=0.0, horizontal_flip=False), strict=True):
        padded = torch.nn.functional.pad(image[None], (2, 2, 2, 2), mode="replicate")[0]
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[:, y : y + 8, x : x + 8], moved)]
        assert places
        seen.add(places[0])
    assert len(seen) > 8


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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_leaves_the_global_generator_alone(images, num_workers):
    params = make_params(images, cache="none", num_workers=num_workers)
    before = torch.get_rng_state()
    for _ in batches_from(fetch_dataloader("train", images, params, training=True), 1, 0)[0]:
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_dataloader_carries_the_names_of_the_examples(images):
    loader = fetch_dataloader("val", images, make_params(images))
    assert loader.dataset.ids == ["a/0.png", "a/3.png", "b/1.png", "b/4.png", "c/2.png"]
    assert torch.cat([labels for _, labels in loader]).tolist() == [0, 0, 1, 1, 2]
