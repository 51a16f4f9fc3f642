"""Batches: which examples, in which order, from which process; and augmentation that depends on none of these."""

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

import model
from fiveline.batches import BUCKET_BATCHES, EpochBatches
from fiveline.device import example_draws, to_device
from fiveline.jobs import processes
from fiveline.loader import fetch_dataloader, fetch_facts
from model.vision.data_loader import fetch_dataset
from model.vision.params import Params
from utils import InputError
from utils import Params as BaseParams


def epoch_of(batches, epoch, step=0):
    batches.set_position(epoch, step)
    return list(batches)


def flat(batches):
    return [index for _, indices in batches for index in indices]


# ---- the order -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 7, 32])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_every_example_comes_exactly_once_an_epoch(batch_size, with_lengths):
    for num_examples in [*range(1, 70), 129, 1000]:
        lengths = [i % 13 for i in range(num_examples)] if with_lengths else None
        batches = EpochBatches(num_examples, batch_size, seed=1, lengths=lengths)
        for epoch in (1, 2):
            chosen = epoch_of(batches, epoch)
            assert sorted(flat(chosen)) == list(range(num_examples))
            assert len(chosen) == len(batches) and {number for number, _ in chosen} == {epoch}


@pytest.mark.parametrize("with_lengths", [False, True])
def test_no_batch_of_one_is_left_over(with_lengths):
    for num_examples in range(2, 70):
        for batch_size in range(2, 12):
            lengths = [i % 5 for i in range(num_examples)] if with_lengths else None
            sizes = [len(indices) for _, indices in EpochBatches(num_examples, batch_size, seed=1, lengths=lengths)]
            assert min(sizes) >= 2 and max(sizes) <= batch_size + 1
            assert sorted(sizes)[1:-1] == [batch_size] * (len(sizes) - 2)


def test_order_depends_on_seed_and_epoch_alone():
    orders = {}
    for seed in (0, 1, 2, 2**32 - 1):
        for epoch in (1, 2, 3):
            orders[seed, epoch] = flat(epoch_of(EpochBatches(100, 8, seed=seed), epoch))
    assert len({tuple(order) for order in orders.values()}) == len(orders)
    torch.manual_seed(77)
    torch.rand(5)
    again = EpochBatches(100, 32, seed=2)  # another batch size, another state of the machine, another epoch before
    epoch_of(again, 1)
    assert flat(epoch_of(again, 3)) == orders[2, 3]


def test_order_is_close_to_uniform():
    firsts = np.bincount([flat(epoch_of(EpochBatches(10, 3, seed=5), epoch))[0] for epoch in range(1, 2001)])
    assert ((firsts - 200) ** 2 / 200).sum() < 27.9  # chi-squared with 9 degrees of freedom: one in a thousand


@pytest.mark.parametrize("lengths", [None, [i * 7 % 31 for i in range(101)]])
def test_position_enters_an_epoch_anywhere(lengths):
    whole = epoch_of(EpochBatches(101, 4, seed=3, lengths=lengths), 5)
    for step in (0, 1, 13, len(whole) - 1, len(whole)):
        fresh = EpochBatches(101, 4, seed=3, lengths=lengths)
        assert epoch_of(fresh, 5, step) == whole[step:]
        assert len(fresh) == len(whole)


def test_order_without_a_seed_is_that_of_the_split():
    batches = EpochBatches(10, 4, seed=None, lengths=[3] * 10)
    assert epoch_of(batches, 9) == [(9, [0, 1, 2, 3]), (9, [4, 5, 6, 7]), (9, [8, 9])]


def test_batches_hold_examples_of_similar_length_in_an_order_of_every_epoch():
    num_examples, batch_size = 2 * 8 * BUCKET_BATCHES + 3, 8
    lengths = np.random.default_rng(0).integers(1, 1000, size=num_examples).tolist()
    batches = EpochBatches(num_examples, batch_size, seed=1, lengths=lengths)

    def spreads(epoch):
        return [np.ptp([lengths[i] for i in indices]) for _, indices in epoch_of(batches, epoch)]

    assert np.mean(spreads(1)) < 50  # of about 780 where examples are mixed
    first, second = epoch_of(batches, 1), epoch_of(batches, 2)
    assert {frozenset(indices) for _, indices in first} != {frozenset(indices) for _, indices in second}
    means = [np.mean([lengths[i] for i in indices]) for _, indices in first]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3  # long ones are not kept for the end


# ---- the loader ----------------------------------------------------------------------------------------------------


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
        dataloader.batch_sampler.set_position(epoch)
        batches += list(dataloader)
    return batches


