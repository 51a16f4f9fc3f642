"""95% confidence intervals of metrics and of differences between runs, from each example's contribution.

The values decide the method for a metric:

- hits among examples (accuracy, top-5 accuracy): the exact binomial interval with mid-p
- counts (entity F1, accuracy of tokens) and macro averages: linearised per example, on the logit scale, with t
  quantiles; for a class with no error or no hit, the exact bound for its number of examples is added
- other means (loss, RMSE, R2): linearised per example, corrected for skewness, with t quantiles

Sources: Hall, On the Removal of Skewness by Transformation (1992); Lancaster (1961), mid-p; Zou and Donner (2008),
intervals of sums from intervals of their parts. For differences: Fisher, The Design of Experiments (1935); Yeh, More
accurate tests for the statistical significance of result differences (2000).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from fiveline.report.shares import Shares, divided, mean_ratios

TAIL = 0.025
# A small test set rarely contains the largest errors, so most intervals that miss the truth lie below it. Without a
# smaller tail on this side, the RMSE of 50 examples with t5 errors has 92% coverage.
LONG_TAIL = 0.02
NUM_SWAPS, SEED = 2000, 230
MOST_P = 0.05  # if p is larger, the interval of a difference contains 0
MOST_SWAPPED = 2000  # with more examples, neighbours are swapped together, which saves time and memory
Interval = tuple[float, float]


@np.errstate(all="ignore")  # values may be near the largest float
def interval(shares: Shares) -> Interval | None:
    """Return the interval of a metric; None if there are too few examples, or if they are all the same."""
    shares = shares.of(np.flatnonzero(shares.occurs.any(axis=1)))  # an example without a label says nothing
    numerators, denominators = shares.numerators, shares.denominators
    if not len(numerators) or not np.isfinite([numerators, denominators]).all():
        return None
    are_whole = all((part == np.round(part)).all() for part in (numerators, denominators))
    num_classes = numerators.shape[1]
    ends: Interval | None
    if not is_between_0_and_1(shares) or (num_classes == 1 and not are_whole):
        ends = _of_mean(shares)
    elif num_classes == 1 and (denominators == 1).all():
        ends = proportion(int(numerators.sum()), len(numerators))
    else:
        ends = _of_counts(shares)
    if ends is None:
        return None
    low, high = sorted(float(shares.finish(end)) for end in ends)
    return low, high


def is_between_0_and_1(shares: Shares) -> bool:
    """Return whether each numerator is a part of its denominator."""
    return bool(((shares.numerators >= 0) & (shares.numerators <= shares.denominators)).all())


def proportion(hits: int, number: int) -> Interval:
    """Return the exact interval, with mid-p, of the rate of an event that happened `hits` of `number` times."""
    errors = number - hits
    if hits < errors:
        low, high = proportion(errors, number)
        return 1 - high, 1 - low
    low = 0.0 if hits == 0 else 1 - _rate(errors, number, TAIL)
    return low, 1.0 if errors == 0 else 1 - _rate(errors, number, 1 - TAIL)


def _rate(count: int, number: int, probability: float) -> float:
    """Return the rate r at which P(X < count) + P(X = count) / 2 is `probability`, where X is binomial(number, r)."""
    k = np.arange(count + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((number - k[:-1]) / k[1:]))])  # log (number choose k)
    low, high = 0.0, 1.0
    for _ in range(50):
        rate = (low + high) / 2
        probabilities = np.exp(logs + k * math.log(rate) + (number - k) * math.log1p(-rate))
        low, high = (rate, high) if probabilities.sum() - probabilities[-1] / 2 > probability else (low, rate)
    return high


@functools.lru_cache(maxsize=8)
def t_quantile(degrees: int, tail: float = TAIL) -> float:
    """Return a quantile of Student's t: sqrt(degrees) tan(x), where x has the density cos(x)**(degrees - 1)."""
    x = np.linspace(0, min(math.pi / 2, 50 / math.sqrt(degrees)), 50_001)[:-1]
    integral = np.cumsum(np.cos(x + x[1] / 2) ** (degrees - 1))  # by the midpoint rule
    return math.sqrt(degrees) * math.tan(np.interp((1 - 2 * tail) * integral[-1], integral, x + x[1]))


