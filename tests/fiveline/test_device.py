"""Device, seeds, and random numbers that belong to an example."""

import random

import numpy as np
import pytest
import torch

from fiveline.device import (
    detach,
    epoch_draws,
    fetch_device,
    generator_states,
    pieces,
    restore_generators,
    seed_everything,
    seed_of,
    to_device,
)
from utils import InputError


def test_epoch_draws_stay_what_they_are_and_leave_the_generators_alone():
    """A run that continues on another machine must draw these."""
    state = torch.get_rng_state()
    expected = [[0.7888658046722412, 0.7754411697387695], [0.2974396347999573, 0.9887538552284241]]
    assert epoch_draws(230, 1, 2, 2).tolist() == expected
    assert seed_of(230, 1) == 11808220471115987461 and torch.equal(torch.get_rng_state(), state)


def test_seed_everything_seeds_all_three_generators():
    def draw(*args):
        seed_everything(*args)
        return random.random(), np.random.rand(), torch.rand(()).item()

    first = draw(230, 1, 0)
    random.random(), np.random.rand(), torch.rand(3)
    assert draw(230, 1, 0) == first
    for other in ((231, 1, 0), (230, 2, 0), (230, 1, 1), (1, 230, 0), (0, 0, 0), (2**32 - 1, 1, 0)):
        assert all(a != b for a, b in zip(draw(*other), first, strict=True)), other


def test_the_generator_of_a_mac_s_gpu_is_among_those_that_are_kept(monkeypatch):
    restored = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "a state")
    monkeypatch.setattr(torch.mps, "set_rng_state", restored.append)
    states = generator_states()
    restore_generators(states)
    restore_generators({name: state for name, state in states.items() if name != "mps"})  # of an older checkpoint
    assert restored == ["a state"]


def test_nested_batches_are_moved_and_detached():
    pair = (torch.arange(3), {"deep": torch.ones(1, 1, requires_grad=True)})
    batch = {"words": torch.ones(2, requires_grad=True), "more": [torch.zeros(1), pair]}
    moved = to_device(batch, torch.device("meta"))
    assert moved["words"].is_meta and moved["more"][0].is_meta and moved["more"][1][1]["deep"].is_meta
    assert isinstance(moved["more"], list) and isinstance(moved["more"][1], tuple)
    assert moved["more"][1][0].shape == (3,) and moved["more"][1][0].dtype == torch.int64
    assert to_device(batch, torch.device("cpu"))["words"] is batch["words"]
    outputs = detach({**batch, "hidden": None, "scale": 2.0})  # outputs may hold more than tensors
    assert not outputs["words"].requires_grad and not outputs["more"][1][1]["deep"].requires_grad
    assert outputs["hidden"] is None and outputs["scale"] == 2.0


@pytest.mark.parametrize(("device", "is_awaited"), [("cpu", True), ("mps", True), ("cuda", False)])
def test_what_a_copy_would_spoil_is_awaited(device, is_awaited):
    class Anywhere:
        def to(self, device, non_blocking):
            return device.type, non_blocking

    assert to_device({"words": Anywhere()}, torch.device(device)) == {"words": (device, not is_awaited)}


@pytest.mark.parametrize(
    ("number", "size", "sizes"),
    [(33, 16, [11, 11, 11]), (5, 2, [2, 3]), (10, 4, [3, 3, 4]), (3, 1, [1, 1, 1]), (1, 4, [1])],
)
def test_pieces_are_balanced_and_lose_no_example(number, size, sizes):
    labels = torch.arange(number)
    found = list(pieces(({"x": labels * 2}, labels), size))
    assert [len(piece) for _, piece in found] == sizes
    assert torch.equal(torch.cat([piece for _, piece in found]), labels)
    assert all(torch.equal(inputs["x"], piece * 2) for inputs, piece in found)


def test_device_is_the_named_one():
    assert fetch_device("cpu") == fetch_device(disable_cuda=True) == torch.device("cpu")
    assert fetch_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("name", "disable_cuda", "local_rank", "message"),
    [
        ("cuda:0", True, None, "--disable_cuda and --device cuda:0 contradict each other"),
        ("cuda:1", False, 0, "--device cuda:1: the processes of a job cannot share it"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(name, disable_cuda, local_rank, message):
    with pytest.raises(InputError, match=message):
        fetch_device(name, disable_cuda, local_rank)
