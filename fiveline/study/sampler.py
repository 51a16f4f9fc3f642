"""Optuna's samplers, which propose trials, and its pruners, which stop hopeless ones, fed from the directories."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import utils
from fiveline.study.settings import Settings
from fiveline.study.space import Dimension, Space

if TYPE_CHECKING:
    import optuna

MOST_ATTEMPTS = 100  # to propose a new configuration
# Every setting is explicit, except for the ones that release 6 removes: Optuna's defaults change between releases.
TPE: dict[str, Any] = {
    "n_startup_trials": 10, "n_ei_candidates": 24, "multivariate": False, "group": False, "constant_liar": True,
}  # fmt: skip
GP: dict[str, Any] = {"independent_sampler": None, "n_startup_trials": 10, "deterministic_objective": False}
DIGITS = 6  # a proposed number's: enough for any hyperparameter, and the directory's name stays readable
STATES = {"finished": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING"}


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a configuration: of one run, or of one run per seed."""

    number: int  # the proposal's
    chosen: dict[str, Any]  # the values proposed
    state: str  # finished, pruned (also diverged ones), failed, or running (also waiting ones)
    value: float | None = None  # the best value of the monitored metric, the mean over seeds; None unless finished
    history: dict[int, float] = dataclasses.field(default_factory=dict)  # epoch -> monitored metric, where pruned


def propose(
    settings: Settings, space: Space, number: int, attempt: int, results: Sequence[Result], maximize: bool
) -> dict[str, Any]:
    """Return the values of a proposal, which depend on nothing but the arguments.

    `number` counts proposals from 0, `attempt` the earlier ones of this number, whose values were known already.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    digest = hashlib.sha256(f"{settings.sampler_seed} {number} {attempt}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")  # NumPy's old generators draw similar numbers for similar seeds
    direction: Literal["maximize", "minimize"] = "maximize" if maximize else "minimize"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls some samplers experimental
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
        learns = attempt < MOST_ATTEMPTS // 2  # a model may propose the same values again and again; chance does not
        if learns and settings.sampler == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed, **TPE)
        elif learns and settings.sampler == "gp":
            sampler = optuna.samplers.GPSampler(seed=seed, **GP)
        study = optuna.create_study(direction=direction, sampler=sampler)
        study.add_trials([_to_optuna(result, space) for result in results])
        trial, chosen = study.ask(), dict[str, Any]()
        for dimension in space.in_order:  # the values chosen first decide which others vary
            if dimension.is_active(chosen):
                chosen[dimension.name] = _suggest(trial, dimension)
        return space.as_written(chosen)


def _suggest(trial: optuna.Trial, dimension: Dimension) -> Any:
    if dimension.values is not None:
        return json.loads(trial.suggest_categorical(dimension.key, _texts(dimension)))
    if dimension.is_int:
        return trial.suggest_int(dimension.key, int(dimension.low), int(dimension.high), log=dimension.log)
    value = trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.log)
    return min(max(float(f"{value:.{DIGITS}g}"), dimension.low), dimension.high)


def _texts(dimension: Dimension) -> list[str]:
    """Return the values of a list as JSON: Optuna takes plain values only, and does not tell 1 from True."""
    return [utils.to_json(value, indent=None) for value in dimension.values or ()]


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if dimension.values is not None:
        return distributions.CategoricalDistribution(_texts(dimension))
    if dimension.is_int:
        return distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _to_optuna(result: Result, space: Space) -> optuna.trial.FrozenTrial:
    import optuna

    varied = [each for each in space.dimensions if each.name in result.chosen and each.is_active(result.chosen)]
    values = {each.key: result.chosen[each.name] for each in varied}
    texts = {each.key: utils.to_json(values[each.key], indent=None) for each in varied if each.values is not None}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[STATES[result.state]],
        value=result.value,
        params=values | texts,
        distributions={each.key: _distribution(each) for each in varied},
        intermediate_values=result.history,
    )


class Pruner:
    """Compares the trials of a study, which have at most `num_epochs`, epoch by epoch."""

    def __init__(self, settings: Settings, num_epochs: int, maximize: bool) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        first, pruners = settings.min_epochs, optuna.pruners
        pruner: optuna.pruners.BasePruner
        if settings.pruner == "median":
            pruner = pruners.MedianPruner(4, first, interval_steps=1, n_min_trials=1)
        elif settings.pruner == "asha":
            pruner = pruners.SuccessiveHalvingPruner(first, 3, min_early_stopping_rate=0, bootstrap_count=0)
        else:
            pruner = pruners.HyperbandPruner(first, max(num_epochs, first), reduction_factor=3, bootstrap_count=0)
        self._study = optuna.create_study(
            study_name="study",  # Hyperband's brackets depend on it
            direction="maximize" if maximize else "minimize",
            sampler=optuna.samplers.RandomSampler(seed=0),
            pruner=pruner,
        )
        self.worst = -math.inf if maximize else math.inf
        self._trials: dict[str, optuna.Trial] = {}
        self._reported: dict[str, int] = {}  # name -> last epoch
        self._hopeless: dict[str, int] = {}  # name -> the epoch after which it was hopeless

    def report(self, name: str, history: Mapping[int, float]) -> int | None:
        """Take note of a trial's metric by epoch; return the epoch after which it is hopeless, or None."""
        trial = self._trials.get(name) or self._trials.setdefault(name, self._study.ask())
        for epoch, value in sorted(history.items()):
            if epoch > self._reported.get(name, 0) and name not in self._hopeless:
                trial.report(value if math.isfinite(value) else self.worst, epoch)
                self._reported[name] = epoch
                if trial.should_prune():
                    self._hopeless[name] = epoch
        return self._hopeless.get(name)

    def end(self, name: str, value: float | None) -> None:
        """Take note of a trial's end, with its best value, or None if it has not finished."""
        from optuna.trial import TrialState

        trial = self._trials.pop(name, None)
        if trial is not None and value is not None and math.isfinite(value):
            self._study.tell(trial, value)
        elif trial is not None:
            self._study.tell(trial, state=TrialState.PRUNED if self._reported.get(name) else TrialState.FAIL)
