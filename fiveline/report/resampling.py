"""Is a difference between two runs real? A paired test and an interval, from what each example contributed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fiveline.report.intervals import Interval, bounds, is_between_0_and_1
from fiveline.report.shares import Shares, mean_ratios

NUM_SWAPS, SEED = 2000, 230
MOST_P = 0.05  # at which 0 is outside the interval
MOST_SIGNS = 2**22  # in memory at once
MOST_SWAPPED = 10_000  # of more examples, neighbours are swapped together, which takes seconds instead of minutes


class Difference(NamedTuple):
    """The difference of a metric between two runs on the same examples, second - first."""

    interval: Interval | None  # 95%
    p: float | None  # probability of a difference at least as large if the two were equally good


def compare_paired(first: Shares, second: Shares) -> Difference:
    """Return the test by swapping: if both are equally good, the two results of each example may be swapped.

    p is the share of NUM_SWAPS random swaps with a difference at least as large, counted with the observed one, so
    that it is never 0. The interval is the difference, plus and minus the bound that 95% of the swaps stay below: 0 is
    outside exactly where p is 0.05 or less. For examples that are right or wrong, this is McNemar's exact test.

    Source: Fisher, The Design of Experiments (1935); for such metrics Yeh, More accurate tests for the statistical
    significance of result differences (2000).
    """
    observed = second.value() - first.value()
    if not math.isfinite(observed):
        return Difference(None, None)
    swapped = np.sort(np.abs(_swapped_differences(first, second)))  # NaN last: as the largest
    p = (NUM_SWAPS - np.searchsorted(swapped, abs(observed) * (1 - 1e-9)) + 1) / (NUM_SWAPS + 1)
    reach = float(swapped[NUM_SWAPS - math.floor(MOST_P * (NUM_SWAPS + 1))])
    if reach == 0 and is_between_0_and_1(first):  # they agree on all examples; that they always do is not certain
        reach = bounds(first, np.ones(first.numerators.shape[1], dtype=bool))
    return Difference((observed - reach, observed + reach) if math.isfinite(reach) else None, float(p))


def _swapped_differences(first: Shares, second: Shares) -> np.ndarray:
    """Return second - first for each of NUM_SWAPS random swaps of the two results of examples."""
    pairs = [(first.numerators, second.numerators), (first.denominators, second.denominators),
             (first.occurs.astype(float), second.occurs.astype(float))]  # fmt: skip
    differ = np.flatnonzero(np.any([(a != b).any(axis=1) for a, b in pairs], axis=0))
    halves = [(a.sum(axis=0) + b.sum(axis=0)) / 2 for a, b in pairs]
    gaps = [(a[differ] - b[differ]) / 2 for a, b in pairs]
    if len(differ) > MOST_SWAPPED:
        starts = np.linspace(0, len(differ), MOST_SWAPPED, endpoint=False).astype(int)
        gaps, differ = [np.add.reduceat(gap, starts, axis=0) for gap in gaps], starts
    generator, num_rows = np.random.default_rng(SEED), max(1, MOST_SIGNS // max(1, len(differ)))
    differences: list[float] = []
    for start in range(0, NUM_SWAPS, num_rows):
        shape = (min(num_rows, NUM_SWAPS - start), len(differ))
        signs = generator.integers(2, size=shape, dtype=np.int8) * 2.0 - 1
        moved = [signs @ gap for gap in gaps]
        ones, others = (mean_ratios(*(half + sign * gap for half, gap in zip(halves, moved, strict=True)))
                        for sign in (1, -1))  # fmt: skip
        differences += [float(second.finish(b) - first.finish(a)) for a, b in zip(ones, others, strict=True)]
    return np.array(differences)
