"""95% confidence intervals of metrics, from each example's contribution. The values decide the method:

- hits among examples (accuracy, top-5 accuracy): the exact binomial interval with mid-p
- counts (entity F1, accuracy of tokens) and macro averages: linearised per example, on the logit scale, with t
  quantiles; for a class with no error or no hit, the exact bound for its number of examples is added
- other means (loss, RMSE, R2): the bootstrap-t on the log scale

Intervals that only resample (the percentile bootstrap) cannot see errors that are absent from the sample.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 12, the bootstrap-t; Lancaster (1961),
mid-p; Zou and Donner (2008), intervals of sums from intervals of their parts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from fiveline.report.shares import Shares, divided

TAIL = 0.025
NUM_RESAMPLES, SEED = 1000, 230
# A small test set rarely contains the largest errors, so most intervals that miss the truth lie below it. Halving the
# upper tail raises the upper end. Without this, the RMSE of 50 examples with t5 errors has 91% coverage.
UPPER_TAIL = TAIL / 2
MOST_T = 1.5  # limit, in t quantiles: if a sample has one large error, resamples without it give extreme values
FEWEST_RESAMPLED, MOST_RESAMPLED = 10, 20_000  # examples; resampling fewer says little, resampling more takes minutes

# functions whose values are more nearly normal than a ratio's, their inverse and their derivative
SCALES: dict[str, tuple[Callable[..., np.ndarray], ...]] = {
    "logit": (lambda r: np.log(r / (1 - r)), lambda x: 1 / (1 + np.exp(-x)), lambda r: 1 / (r * (1 - r))),
    "log": (np.log, np.exp, lambda r: 1 / r),
    "plain": (np.array, np.array, np.ones_like),
}
Interval = tuple[float, float]


def interval(shares: Shares) -> Interval | None:
    """Return the interval of a metric; None where the examples are too few, or all alike, so that they say nothing."""
    shares = shares.of(np.flatnonzero(shares.occurs.any(axis=1)))  # an example without a label says nothing
    numerators, denominators = shares.numerators, shares.denominators
    if not len(numerators) or not np.isfinite(numerators).all() or not np.isfinite(denominators).all():
        return None
    is_bounded = is_between_0_and_1(shares)
    are_counts = is_bounded and all((part == np.round(part)).all() for part in (numerators, denominators))
    if are_counts and numerators.shape[1] == 1 and (denominators == 1).all():
        ends: Interval | None = proportion(int(numerators.sum()), len(numerators))
    elif are_counts or numerators.shape[1] > 1:
        ends = _linearised(shares, is_bounded)
    else:
        ends = _bootstrap_t(numerators[:, 0], denominators[:, 0], is_bounded)
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


def _rate(most: int, number: int, share: float) -> float:
    """Return the rate r at which P(X < most) + P(X = most) / 2 is `share`, where X is binomial(number, r)."""
    reach = math.ceil(20 * math.sqrt(number))  # farther away, probabilities are 0
    k = np.arange(max(0, most - reach), most + 1)
    first = math.lgamma(number + 1) - math.lgamma(k[0] + 1) - math.lgamma(number - k[0] + 1)
    logs = first + np.concatenate([[0.0], np.cumsum(np.log((number - k[:-1]) / (k[:-1] + 1)))])  # log (number choose k)
    low, high = max(0.0, (most - reach / 2) / number), min(1.0, (most + reach / 2) / number)
    for _ in range(50):
        rate = (low + high) / 2
        probabilities = np.exp(logs + k * math.log(rate) + (number - k) * math.log1p(-rate))
        low, high = (rate, high) if probabilities.sum() - probabilities[-1] / 2 > share else (low, rate)
    return high


@functools.lru_cache(maxsize=8)
def t_quantile(degrees: int) -> float:
    """Return the 97.5% quantile of Student's t: sqrt(degrees) tan(x), where x has the density cos(x)**(degrees - 1)."""
    x = np.linspace(0, min(math.pi / 2, 50 / math.sqrt(degrees)), 50_001)[:-1]
    shares = np.cumsum(np.cos(x + x[1] / 2) ** (degrees - 1))  # the integral, by the midpoint rule
    return math.sqrt(degrees) * math.tan(np.interp((1 - 2 * TAIL) * shares[-1], shares, x + x[1]))


