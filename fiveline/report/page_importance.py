"""How much each hyperparameter matters for a metric, by Optuna's PED-ANOVA: quick at thousands of runs, no forest."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from fiveline.record.atomic import to_json
from fiveline.report.runs import is_number

FEWEST_RUNS = 10  # with fewer, the result is chance
LOG_RATIO = 10  # values that span less have a linear axis


def is_log(values: Sequence[float]) -> bool:
    """Return whether an axis of these values should be logarithmic: half of them crowd at its lower end."""
    distinct = sorted(set(values))
    low, middle, high = distinct[0], distinct[(len(distinct) - 1) // 2], distinct[-1]
    return low > 0 and high / low >= LOG_RATIO and middle < 0.32 * high


def importance(params: Sequence[Mapping[str, Any]], values: Sequence[float], lower_is_better: bool) -> dict[str, float]:
    """Return each hyperparameter's share in what separates the best tenth of the runs from the rest, largest first.

    The result is empty for fewer than FEWEST_RUNS runs or two hyperparameters.

    Source: Watanabe, Bansal and Hutter, PED-ANOVA (2023), https://arxiv.org/abs/2304.10255
    """
    names = sorted({name for each in params for name in each})
    if len(params) < FEWEST_RUNS or len(names) < 2 or len(set(values)) < 2:
        return {}
    import optuna  # here, because it takes a second or two
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    columns = {name: _as_distribution([each.get(name) for each in params]) for name in names}
    distributions = {name: each for name, (each, _) in columns.items() if not each.single()}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="minimize" if lower_is_better else "maximize")
        for i, value in enumerate(values):
            cells = {name: columns[name][1][i] for name in distributions}
            study.add_trial(optuna.trial.create_trial(params=cells, distributions=distributions, value=value))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the evaluator is experimental
            evaluator = PedAnovaImportanceEvaluator(target_quantile=0.1, region_quantile=1.0, evaluate_on_local=True)
            return get_param_importances(study, evaluator=evaluator, params=list(distributions), normalize=True)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _as_distribution(cells: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Return a column's distribution and cells for Optuna; cells that are not numbers are categories."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if all(map(is_number, cells)):
        numbers = [float(cell) for cell in cells]
        return FloatDistribution(min(numbers), max(numbers), log=is_log(numbers)), numbers
    names = [to_json(cell, indent=None) for cell in cells]
    return CategoricalDistribution(sorted(set(names))), names
