"""Which trials are hopeless: Optuna's pruners, which compare the epochs of all trials."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fiveline.study.settings import Settings

if TYPE_CHECKING:
    import optuna


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