def test_workers_give_the_same_bytes(images):
    first, *others = (
        two_epochs(fetch_dataloader(["train"], images, make_params(images, cache=cache, num_workers=n))["train"])
        for cache, n in (("none", 0), ("none", 2), ("memory", 0), ("disk", 0), ("disk", 2), ("auto", 2))
    )
    assert len(first) == 10
    for other in others:
        for one, two in zip(first, other, strict=True):
            for a, b in zip(one, two, strict=True):
                assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    assert not torch.equal(first[0][0], first[5][0])


@pytest.mark.parametrize("normalize", ["none", "train"])
def test_batches_that_the_device_finishes_are_the_same(images, normalize):
    params = make_params(images, normalize=normalize)
    elsewhere = torch.device("mps")  # not on this machine, perhaps; nothing is sent there
    for split in ("train", "val"):
        raw = fetch_dataloader([split], images, params, elsewhere)[split]
        assert raw.device == elsewhere and raw.dataset.is_raw
        raw.device = torch.device("cpu")
        finished = fetch_dataloader([split], images, params, torch.device("cpu"))[split]
        assert finished.device is None
        for (a, b), (c, d) in zip(two_epochs(raw), two_epochs(finished), strict=True):
            assert a.stride() == c.stride() and torch.equal(a, c) and torch.equal(b, d)


@pytest.mark.parametrize("kind", ["ready", "for a device", "from workers"])
def test_a_stand_in_stays_one_on_its_way(images, monkeypatch, kind):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")  # of the last two examples it has none
    params = make_params(images, batch_size=3, cache="none", num_workers=2 if kind == "from workers" else 0)
    elsewhere = torch.device("mps" if kind == "for a device" else "cpu")
    dataloader = fetch_dataloader(["val"], images, params, elsewhere)["val"]
    if kind == "for a device":
        dataloader.device = torch.device("cpu")
    first, last = dataloader
    assert not isinstance(first, processes.StandIn) and isinstance(last, processes.StandIn)
    assert isinstance(to_device(last, torch.device("cpu")), processes.StandIn)
    assert [inputs.shape for inputs, _ in (first, last)] == [(1, 3, 8, 8)] * 2


def test_what_travels_to_a_gpu_is_bytes(images):
    raw = fetch_dataloader(["train"], images, make_params(images), torch.device("mps"))["train"].dataset
    (pixels, draws), labels = raw.__getitems__((1, [3, 4, 5]))
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 8, 8, 3)
    assert labels.shape == (3,) and draws.shape == (3, 5)


def test_workers_resume_in_the_middle_of_an_epoch(images):
    params = make_params(images, cache="none", num_workers=2)
    whole = two_epochs(fetch_dataloader(["train"], images, params)["train"])
    dataloader = fetch_dataloader(["train"], images, params)["train"]
    dataloader.batch_sampler.set_position(2, step=3)
    rest = list(dataloader)
    assert len(rest) == 2
    for (a, b), (c, d) in zip(rest, whole[8:], strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)


def test_augmentation_depends_on_seed_epoch_and_example_alone(images):
    params = make_params(images)
    dataset = fetch_dataset("train", images, params)
    whole, _ = dataset.__getitems__(range(21))
    assert torch.equal(dataset.__getitems__([17, 4])[0], whole[[17, 4]])
    assert torch.equal(dataset[4][0], whole[4])
    dataset.set_epoch(2)
    second, _ = dataset.__getitems__(range(21))
    assert not any(torch.equal(image, before) for image, before in zip(second, whole, strict=True))
    dataset.set_epoch(1)
    assert torch.equal(dataset.__getitems__(range(21))[0], whole)
    other = fetch_dataset("train", images, make_params(images, seed=231))
    assert not torch.equal(other.__getitems__(range(21))[0], whole)


def test_augmentation_mirrors_and_moves(images):
    plain_params = make_params(images, shift=0, jitter=0.0, horizontal_flip=False)
    plain, _ = fetch_dataset("train", images, plain_params).__getitems__(range(21))
    flipped, _ = fetch_dataset("train", images, make_params(images, shift=0, jitter=0.0)).__getitems__(range(21))
    is_flipped = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, plain, strict=True)]
    is_same = [torch.equal(a, b) for a, b in zip(flipped, plain, strict=True)]
    assert all(a != b for a, b in zip(is_flipped, is_same, strict=True)) and 4 < sum(is_flipped) < 17
    params = make_params(images, jitter=0.0, horizontal_flip=False)
    seen = set()
    for image, moved in zip(plain, fetch_dataset("train", images, params).__getitems__(range(21))[0], strict=True):
        padded = torch.nn.functional.pad(image[None], (2, 2, 2, 2), mode="replicate")[0]
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[:, y : y + 8, x : x + 8], moved)]
        assert places
        seen.add(places[0])
    assert len(seen) > 8