def bounds(shares: Shares, is_hidden: np.ndarray) -> float:
    """Return how far the macro mean may be off because of hidden classes: their examples are all right or all wrong.

    An event that none of n examples shows has a probability of at most 1 - (2 TAIL) ** (1 / n), as in `proportion`.
    """
    is_there = shares.occurs.any(axis=0)
    number = np.maximum((shares.denominators != 0).sum(axis=0), 1)
    each = (1 - (2 * TAIL) ** (1 / number)) / max(1, is_there.sum())
    return float(np.sqrt(np.square(each[is_hidden & is_there]).sum()))


def _standard_error(shares: Shares) -> float:
    """Return the standard error of the mean ratio, from how far each example moves it, to the first order."""
    total, is_there = shares.denominators.sum(axis=0), shares.occurs.any(axis=0)
    residuals = shares.numerators - np.nan_to_num(shares.class_ratios()) * shares.denominators
    moves = divided(residuals, np.broadcast_to(total, residuals.shape))
    each, number = moves[:, is_there].sum(axis=1) / is_there.sum(), len(moves)
    return math.sqrt(np.square(each).sum() * number / (number - 1))


def _linearised(shares: Shares, is_bounded: bool) -> Interval | None:
    value, num_examples = shares.mean_ratio(), len(shares.numerators)
    if not math.isfinite(value) or (num_examples < 2 and not is_bounded):
        return None
    reach = t_quantile(num_examples - 1) * _standard_error(shares) if num_examples > 1 else 0.0
    if not is_bounded:
        return (value - reach, value + reach) if reach else None
    low, high = value, value
    if 0 < value < 1:
        factor = math.exp(min(reach / (value * (1 - value)), 700.0))
        odds = value / (1 - value)
        low, high = odds / (odds + factor), odds * factor / (odds * factor + 1)
    hits, total = shares.numerators.sum(axis=0), shares.denominators.sum(axis=0)
    below, above = bounds(shares, (hits == total) & (total > 0)), bounds(shares, hits == 0)
    return max(0.0, value - math.hypot(value - low, below)), min(1.0, value + math.hypot(high - value, above))


def _bootstrap_t(numerators: np.ndarray, denominators: np.ndarray, is_bounded: bool) -> Interval | None:
    """Return the bootstrap-t interval of a ratio of sums, on the logit or the log scale where there is one."""
    if (numerators < 0).any() and (numerators <= denominators).all():  # such as R2, which is 1 - a positive ratio
        ends = _bootstrap_t(denominators - numerators, denominators, False)
        return None if ends is None else (1 - ends[1], 1 - ends[0])
    kind = "logit" if is_bounded else "log" if (numerators >= 0).all() else "plain"
    scale, back, slope = SCALES[kind]
    number = len(numerators)
    products = np.stack([numerators, denominators, numerators**2, numerators * denominators, denominators**2], axis=1)

    def scaled(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        top, bottom, top2, both, bottom2 = sums.T
        ratio = top / bottom
        variance = (top2 - 2 * ratio * both + ratio**2 * bottom2) * number / max(1, number - 1)
        return scale(ratio), np.sqrt(np.maximum(variance, 0)) / bottom * slope(ratio)

    with np.errstate(all="ignore"):
        (value,), (error,) = scaled(products.sum(axis=0, keepdims=True))
        if number < 2 or not math.isfinite(value) or not 1e-9 * abs(value) < error < math.inf:
            return None
        low = high = t_quantile(number - 1)
        if FEWEST_RESAMPLED <= number <= MOST_RESAMPLED:
            counts = _counts(number)
            values, errors = scaled(np.concatenate([counts[i : i + 50] @ products for i in range(0, len(counts), 50)]))
            quotients = (values - value) / errors
            quotients = quotients[np.isfinite(quotients)]
            if len(quotients) > NUM_RESAMPLES / 2:
                low, high = np.minimum(np.quantile(quotients, [1 - TAIL, UPPER_TAIL]) * (1, -1), MOST_T * low)
    return float(back(value - low * error)), float(back(value + high * error))


@functools.lru_cache(maxsize=1)  # all metrics resample the same examples
def _counts(number: int) -> np.ndarray:
    """Return how often each example is in each resample, (NUM_RESAMPLES, number)."""
    generator = np.random.default_rng(SEED)
    draws = (np.bincount(generator.integers(number, size=number), minlength=number) for _ in range(NUM_RESAMPLES))
    return np.stack([counts.astype(np.float32) for counts in draws])
