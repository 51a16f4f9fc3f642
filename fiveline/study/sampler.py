"""Proposals: what the next trial is to try. Optuna's samplers, told what the directories hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import utils
from fiveline.study.result import Result, break_ties
from fiveline.study.settings import Settings
from fiveline.study.space import Dimension, Space

if TYPE_CHECKING:
    import optuna

PROJECT = Path(__file__).resolve().parents[2]
MOST_ATTEMPTS = 100  # at a proposal that is new
# Every setting, because Optuna's defaults change between releases, and a study must go on with the same proposals.
# Missing are those that release 6 removes: releases 4.9 and 5 agree on them. They disagree on multivariate TPE.
TPE: dict[str, Any] = {
    "n_startup_trials": 10, "n_ei_candidates": 24, "multivariate": False, "group": False, "constant_liar": True,
}  # fmt: skip
GP: dict[str, Any] = {"independent_sampler": None, "n_startup_trials": 10, "deterministic_objective": False}
CMAES: dict[str, Any] = {
    "n_startup_trials": 1, "independent_sampler": None, "warn_independent_sampling": False, "popsize": None,
    "consider_pruned_trials": False, "use_separable_cma": False, "with_margin": False, "lr_adapt": False,
    "source_trials": None,
}  # fmt: skip
DIGITS = 6  # of a proposed number: enough for any hyperparameter, and a directory's name stays readable


def propose(
    settings: Settings, space: Space, number: int, attempt: int, results: Sequence[Result], maximize: bool
) -> dict[str, Any]:
    """Return what a proposal tries; the same for the same arguments, in any process.

    Args:
        settings: of the study
        space: to choose from
        number: of the proposal, from 0
        attempt: how often it was proposed before, in vain
        results: what the sampler is to know
        maximize: whether more of the metric is better

    Raises:
        InputError: a package that the sampler needs is not installed
    """
    if settings.sampler == "gp" and "torch" not in sys.modules:
        return _propose_elsewhere(settings, space, number, attempt, results, maximize)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    results = break_ties(results, maximize)
    digest = hashlib.sha256(f"{settings.sampler_seed} {number} {attempt}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")  # of neighbours, NumPy's generators of old draw similar numbers
    direction: Literal["maximize", "minimize"] = "maximize" if maximize else "minimize"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls some samplers experimental
        if settings.sampler == "cmaes":
            return _replay_cmaes(settings, space, number, attempt, results, direction)
        sampler: optuna.samplers.BaseSampler
        if settings.sampler == "tpe" and attempt < MOST_ATTEMPTS // 2:
            sampler = optuna.samplers.TPESampler(seed=seed, **TPE)
        elif settings.sampler == "gp" and attempt < MOST_ATTEMPTS // 2:
            sampler = _needing("scipy", lambda: optuna.samplers.GPSampler(seed=seed, **GP))
        else:  # a model may insist on what is known already: chance does not
            sampler = optuna.samplers.RandomSampler(seed=seed)
        study = optuna.create_study(direction=direction, sampler=sampler)
        for result in results:
            study.add_trial(_as_optunas(result, space))
        return _suggest(study.ask(), space)


def _suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Ask for the hyperparameters one by one: what was chosen before decides which there are."""
    chosen: dict[str, Any] = {}
    for dimension in space.in_order():
        if dimension.is_active(chosen):
            chosen[dimension.name] = _suggest_one(trial, dimension)
    return space.as_written(chosen)


def _suggest_one(trial: optuna.Trial, dimension: Dimension) -> Any:
    if dimension.values is not None:
        return json.loads(trial.suggest_categorical(dimension.name, _texts(dimension)))
    if dimension.is_int:
        return trial.suggest_int(dimension.name, int(dimension.low), int(dimension.high), log=dimension.log)
    value = trial.suggest_float(dimension.name, dimension.low, dimension.high, log=dimension.log)
    return min(max(float(f"{value:.{DIGITS}g}"), dimension.low), dimension.high)