@pytest.mark.parametrize("size", [8, 13])
def test_flip_and_shift_are_those_of_numpy(images, size):
    params = make_params(images, jitter=0.0, image_size=size, shift=3)
    plain = fetch_dataset("val", images, params)
    plain, augmented = plain.fetch_raw(range(5))[0][0].numpy(), plain
    augmented.augment = True
    moved = augmented.__getitems__(range(5))[0]
    draws = example_draws(params.seed, 1, range(5), 5).numpy()
    for image, draw, result in zip(plain, draws, moved, strict=True):
        expected = image[:, ::-1] if draw[0] < 0.5 else image
        y, x = (draw[1:3] * np.float32(7)).astype(int)
        expected = np.pad(expected, ((3, 3), (3, 3), (0, 0)), mode="edge")[y : y + size, x : x + size]
        assert np.array_equal((result * 255).round().permute(1, 2, 0).numpy(), expected)


def test_jitter_keeps_within_its_strength(images):
    params = make_params(images, shift=0, horizontal_flip=False, jitter=0.2)
    plain, _ = fetch_dataset("val", images, params).__getitems__(range(5))
    dataset = fetch_dataset("train", images, params)
    jittered, _ = dataset.__getitems__(range(21))
    assert jittered.min() >= 0 and jittered.max() <= 1 and plain.max() <= 1
    dataset.augment = False
    ratio = jittered.mean(dim=(1, 2, 3)) / dataset.__getitems__(range(21))[0].mean(dim=(1, 2, 3))
    assert 0.78 < ratio.min() < 0.95 and 1.05 < ratio.max() < 1.22


def test_only_training_is_augmented(images):
    params = make_params(images)
    raw = make_params(images, shift=0, jitter=0.0, horizontal_flip=False)
    for split in ("train", "val"):
        (batches,) = fetch_dataloader([split], images, params, training=False).values()
        (expected,) = fetch_dataloader([split], images, raw, training=False).values()
        evaluated, expected = (torch.cat([x for x, _ in loader]) for loader in (batches, expected))
        assert torch.equal(evaluated, expected)
    loaders = fetch_dataloader(["train", "val"], images, params)
    val = torch.cat([x for x, _ in loaders["val"]])
    assert torch.equal(val, evaluated)  # in training too, and in order
    assert not torch.equal(torch.cat([x for x, _ in loaders["train"]]).sort(0).values, expected.sort(0).values)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_leaves_the_global_generator_alone(images, num_workers):
    params = make_params(images, cache="none", num_workers=num_workers)
    before = torch.get_rng_state()
    for _ in fetch_dataloader(["train"], images, params)["train"]:
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_dataloader_carries_the_names_of_the_examples(images):
    loader = fetch_dataloader(["val"], images, make_params(images))["val"]
    assert loader.dataset.ids == ["a/0.png", "a/3.png", "b/1.png", "b/4.png", "c/2.png"]
    assert torch.cat([labels for _, labels in loader]).tolist() == [0, 0, 1, 1, 2]


# ---- tasks of other shapes -----------------------------------------------------------------------------------------


class Numbers(torch.utils.data.Dataset):
    """0, 1, 2, ...; with noise from the global generator."""

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return torch.tensor([float(index), torch.rand(()).item()]), torch.tensor(index)


class NumbersAsList(Numbers):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


class NumbersAsBatch(Numbers):
    def __getitems__(self, indices):
        values = torch.tensor(indices, dtype=torch.float32)
        return torch.stack([values, values], dim=1), torch.tensor(indices)


def add_task(monkeypatch, dataset, **names):
    """Put a task in the place where `model/numbers/data_loader.py` would be found."""
    package, module = types.ModuleType("model.numbers"), types.ModuleType("model.numbers.data_loader")
    module.fetch_dataset = lambda split, data_dir, params: dataset
    module.fetch_facts = lambda data_dir, params: {"number": len(dataset)}
    for name, value in names.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "model.numbers", package)
    monkeypatch.setitem(sys.modules, "model.numbers.data_loader", module)
    monkeypatch.setattr(model, "numbers", package, raising=False)
    return BaseParams(task="numbers", batch_size=4)


