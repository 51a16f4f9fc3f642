"""Is a difference between two runs real? Paired tests and intervals, on what each example contributed to a metric.

Both look at differences per example: an example that is hard for both runs says nothing about which is better.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from fiveline.report.intervals import Interval, bounds, is_between_0_and_1, is_proportion
from fiveline.report.shares import Shares, mean_ratios

NUM_SWAPS, SEED = 2000, 230
MOST_P = 0.05  # at which 0 is outside the interval
MOST_SIGNS = 2**22  # in memory at once
MOST_SWAPPED = 10_000  # of more examples, neighbours are swapped together, which takes seconds instead of minutes
NORMAL_QUANTILE = 1.959964  # 97.5%


@dataclasses.dataclass(frozen=True)
class Difference:
    """What is known of the difference of a metric between two runs, second - first, on the same examples.

    Args:
        interval: its 95% interval, None where there is none
        p: how often a difference at least as large would come about if the two were equally good
        test: the name of the test
    """

    interval: Interval | None
    p: float | None
    test: str


def compare_paired(first: Shares, second: Shares) -> Difference:
    """Return the test and the interval of the difference in a metric between two runs."""
    if is_proportion(first) and is_proportion(second):
        pair = first.numerators[:, 0], second.numerators[:, 0]
        return Difference(difference_of_hits(*pair), mcnemar(*pair), "McNemar")
    return compare_by_swaps(first, second)


def mcnemar(is_first_right: Sequence[float] | np.ndarray, is_second_right: Sequence[float] | np.ndarray) -> float:
    """Return the p of McNemar's exact test with mid-p: do the two err on different numbers of the same examples?

    Args:
        is_first_right: 1 or 0 for each example
        is_second_right: the same

    Source: McNemar (1947); Fagerland, Lydersen and Laake, The McNemar test for binary matched-pairs data (2013): the
    exact test rejects too rarely, with mid-p it holds its level.
    """
    only_first, only_second = _discordant(is_first_right, is_second_right)
    n, fewer = only_first + only_second, min(only_first, only_second)
    probabilities = [
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(probabilities) - probabilities[-1])


def difference_of_hits(
    is_first_right: Sequence[float] | np.ndarray, is_second_right: Sequence[float] | np.ndarray
) -> Interval:
    """Return the interval of the difference in accuracy, second - first, of the same examples.

    Source: Bonett and Price, Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data (2012): one example more that only the first has right, and one more that only the second has right.
    """
    counts, number = _discordant(is_first_right, is_second_right), len(is_first_right) + 2
    only_first, only_second = ((count + 1) / number for count in counts)
    middle = only_second - only_first
    reach = NORMAL_QUANTILE * math.sqrt((only_first + only_second - middle**2) / number)
    return max(-1.0, middle - reach), min(1.0, middle + reach)


def _discordant(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> tuple[int, int]:
    """Count the examples that only the first has right, and those that only the second has right."""
    is_first, is_second = np.asarray(first) == 1, np.asarray(second) == 1
    return int((is_first & ~is_second).sum()), int((is_second & ~is_first).sum())


def compare_by_swaps(first: Shares, second: Shares) -> Difference:
    """Return the test by swapping: if both are equally good, the two results of each example may be swapped.

    p is the share of NUM_SWAPS random swaps that give a difference at least as large, counted with the one that is
    there, so that it is never 0. The interval is the difference, plus and minus what 95% of the swaps stay below: 0 is
    outside exactly where p is 0.05 or less.

    Source: Fisher, The Design of Experiments (1935); for such metrics Yeh, More accurate tests for the statistical
    significance of result differences (2000).
    """
    observed = second.value() - first.value()
    if not math.isfinite(observed):
        return Difference(None, None, "swaps")
    swapped = np.sort(np.abs(_swapped_differences(first, second)))  # NaN last: as the largest
    p = (NUM_SWAPS - np.searchsorted(swapped, abs(observed) * (1 - 1e-9)) + 1) / (NUM_SWAPS + 1)
    reach = swapped[NUM_SWAPS - math.floor(MOST_P * (NUM_SWAPS + 1))]
    if reach == 0 and is_between_0_and_1(first):  # they agree on all examples; that they always do is not certain
        reach = bounds(first, np.ones(first.numerators.shape[1], dtype=bool))
    ends = (observed - float(reach), observed + float(reach)) if math.isfinite(reach) else None
    return Difference(ends, float(p), "swaps")


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
        ones = mean_ratios(*(half + gap for half, gap in zip(halves, moved, strict=True)))
        others = mean_ratios(*(half - gap for half, gap in zip(halves, moved, strict=True)))
        differences += [float(second.finish(b) - first.finish(a)) for a, b in zip(ones, others, strict=True)]
    return np.array(differences)
