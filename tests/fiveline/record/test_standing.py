"""Which result is better: by value, then by loss."""

import pytest

import utils

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("better", "worse", "is_high_better"),
    [
        ((0.9, 0.5), (0.8, 0.1), True),
        ((0.8, 0.5), (0.9, 0.1), False),  # rmse, for example
        ((0.9, 0.1), (0.9, 0.2), True),
        ((0.9, 0.1), (0.9, 0.2), False),
        ((0.9, 5.0), (0.9, NAN), True),
        ((0.9, 5.0), (0.9, None), True),
        ((1, -3.0), (1.0, -2.0), True),
    ],
)
def test_results_are_compared_by_value_then_by_loss(better, worse, is_high_better):
    assert utils.standing(*better, is_high_better) > utils.standing(*worse, is_high_better)


@pytest.mark.parametrize("value", [NAN, INF, -INF, None, "0.95", True, 10**400])
def test_what_is_not_a_finite_number_is_never_the_best(value):
    assert utils.standing(value, 0.1, True) is None and utils.standing(value, 0.1, False) is None
