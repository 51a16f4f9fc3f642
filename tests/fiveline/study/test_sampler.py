"""Proposals and pruning hold under every release of Optuna."""

import inspect

import optuna
import pytest

from fiveline.study import sampler
from fiveline.study.cost import delete_checkpoints
from fiveline.study.pruner import Pruner
from fiveline.study.sampler import Result, propose
from fiveline.study.settings import Settings
from fiveline.study.space import Dimension, Space
from tests.support.studies import finish_trial, make_plan

SPACE = Space(
    (
        Dimension("learning_rate", None, 1e-4, 1.0, True),
        Dimension("dropout_rate", None, 0.0, 0.9),
        Dimension("batch_size", None, 8, 64, True, True),
    )
)


def known_results(number=12):
    """Return results that no sampler has proposed: the same under any release."""
    chosen = [
        {"learning_rate": 10 ** (-4 + 4 * (i * 7 % 12) / 12), "dropout_rate": i * 5 % 12 / 14, "batch_size": 8 + 4 * i}
        for i in range(number)
    ]
    values = [(each["learning_rate"] ** 0.2 - 0.4) ** 2 + (each["dropout_rate"] - 0.3) ** 2 for each in chosen]
    results = [Result(i, chosen[i], "finished", values[i]) for i in range(number)]
    results[4] = Result(4, chosen[4], "pruned", history={1: 0.5, 2: 0.4})
    results[7] = Result(7, chosen[7], "running")
    return results


# Printed by Optuna 4.9.0 and, to the last digit, by 5.0.0.
GOLDEN = {
    "random": [[0.000290677, 0.274132, 17], [0.0232825, 0.402657, 47]],
    "tpe": [[0.0138968, 0.38135, 11], [0.0150471, 0.406494, 12]],
}
GOLDEN_PRUNED = {  # the epoch after which each trial was pruned, or 0
    "median": [0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 1, 0, 1, 3, 1, 1],
    "asha": [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 3, 1, 1, 1, 1],
    "hyperband": [0, 0, 0, 0, 0, 1, 1, 3, 3, 0, 1, 3, 9, 0, 1, 3],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_each_sampler_proposes_the_same_under_every_release(name):
    settings = Settings(sampler=name, num_trials=30)
    results = known_results()
    proposals = [propose(settings, SPACE, number, 0, results, maximize=False) for number in (12, 13)]
    assert [list(proposal.values()) for proposal in proposals] == GOLDEN[name]


REMOVED_IN_6 = {
    "consider_prior", "prior_weight", "consider_magic_clip", "consider_endpoints", "gamma", "weights",
    "warn_independent_sampling", "constraints_func", "categorical_distance_func", "x0", "sigma0", "restart_strategy",
    "inc_popsize",
}  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "ours"),
    [
        (optuna.samplers.TPESampler, sampler.TPE),
        (optuna.samplers.GPSampler, sampler.GP),
        (optuna.samplers.RandomSampler, {}),
    ],
)
def test_no_setting_of_a_sampler_is_left_to_a_default(cls, ours):
    """A release with one more setting, or another default, must not change a study without a word."""
    known = {"self", "seed", *ours}
    assert set(inspect.signature(cls.__init__).parameters) - known <= REMOVED_IN_6


@pytest.mark.parametrize("name", GOLDEN_PRUNED)
def test_each_pruner_decides_the_same_under_every_release(name):
    pruner = Pruner(Settings(pruner=name, min_epochs=1), 9, maximize=True)
    decided = []
    for i in range(16):
        decided.append(pruner.report(f"{i}", {epoch: (i * 7 % 16) / 16 * epoch / 9 for epoch in range(1, 10)}) or 0)
        pruner.end(f"{i}", None if decided[-1] else (i * 7 % 16) / 16)
    assert decided == GOLDEN_PRUNED[name]


def test_the_trial_that_keeps_its_checkpoints_is_the_one_with_the_lower_loss(tmp_path):
    words = ("learning_rate=1e-4,1e-3,1e-2",)
    plan = make_plan(tmp_path, *words, seeds=[1, 2])
    trials = [plan.next() for _ in range(6)]
    for trial, loss in zip(trials, (0.3, 0.5, 0.1, 0.3, 0.2, 0.4), strict=True):
        finish_trial(trial, 1.0, best_loss=loss)
        (trial.path / "best.pth.tar").write_bytes(bytes(100))
    delete_checkpoints(plan, 0.0)
    assert [trial.name for trial in trials if (trial.path / "best.pth.tar").exists()] == [trials[2].name]
