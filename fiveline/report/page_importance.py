"""How much each hyperparameter matters for a metric, by Optuna's PED-ANOVA: quick at thousands of runs, no forest."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fiveline.record.files import to_json
from fiveline.report.runs import is_number

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FEWEST_RUNS = 10  # with fewer, whatever comes out is chance
LOG_RATIO = 10  # positive values that span less are never thought of by their order of magnitude


def is_log(values: Sequence[float]) -> bool:
    """Return whether an axis of these values should be logarithmic: half of them crowd at its lower end."""
    distinct = sorted(set(values))
    low, middle, high = distinct[0], distinct[(len(distinct) - 1) // 2], distinct[-1]
    return low > 0 and high / low >= LOG_RATIO and middle < 0.32 * high


def importance(params: Sequence[Mapping[str, Any]], values: Sequence[float], lower_is_better: bool) -> dict[str, float]:
    """Return each hyperparameter's share in what tells the best tenth of the runs from the rest, the largest first.

    Source: Watanabe, Bansal and Hutter, PED-ANOVA (2023), https://arxiv.org/abs/2304.10255

    Args:
        params: of each run, the hyperparameters that differ
        values: of each run, the metric
        lower_is_better: whether it is an error

    Returns:
        empty where there are fewer than FEWEST_RUNS runs, or fewer than two hyperparameters to tell apart
    """
    names = sorted({name for each in params for name in each})
    if len(params) < FEWEST_RUNS or len(names) < 2 or len(set(values)) < 2:
        return {}
    import optuna  # here, because it takes a second or two, with what it loads
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    columns = {name: _as_distribution([each.get(name) for each in params]) for name in names}
    columns = {name: column for name, column in columns.items() if not column[0].single()}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="minimize" if lower_is_better else "maximize")
        distributions = {name: distribution for name, (distribution, _) in columns.items()}
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={name: cells[i] for name, (_, cells) in columns.items()},
                    distributions=distributions,
                    value=value,
                )
                for i, value in enumerate(values)
            ]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the evaluator is new, it says
            evaluator = PedAnovaImportanceEvaluator(target_quantile=0.1, region_quantile=1.0, evaluate_on_local=True)
            shares = get_param_importances(study, evaluator=evaluator, params=list(columns), normalize=True)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: float(share) for name, share in shares.items()}


def _as_distribution(cells: Sequence[Any]) -> tuple[BaseDistribution, list[Any]]:
    """Return what Optuna needs to know of a column, and its cells; what is no number counts as a name."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if all(isinstance(cell, int) and not isinstance(cell, bool) for cell in cells):
        low, high = min(cells), max(cells)
        return IntDistribution(low, high, log=is_log(cells)), list(cells)
    if all(is_number(cell) for cell in cells):
        numbers = [float(cell) for cell in cells]
        return FloatDistribution(min(numbers), max(numbers), log=is_log(numbers)), numbers
    names = [to_json(cell, indent=None) for cell in cells]
    return CategoricalDistribution(sorted(set(names))), names
