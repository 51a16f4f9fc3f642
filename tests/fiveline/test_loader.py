"""Batches: which examples, in which order, from which process; and augmentation that depends on none of these."""

import sys
import types

import numpy as np
import pytest
import torch

import utils
from fiveline.loader import WINDOW_BATCHES, EpochBatches, batches_from, fetch_dataloader
from utils import InputError


def epoch_of(batches, epoch, step=0):
    batches.set_position(epoch, step)
    return list(batches)


def flat(batches):
    return [index for indices in batches for index in indices]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 32])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_every_example_comes_once_an_epoch_in_batches_that_differ_by_one(batch_size, with_lengths):
    for num_examples in [*range(1, 70), 129, 1000]:
        lengths = [i % 13 for i in range(num_examples)] if with_lengths else None
        batches = EpochBatches(num_examples, batch_size, seed=1, lengths=lengths)
        for epoch in (1, 2):
            chosen = epoch_of(batches, epoch)
            assert sorted(flat(chosen)) == list(range(num_examples))
            sizes = [len(indices) for indices in chosen]
            assert max(sizes) - min(sizes) <= 1 and max(sizes) <= max(batch_size, 3)
            assert min(sizes) >= min(2, batch_size, num_examples)  # batch norm needs two
            assert len(sizes) == len(batches) <= max(1, -(-num_examples // batch_size))


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_share_each_batch_evenly(world_size):
    for num_examples in (23, 64, 101):
        whole = epoch_of(EpochBatches(num_examples, 8, seed=1), 3)
        shards = [epoch_of(EpochBatches(num_examples, 8, seed=1, shard=(r, world_size)), 3) for r in range(world_size)]
        for batch, *parts in zip(whole, *shards, strict=True):
            assert [index for part in parts for index in part] == batch
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


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


@pytest.mark.parametrize("lengths", [None, [i * 7 % 31 for i in range(101)]])
def test_position_enters_an_epoch_anywhere(lengths):
    whole = epoch_of(EpochBatches(101, 4, seed=3, lengths=lengths), 5)
    for step in (0, 1, 13, len(whole) - 1, len(whole)):
        fresh = EpochBatches(101, 4, seed=3, lengths=lengths)
        assert epoch_of(fresh, 5, step) == whole[step:]
        assert len(fresh) == len(whole)


def test_batches_hold_examples_of_similar_length_in_an_order_of_every_epoch():
    num_examples, batch_size = 2 * 8 * WINDOW_BATCHES + 3, 8
    lengths = np.random.default_rng(0).integers(1, 1000, size=num_examples).tolist()
    batches = EpochBatches(num_examples, batch_size, seed=1, lengths=lengths)

    def spreads(epoch):
        return [np.ptp([lengths[i] for i in indices]) for indices in epoch_of(batches, epoch)]

    assert np.mean(spreads(1)) < 50  # of about 780 where examples are mixed
    first, second = epoch_of(batches, 1), epoch_of(batches, 2)
    assert {frozenset(indices) for indices in first} != {frozenset(indices) for indices in second}
    means = [np.mean([lengths[i] for i in indices]) for indices in first]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3  # long ones are not kept for the end


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


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Return a function that fetches the dataloader of a dataset, as the one of a task `numbers`."""

    def fetch(dataset, split="val", num_workers=0, training=False, shard=(0, 1), **names):
        module = types.SimpleNamespace(fetch_dataset=lambda split, data_dir, params: dataset, **names)
        monkeypatch.setitem(sys.modules, "model.numbers.data_loader", module)
        params = utils.Params(task="numbers", batch_size=4, num_workers=num_workers)
        return fetch_dataloader(split, tmp_path, params, training=training, shard=shard)

    return fetch


@pytest.mark.parametrize("kind", [Numbers, NumbersAsList, NumbersAsBatch])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_datasets_with_and_without_getitems_give_the_same_batches(load, kind, num_workers):
    batches = list(load(kind(10), num_workers=num_workers))  # in the order of the split
    assert [labels.tolist() for _, labels in batches] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    assert all(torch.equal(inputs[:, 0], labels.float()) for inputs, labels in batches)


def test_a_tasks_collate_fn_makes_the_batch(load):
    assert list(load(NumbersAsList(3), collate_fn=lambda examples: ("collated", len(examples)))) == [("collated", 3)]


def test_random_numbers_of_a_task_do_not_depend_on_the_number_of_workers(load):
    runs = []
    for num_workers in (1, 2):
        loader = load(Numbers(23), num_workers=num_workers, training=True)
        runs.append(torch.cat([inputs for epoch in (1, 2) for inputs, _ in batches_from(loader, epoch)[0]]))
    assert torch.equal(runs[0], runs[1])
    noise = runs[0][:, 1]
    assert len(noise.unique()) == len(noise)  # neither the workers nor the epochs draw the same


def test_a_loader_of_a_notebook_starts_its_epoch_again(caplog):
    loader = torch.utils.data.DataLoader(Numbers(10), batch_size=4)
    batches, step = batches_from(loader, 2, 1)
    assert step == 0 and len(list(batches)) == 3 and "cannot start within an epoch" in caplog.text


class Broken(Numbers):
    ids = [f"image_{i}.png" for i in range(10)]

    def __getitem__(self, index):
        if index == 7:
            raise KeyError("no such key")
        return super().__getitem__(index)


class Wrong(Numbers):
    def __getitem__(self, index):
        raise InputError("row 3: expected a number")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_example_that_cannot_be_loaded_is_named(load, num_workers):
    with pytest.raises(RuntimeError, match=r"example 7 \(image_7.png\) could not be loaded: KeyError"):
        list(load(Broken(10), num_workers=num_workers))
    with pytest.raises(InputError, match="^row 3: expected a number$"):
        list(load(Wrong(10), num_workers=num_workers))


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Numbers(0), "the val split is empty"),
        (Numbers(9), "val: a batch of 3 examples cannot be shared by 4 processes; expected"),
        (torch.utils.data.ChainDataset([]), "data_loader.py: val's dataset, ChainDataset, .* map-style"),
        (torch.utils.data.Dataset(), "data_loader.py: val's dataset, Dataset, .* map-style"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_refused(load, dataset, words):
    with pytest.raises(InputError, match=words):
        load(dataset, shard=(0, 4))


def test_epochs_of_a_number_of_steps_go_through_the_passes_without_a_gap():
    """Three epochs of five batches are the first fifteen batches of the passes, also from within an epoch."""
    passes = [batch for number in (1, 2, 3, 4) for batch in epoch_of(EpochBatches(31, 8, seed=1), number)]
    batches = EpochBatches(31, 8, seed=1, steps=5)
    assert len(batches) == 5
    assert [batch for epoch in (1, 2, 3) for batch in epoch_of(batches, epoch)] == passes[:15]
    batches.set_position(3, 2)
    assert list(batches) == passes[12:15]
