"""Which trials are hopeless: Optuna's pruners, told the epochs of all trials as they come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fiveline.study.settings import Settings

if TYPE_CHECKING:
    import optuna


class Pruner:
    """Compares the trials of a study, epoch by epoch.

    Args:
        settings: pruner, min_epochs
        num_epochs: that a trial may have at most
        maximize: whether more of the metric is better
    """

    def __init__(self, settings: Settings, num_epochs: int, maximize: bool) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.worst = -math.inf if maximize else math.inf
        self._study = optuna.create_study(
            study_name="study",  # Hyperband's brackets depend on it
            direction="maximize" if maximize else "minimize",
            sampler=optuna.samplers.RandomSampler(seed=0),
            pruner=_make(settings, num_epochs),
        )
        self._trials: dict[str, optuna.Trial] = {}
        self._told: dict[str, int] = {}  # name -> last epoch
        self._hopeless_since: dict[str, int] = {}

    def report(self, name: str, history: Mapping[int, float]) -> int | None:
        """Take note of a trial's epochs so far.

        Args:
            name: of the trial
            history: epoch, from 1 -> value of the monitored metric

        Returns:
            the epoch after which it is hopeless, or None
        """
        trial = self._trials.get(name)
        if trial is None:
            trial = self._trials[name] = self._study.ask()
        for epoch in sorted(history):
            if epoch > self._told.get(name, 0) and name not in self._hopeless_since:
                value = history[epoch]
                trial.report(value if math.isfinite(value) else self.worst, epoch)
                self._told[name] = epoch
                if trial.should_prune():
                    self._hopeless_since[name] = epoch
        return self._hopeless_since.get(name)

    def end(self, name: str, value: float | None) -> None:
        """Take note of a trial's end.

        Args:
            name: of the trial
            value: its best; None if it came to none
        """
        from optuna.trial import TrialState

        trial = self._trials.pop(name, None)
        if trial is not None and value is not None and math.isfinite(value):
            self._study.tell(trial, value)
        elif trial is not None:
            self._study.tell(trial, state=TrialState.PRUNED if self._told.get(name) else TrialState.FAIL)


def _make(settings: Settings, num_epochs: int) -> optuna.pruners.BasePruner:
    from optuna import pruners

    if settings.pruner == "median":
        return pruners.MedianPruner(4, settings.min_epochs, interval_steps=1, n_min_trials=1)
    if settings.pruner == "asha":
        return pruners.SuccessiveHalvingPruner(settings.min_epochs, 3, min_early_stopping_rate=0, bootstrap_count=0)
    if settings.pruner == "hyperband":
        first, last = settings.min_epochs, max(num_epochs, settings.min_epochs)
        return pruners.HyperbandPruner(first, last, reduction_factor=3, bootstrap_count=0)
    return pruners.NopPruner()