@pytest.mark.parametrize("kind", [Numbers, NumbersAsList, NumbersAsBatch])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_datasets_with_and_without_getitems_give_the_same_batches(monkeypatch, tmp_path, kind, num_workers):
    params = add_task(monkeypatch, kind(10)).model_copy(update={"num_workers": num_workers})
    batches = list(fetch_dataloader(["test"], tmp_path, params)["test"])
    assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all(torch.equal(inputs[:, 0], labels.float()) for inputs, labels in batches)
    assert fetch_facts(tmp_path, params).facts == {"number": 10}


def test_a_tasks_collate_fn_makes_the_batch(monkeypatch, tmp_path):
    params = add_task(monkeypatch, NumbersAsList(3), collate_fn=lambda examples: ("collated", len(examples)))
    assert list(fetch_dataloader(["val"], tmp_path, params)["val"]) == [("collated", 3)]
    params = add_task(monkeypatch, Numbers(3), collate_fn=lambda examples: ("collated", len(examples)))
    assert list(fetch_dataloader(["val"], tmp_path, params)["val"]) == [("collated", 3)]


def test_random_numbers_of_a_task_do_not_depend_on_the_number_of_workers(monkeypatch, tmp_path):
    params = add_task(monkeypatch, Numbers(23))
    runs = []
    for num_workers in (1, 2):
        loader = fetch_dataloader(["train"], tmp_path, params.model_copy(update={"num_workers": num_workers}))["train"]
        runs.append(torch.cat([inputs for inputs, _ in two_epochs(loader)]))
    assert torch.equal(runs[0], runs[1])
    noise = runs[0][:, 1]
    assert len(noise.unique()) == len(noise)  # neither the workers nor the epochs draw the same


class Noisy(torch.utils.data.TensorDataset):
    """A TensorDataset that fetches its examples in a way of its own."""

    def __getitem__(self, index):
        return self.tensors[0][index] + 0.5, self.tensors[1][index]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 23, 100])
@pytest.mark.parametrize("width", [1, 3, 2**17])  # of which several batches are cut from one window, or from many
def test_batches_cut_from_tensors_are_those_of_the_sampler_from_any_step_on(monkeypatch, tmp_path, batch_size, width):
    rows = torch.arange(23.0)[:, None].expand(23, width)
    params = add_task(monkeypatch, torch.utils.data.TensorDataset(rows, torch.arange(23)))
    loader = fetch_dataloader(["train"], tmp_path, params.model_copy(update={"batch_size": batch_size}))["train"]
    expected = [indices for _, indices in epoch_of(loader.batch_sampler, 3)]
    starts = []
    for step in range(len(expected) + 1):
        loader.batch_sampler.set_position(3, step)
        batches = list(loader)
        assert [labels.tolist() for _, labels in batches] == expected[step:]
        assert all(torch.equal(inputs[:, 0], labels.float()) for inputs, labels in batches)
        # the same place modulo 64 bytes: where sums of a resumed run begin decides about their last bit
        starts.append([inputs.data_ptr() % 64 for inputs, _ in batches])
    assert all(places == starts[0][step:] for step, places in enumerate(starts))


def test_a_tensor_dataset_that_fetches_in_its_own_way_is_asked_for_each_example(monkeypatch, tmp_path):
    tensors = torch.arange(10.0)[:, None], torch.arange(10)
    params = add_task(monkeypatch, Noisy(*tensors)).model_copy(update={"num_workers": 1})
    loader = fetch_dataloader(["train"], tmp_path, params)["train"]
    assert loader.num_workers == 1
    for inputs, labels in loader:
        assert torch.equal(inputs[:, 0], labels + 0.5)
    params = add_task(monkeypatch, torch.utils.data.TensorDataset(*tensors), collate_fn=lambda examples: len(examples))
    assert list(fetch_dataloader(["train"], tmp_path, params)["train"]) == [4, 4, 2]


def test_an_empty_split_is_refused(monkeypatch, tmp_path):
    params = add_task(monkeypatch, Numbers(0))
    with pytest.raises(InputError, match=f"{tmp_path.name}: the val split is empty"):
        fetch_dataloader(["val"], tmp_path, params)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(range(5))


class StreamOfKnownLength(Stream):
    def __len__(self):
        return 5


class WithoutLength(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return torch.tensor([0.0]), torch.tensor(0)


@pytest.mark.parametrize("kind", [Stream, StreamOfKnownLength, WithoutLength])
def test_a_dataset_that_is_not_map_style_is_refused(monkeypatch, tmp_path, kind):
    params = add_task(monkeypatch, kind())
    with pytest.raises(InputError, match=f"numbers/data_loader.py: train's dataset, {kind.__name__}, .* map-style"):
        fetch_dataloader(["train"], tmp_path, params)
