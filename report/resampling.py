"""Is a difference real? Bootstrap intervals and paired tests, on what each example contributed to a metric."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

NUM_RESAMPLES, SEED = 1000, 230  # as in evaluate.py, so that the intervals are the ones that it prints


@dataclasses.dataclass(frozen=True)
class Shares:
    """What each example contributed to a metric, which is the mean of ratios of sums.

    Args:
        numerators: (num_examples, num_classes or 1)
        denominators: the same
        finish: what is done after the division: the root of a root-mean-square error
    """

    numerators: np.ndarray
    denominators: np.ndarray
    finish: Callable[[float], float] = float

    def value(self, counts: np.ndarray | None = None) -> float:
        """Return the metric, or what it would be if each example had been there `counts` times."""
        weights = np.ones(len(self.numerators)) if counts is None else counts
        numerator, denominator = weights @ self.numerators, weights @ self.denominators  # both (num_classes or 1,)
        quotient = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)
        return self.finish(float(quotient.mean()))

    def of(self, positions: Sequence[int]) -> Shares:
        """Return those of some examples."""
        return Shares(self.numerators[positions], self.denominators[positions], self.finish)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of two runs on the same examples.

    Args:
        first: its value
        first_interval: its 95% interval
        second: the same of the other run
        second_interval: the same of the other run
        interval: of second - first
        p: how often a difference at least as large would come about if there were none
    """

    first: float
    first_interval: tuple[float, float]
    second: float
    second_interval: tuple[float, float]
    interval: tuple[float, float]
    p: float


def compare_by_bootstrap(first: Shares, second: Shares) -> Difference:
    """Return intervals over resamples of the examples, the same ones for both, and a two-sided p of the difference.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), the percentile interval; p is twice the
    share of resamples on the rarer side of no difference, counted with one more on each side, so that it is never 0.
    """
    generator, num_examples = np.random.default_rng(SEED), len(first.numerators)
    values = np.empty((NUM_RESAMPLES, 2))
    for i in range(NUM_RESAMPLES):
        counts = np.bincount(generator.integers(num_examples, size=num_examples), minlength=num_examples)
        values[i] = first.value(counts.astype(float)), second.value(counts.astype(float))
    differences = values[:, 1] - values[:, 0]
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return Difference(
        first.value(),
        _interval(values[:, 0]),
        second.value(),
        _interval(values[:, 1]),
        _interval(differences),
        min(1.0, 2 * (rarer + 1) / (NUM_RESAMPLES + 1)),
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def mcnemar(is_first_right: Sequence[float], is_second_right: Sequence[float]) -> float:
    """Return the p of McNemar's exact test: do the two err on different numbers of the same examples?

    Args:
        is_first_right: 1 or 0 for each example
        is_second_right: the same

    Source: McNemar (1947); exact, as a two-sided sign test on the examples that one of them has right.
    """
    pairs = list(zip(is_first_right, is_second_right, strict=True))
    only_first, only_second = pairs.count((1, 0)), pairs.count((0, 1))
    n = only_first + only_second
    logs = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(min(only_first, only_second) + 1)
    )
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))
