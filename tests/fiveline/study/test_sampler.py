"""Proposals and pruning hold under every release of Optuna."""

import inspect

import optuna
import pytest

from fiveline.study import sampler
from fiveline.study.sampler import Pruner, Result, propose
from fiveline.study.settings import Settings
from fiveline.study.space import Dimension, Space

RATE, DROPOUT = Dimension("learning_rate", None, 1e-4, 1.0, True), Dimension("dropout_rate", None, 0.0, 0.9)
SPACE = Space((RATE, DROPOUT, Dimension("batch_size", None, 8, 64, True, True)))
# Printed by Optuna 4.9.0 and, to the last digit, by 5.0.0.
GOLDEN = {
    "random": [[0.000290677, 0.274132, 17], [0.0232825, 0.402657, 47]],
    "tpe": [[0.0138968, 0.38135, 11], [0.0150471, 0.406494, 12]],
}
GOLDEN_PRUNED = {  # by Optuna's own loop too: the epoch after which each trial was pruned, or 0
    "median": [0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 1, 0, 1, 3, 1, 1],
    "asha": [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 3, 1, 1, 1, 1],
    "hyperband": [0, 0, 0, 0, 0, 1, 1, 3, 3, 0, 1, 3, 9, 0, 1, 3],
}
REMOVED_IN_6 = {
    "consider_prior", "prior_weight", "consider_magic_clip", "consider_endpoints", "gamma", "weights",
    "warn_independent_sampling", "constraints_func", "categorical_distance_func", "x0", "sigma0", "restart_strategy",
    "inc_popsize",
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_each_sampler_proposes_the_same_under_every_release(name):
    results = []  # that no sampler has proposed: the same under any release
    for i in range(12):
        rate, dropout = 10 ** (-4 + 4 * (i * 7 % 12) / 12), i * 5 % 12 / 14
        chosen = {"learning_rate": rate, "dropout_rate": dropout, "batch_size": 8 + 4 * i}
        results.append(Result(i, chosen, "finished", (rate**0.2 - 0.4) ** 2 + (dropout - 0.3) ** 2))
    results[4] = Result(4, results[4].chosen, "pruned", history={1: 0.5, 2: 0.4})
    results[7] = Result(7, results[7].chosen, "running")
    settings = Settings(sampler=name, num_trials=30)
    proposals = [propose(settings, SPACE, number, 0, results, maximize=False) for number in (12, 13)]
    assert [list(proposal.values()) for proposal in proposals] == GOLDEN[name]
    assert all(type(proposal["batch_size"]) is int for proposal in proposals)


@pytest.mark.parametrize("name", ["TPE", "GP"])
def test_no_setting_of_a_sampler_is_left_to_a_default(name):
    """A release with one more setting, or another default, must not change a study without a word."""
    settings = inspect.signature(getattr(optuna.samplers, f"{name}Sampler").__init__).parameters
    assert set(settings) - {"self", "seed", *getattr(sampler, name)} <= REMOVED_IN_6


@pytest.mark.slow
def test_gaussian_process_proposes_near_the_best():
    space = Space((Dimension("learning_rate", None, 0.0, 1.0),))
    settings = Settings(sampler="gp", num_trials=30)
    results = [Result(i, {"learning_rate": i / 12}, "finished", (i / 12 - 0.3) ** 2) for i in range(12)]
    proposals = [propose(settings, space, number, 0, results, maximize=False) for number in (12, 12)]
    assert proposals[0] == proposals[1] and abs(proposals[0]["learning_rate"] - 0.3) < 0.1


@pytest.mark.parametrize("name", GOLDEN_PRUNED)
def test_pruning_decides_as_optuna_does_under_every_release_and_after_a_restart(name):
    """Sixteen trials of nine epochs, one after the other."""
    curves = [{epoch: (i * 7 % 16) / 16 * epoch / 9 for epoch in range(1, 10)} for i in range(16)]
    expected = GOLDEN_PRUNED[name]

    def decide(ours, i, last=9):
        epoch = ours.report(f"{i}", {epoch: value for epoch, value in curves[i].items() if epoch <= last})
        ours.end(f"{i}", curves[i][9] if epoch is None else None)
        return epoch or 0

    ours, restarted = (Pruner(Settings(pruner=name, min_epochs=1), 9, maximize=True) for _ in range(2))
    assert [decide(ours, i) for i in range(16)] == expected
    for i in range(8):  # what a new process finds in the directories
        decide(restarted, i, expected[i] or 9)
    assert [decide(restarted, i) for i in range(8, 16)] == expected[8:]
