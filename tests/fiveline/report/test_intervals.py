"""95% intervals cover the truth about as often as they say."""

import math

import numpy as np
import pytest
import scipy.stats

from fiveline.report.intervals import interval, proportion, t_quantile
from fiveline.report.shares import finish_name, read_npz, to_npz, with_occurrence
from tests.support.results import shares_of


def of_classes(labels, predicted, num_classes):
    """Return the shares of the macro scores."""
    is_label, is_predicted = np.eye(num_classes)[labels], np.eye(num_classes)[predicted]
    hits = is_label * is_predicted
    parts = {"precision": (hits, is_predicted), "recall": (hits, is_label), "f1": (2 * hits, is_label + is_predicted)}
    return with_occurrence({name: (*pair, float) for name, pair in parts.items()})


@pytest.mark.parametrize("degrees", [1, 3, 49, 10**6])
def test_t_quantile_is_scipys(degrees):
    assert t_quantile(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=1e-6)


@pytest.mark.parametrize(("hits", "number"), [(1, 2), (5, 20), (19, 20), (999_000, 10**6), (50_000, 100_000)])
def test_interval_of_a_proportion_is_where_scipys_binomial_says(hits, number):
    for end, expected in zip(proportion(hits, number), (0.975, 0.025), strict=True):
        fewer, as_many = (function(hits, number, end) for function in (scipy.stats.binom.cdf, scipy.stats.binom.pmf))
        assert fewer - as_many / 2 == pytest.approx(expected, abs=1e-6)


def test_a_perfect_score_is_not_certain():
    labels = np.repeat([0, 1, 2], 20)
    tokens = shares_of(np.full(20, 7), np.full(20, 7))
    for shares in (shares_of(np.ones(20)), tokens, *of_classes(labels, labels, 3).values()):
        low, high = interval(shares)
        assert 0.7 < low < 0.98 and high == 1.0
    assert interval(shares_of(np.ones(20)))[0] == pytest.approx(0.05 ** (1 / 20))  # half of p ** 20 is 0.025
    assert interval(shares_of(np.zeros(20)))[1] == pytest.approx(1 - 0.05 ** (1 / 20))


def test_examples_that_say_nothing_make_and_narrow_no_interval():
    for values in ([0.3], [0.5] * 9, [0.1, math.nan, 0.2], [0.1, math.inf], []):
        assert interval(shares_of(values)) is None
    assert interval(shares_of([0.0] * 5, [0.0] * 5)) is None  # no example has a label
    total = np.random.default_rng(0).integers(1, 9, 30)
    hits = np.random.default_rng(1).binomial(total, 0.8)
    padded = [np.concatenate([part, np.zeros(100)]) for part in (hits, total)]
    assert interval(shares_of(*padded)) == interval(shares_of(hits, total))


def test_shares_survive_in_a_file(tmp_path):
    labels, errors = np.array([0, 1, 2, 2]), [1.0, 4.0, 0.5, 2.0]
    shares = {**of_classes(labels, labels[::-1], 4), "rmse": shares_of(errors, finish=math.sqrt)}
    assert [finish_name(each.finish) for each in shares.values()] == ["", "", "", "sqrt"]
    shares["no name"] = shares_of(errors, finish=lambda value: 1 - value)
    (tmp_path / "shares.npz").write_bytes(to_npz(shares))
    found = read_npz(tmp_path / "shares.npz")
    del shares["no name"]  # no test, rather than a wrong one
    assert {name: each.value() for name, each in found.items()} == {name: each.value() for name, each in shares.items()}
    assert interval(found["f1"]) == interval(shares["f1"])


# ---- simulated test sets --------------------------------------------------------------------------------------------


def sentences(generator, size, rate=0.85):
    """Return the shares of entity F1: of the entities of a sentence all tend to be found, or none."""
    num_true, rates = generator.poisson(1.5, size), generator.beta(6 * rate, 6 * (1 - rate), size)
    hits = generator.binomial(num_true, rates)
    return shares_of(2 * hits, num_true + hits + generator.poisson(1.2 * (1 - rates)))


RATES = np.array([0.49, 0.49, 0.02]), np.array([0.95, 0.95, 0.8])  # how often each class is there, and right
RARER = np.array([0.495, 0.495, 0.01]), np.array([0.95, 0.95, 0.5])


def rare_class(generator, size, rates=RATES):
    """Return the shares of macro scores of three classes, of which one is rare."""
    labels = generator.choice(3, size=size, p=rates[0])
    is_right = generator.random(size) < rates[1][labels]
    return of_classes(labels, np.where(is_right, labels, (labels + generator.integers(1, 3, size)) % 3), 3)


def errors(generator, size, degrees=10**9):
    """Return squared errors, almost normal, or with the heavy tails of Student's t."""
    return shares_of(generator.standard_t(degrees, size) ** 2, finish=np.sqrt)


def r2(generator, size):
    labels, error = generator.normal(size=(2, size))
    return shares_of(labels**2 - (0.5 * error) ** 2, labels**2)


def cross_entropies(generator, size, mean=4, std=2):
    return shares_of(np.log1p(np.exp(-generator.normal(mean, std, size))))


COVERAGE = {  # size, what is drawn, fewest and most percent that are covered: 93 to 97, or why not
    "accuracy, 100": (100, lambda g, n: shares_of(g.random(n) < 0.9), (93, 97)),
    "accuracy 0.99, 100": (100, lambda g, n: shares_of(g.random(n) < 0.99), (95, 99.5)),
    "entity F1, 20": (20, sentences, (93, 97.5)),
    "entity F1 0.97, 20": (20, lambda g, n: sentences(g, n, 0.97), (93, 98)),
    "macro F1, 100": (100, lambda g, n: rare_class(g, n)["f1"], (91, 97)),  # 13% of the sets lack the rare class
    # about four examples of the rare class decide on a third of the mean
    "macro F1, rarer class, 400": (400, lambda g, n: rare_class(g, n, rates=RARER)["f1"], (86, 93)),
    "macro recall, 100": (100, lambda g, n: rare_class(g, n)["recall"], (93, 99)),
    "RMSE, 50": (50, errors, (93, 97.5)),
    "RMSE t5, 50": (50, lambda g, n: errors(g, n, 5), (91.5, 97)),  # the largest errors are rarely in the sample
    "R2, 50": (50, r2, (93, 97.5)),
    "loss, 100": (100, cross_entropies, (93, 97.5)),
    "loss of a sure net, 100": (100, lambda g, n: cross_entropies(g, n, 8, 4.2), (93, 97)),  # a few examples decide
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COVERAGE)
def test_intervals_cover_the_truth(name):
    size, draw, (fewest, most) = COVERAGE[name]
    truth = draw(np.random.default_rng(0), 400_000).value()
    generator, found = np.random.default_rng(1), []
    for _ in range(1000):
        ends = interval(draw(generator, size))
        found.append(ends is not None and ends[0] <= truth <= ends[1])
    print(f"{name}: {100 * np.mean(found):.1f}% of the intervals cover the truth")  # shown by pytest -s
    assert fewest <= 100 * np.mean(found) <= most