def bounds(shares: Shares, is_hidden: np.ndarray) -> float:
    """Return how far the macro mean may be off because of hidden classes: their examples are all right or all wrong.

    An event that none of n examples shows has a probability of at most 1 - (2 TAIL) ** (1 / n), as in `proportion`.
    """
    occurs = shares.occurs.any(axis=0)
    number = np.maximum((shares.denominators != 0).sum(axis=0), 1)
    of_class = (1 - (2 * TAIL) ** (1 / number)) / max(1, occurs.sum())
    return float(np.sqrt(np.square(of_class[is_hidden & occurs]).sum()))


def _influences(shares: Shares) -> np.ndarray:
    """Return how far each example moves the mean ratio, as in the jackknife, (num_examples,)."""
    occurs, denominators = shares.occurs.any(axis=0), shares.denominators
    residuals = shares.numerators - np.nan_to_num(shares.class_ratios()) * denominators
    influences = divided(residuals, denominators.sum(axis=0) - denominators)[:, occurs].sum(axis=1) / occurs.sum()
    return influences * math.sqrt(1 - 1 / len(influences))  # the squares add up to the squared standard error


def _of_counts(shares: Shares) -> Interval:
    """Return the interval of a mean ratio on the logit scale, whose ends are between 0 and 1."""
    value, number = shares.mean_ratio(), len(shares.numerators)
    half_width = t_quantile(number - 1) * float(np.linalg.norm(_influences(shares))) if number > 1 else 0.0
    low, high = value, value
    if 0 < value < 1:
        factor = math.exp(min(half_width / (value * (1 - value)), 700.0))
        odds = value / (1 - value)
        low, high = odds / (odds + factor), odds * factor / (odds * factor + 1)
    hits, total = shares.numerators.sum(axis=0), shares.denominators.sum(axis=0)
    below, above = bounds(shares, (hits == total) & (total > 0)), bounds(shares, hits == 0)
    return max(0.0, value - math.hypot(value - low, below)), min(1.0, value + math.hypot(high - value, above))


def _of_mean(shares: Shares) -> Interval | None:
    """Return the interval of a mean ratio by Hall's cubic transformation, which removes skewness from t."""
    value, influences = shares.mean_ratio(), _influences(shares)
    error, number = float(np.linalg.norm(influences)), len(influences)
    if number < 2 or not math.isfinite(value) or not 1e-9 * abs(value) < error < math.inf:
        return None
    skewness = float((influences**3).sum()) / error**3
    tails = (TAIL, LONG_TAIL) if skewness > 0 else (LONG_TAIL, TAIL)
    quantiles = np.array([t_quantile(number - 1, tails[0]), -t_quantile(number - 1, tails[1])])
    if abs(skewness) > 1e-6:
        quantiles = 3 / skewness * (np.cbrt(1 + skewness * (quantiles - skewness / 6)) - 1)
    low, high = (value - error * quantiles).tolist()
    low = max(low, 0.0) if (shares.numerators >= 0).all() else low
    return low, min(high, 1.0) if (shares.numerators <= shares.denominators).all() else high


def compare_paired(first: Shares, second: Shares) -> tuple[Interval | None, float | None]:
    """Return the interval of second - first, and p: if both are equally good, the results of examples may be swapped.

    p is the share of NUM_SWAPS random swaps with a difference at least as large, counted with the observed one, so
    that it is never 0. The interval is the difference, plus and minus the bound that 95% of the swaps stay below: 0 is
    outside exactly where p is 0.05 or less. For examples that are right or wrong, this is McNemar's exact test.
    """
    observed = second.value() - first.value()
    if not math.isfinite(observed):
        return None, None
    swapped = np.sort(np.abs(_swapped_differences(first, second)))  # NaN last: as the largest
    p = (NUM_SWAPS - np.searchsorted(swapped, abs(observed) * (1 - 1e-9)) + 1) / (NUM_SWAPS + 1)
    half_width = float(swapped[NUM_SWAPS - math.floor(MOST_P * (NUM_SWAPS + 1))])
    if half_width == 0 and is_between_0_and_1(first):  # they agree on all examples, but perhaps not always
        half_width = bounds(first, np.ones(first.numerators.shape[1], dtype=bool))
    ends = (observed - half_width, observed + half_width) if math.isfinite(half_width) else None
    return ends, float(p)


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
    signs = np.random.default_rng(SEED).integers(2, size=(NUM_SWAPS, len(differ))) * 2.0 - 1
    moved = [signs @ gap for gap in gaps]
    ones, others = (mean_ratios(*(half + sign * part for half, part in zip(halves, moved, strict=True)))
                    for sign in (1, -1))  # fmt: skip
    return np.array([second.finish(b) - first.finish(a) for a, b in zip(ones, others, strict=True)], dtype=float)