def _texts(dimension: Dimension) -> list[str]:
    """Return the values of a list as JSON: Optuna takes plain values only, and 1 is not True."""
    return [utils.to_json(value, indent=None) for value in dimension.values or ()]


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if dimension.values is not None:
        return distributions.CategoricalDistribution(_texts(dimension))
    if dimension.is_int:
        return distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _as_optunas(result: Result, space: Space) -> optuna.trial.FrozenTrial:
    """Return a result as Optuna's samplers know it."""
    import optuna

    states = {
        "finished": optuna.trial.TrialState.COMPLETE,
        "pruned": optuna.trial.TrialState.PRUNED,
        "failed": optuna.trial.TrialState.FAIL,
        "running": optuna.trial.TrialState.RUNNING,
    }
    dimensions = [dimension for dimension in space.dimensions if dimension.name in result.chosen]
    return optuna.trial.create_trial(
        state=states[result.state],
        value=result.value,
        params={
            each.name: result.chosen[each.name]
            if each.values is None
            else utils.to_json(result.chosen[each.name], indent=None)
            for each in dimensions
        },
        distributions={each.name: _distribution(each) for each in dimensions},
        intermediate_values=result.history,
    )


def _replay_cmaes(
    settings: Settings, space: Space, number: int, attempt: int, results: Sequence[Result], direction: Any
) -> dict[str, Any]:
    """Let CMA-ES, whose state is no function of the results alone, go through all of its proposals again."""
    import optuna

    sampler = _needing("cmaes", lambda: optuna.samplers.CmaEsSampler(seed=settings.sampler_seed, **CMAES))
    study = optuna.create_study(direction=direction, sampler=sampler)
    by_number = {result.number: result for result in results}
    for i in range(number):
        trial, result = study.ask(), by_number.get(i)
        if result is not None and _suggest(trial, space) == result.chosen and result.value is not None:
            study.tell(trial, result.value)
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    for _ in range(attempt):
        trial = study.ask()
        _suggest(trial, space)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return _suggest(study.ask(), space)


def _needing(package: str, make: Any) -> Any:
    """Make a sampler that imports an optional package."""
    try:
        return make()
    except ImportError as error:
        raise utils.InputError(f"this sampler needs {package} ({error}); pip install {package}") from None


def _propose_elsewhere(
    settings: Settings, space: Space, number: int, attempt: int, results: Sequence[Result], maximize: bool
) -> dict[str, Any]:
    """Ask in a process of its own: Optuna's Gaussian process computes with torch, which the study does not load."""
    question = {
        "settings": settings.model_dump(mode="json"),
        "space": [dataclasses.asdict(dimension) for dimension in space.dimensions],
        "number": number,
        "attempt": attempt,
        "results": [dataclasses.asdict(result) for result in results],
        "maximize": maximize,
    }
    answer = subprocess.run(
        [sys.executable, "-m", "fiveline.study.sampler"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])},
    )
    if answer.returncode:
        raise utils.InputError(answer.stderr.strip().rpartition("\n")[2].removeprefix("error: "))
    proposal: dict[str, Any] = json.loads(answer.stdout)
    return proposal


def _answer() -> None:
    """Answer one question of `_propose_elsewhere`."""
    import torch  # noqa: F401  so that `propose` knows that it is here

    question: Mapping[str, Any] = json.loads(sys.stdin.read())
    dimensions = tuple(
        Dimension(
            **{
                **entry,
                "values": None if entry["values"] is None else tuple(entry["values"]),
                "when": {name: tuple(values) for name, values in entry["when"].items()},
            }
        )
        for entry in question["space"]
    )
    results = [
        Result(**{**entry, "history": {int(epoch): value for epoch, value in entry["history"].items()}})
        for entry in question["results"]
    ]
    settings = Settings.model_validate(question["settings"])
    proposal = propose(
        settings, Space(dimensions), question["number"], question["attempt"], results, question["maximize"]
    )
    print(json.dumps(proposal))


if __name__ == "__main__":
    utils.run_script(_answer)
