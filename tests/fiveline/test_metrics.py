"""Sums of metrics: what a metric may return, and what is refused."""

import numpy as np
import pytest
import torch

import utils
from fiveline.metrics import MetricSums


def add_batch(sums):
    sums.add(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ((3, 4), 0.75),
        ((True, 2.0), 0.5),
        ((np.float64(3), np.int64(4)), 0.75),
        ((np.array([1.0, 2.0]), np.array([2, 2])), 0.75),
        ((torch.tensor(3.0, dtype=torch.float16), torch.tensor(4, dtype=torch.uint8)), 0.75),
        ((torch.tensor(2**24 + 1), torch.tensor(1.0)), 2**24 + 1),  # float32 would round it
    ],
    ids=str,
)
def test_a_metric_may_return_numbers_of_any_kind(pair, expected):
    sums = MetricSums({"score": lambda outputs, labels: pair})
    for _ in range(300):  # more than an 8-bit or 16-bit sum could hold
        add_batch(sums)
    assert sums.result()["score"] == expected


@pytest.mark.parametrize("pairs", [((1, 1), ([1, 1], [1, 1])), ((1, [1, 1]), ([1, 1], 1))], ids=str)
def test_sums_that_change_their_shape_are_refused(pairs):
    pairs = iter([tuple(map(torch.tensor, pair)) for pair in pairs])
    sums = MetricSums({"other": lambda outputs, labels: (1, 1), "score": lambda outputs, labels: next(pairs)})
    add_batch(sums)
    with pytest.raises(utils.InputError, match=r"'score' returned .* the same in each batch \(the first had "):
        add_batch(sums)
