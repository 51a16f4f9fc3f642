"""The trials of a study in the order in which they run: trials that have not ended, then the sampler's proposals."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import utils
from fiveline.study.sampler import MOST_ATTEMPTS, Result, propose
from fiveline.study.settings import Settings
from fiveline.study.trials import CHECKPOINTS, ENDED, Directories, Trial

GIGABYTE = 1e9


class Plan:
    """The trials of a study."""

    def __init__(self, directories: Directories, settings: Settings) -> None:
        self.directories, self.settings = directories, settings
        self.is_exhausted = False  # whether the space has no new configuration
        self._results: dict[int, Result] = {}  # results of configurations that have ended
        if settings.sampler == "grid":
            configurations = dict(enumerate(directories.space.grid()[: settings.num_trials]))
        else:
            found = directories.configurations()
            configurations = {number: found[number] for number in found if number < (settings.num_trials or 0)}
        self.trials = {number: directories.trials(number, chosen) for number, chosen in configurations.items()}
        todo = [trial for trial in self.all_trials() if not self.is_done(trial)]
        self.waiting: deque[tuple[float, Trial]] = deque((0.0, trial) for trial in todo)  # (earliest start, trial)

    def is_done(self, trial: Trial) -> bool:
        """Return whether a trial is complete. A failed trial is not: the next command tries it again."""
        status = trial.status()
        return status in ("finished", "diverged") or (status == "pruned" and self.settings.pruner != "none")

    def is_maximized(self) -> bool:
        """Return whether a higher monitored metric is better, according to the first run that has started."""
        monitor = self.directories.base.monitor
        if monitor == "loss":
            return False
        recorded = (trial.record().get("lower_is_better") for trial in self.all_trials())
        return monitor not in (next((names for names in recorded if names is not None), None) or ())

    def delete_checkpoints(self, max_gigabytes: float) -> list[str]:
        """Delete the worst ended trials' checkpoints until the rest fit; return the names of these trials."""
        maximize, trials, deleted = self.is_maximized(), self.all_trials(), []

        def rank(trial: Trial) -> tuple[float, float]:
            return utils.ranking_key(trial.record().get("best"), trial.record().get("best_loss"), maximize)

        sizes = {trial.name: trial.checkpoint_bytes() for trial in trials}
        ended = [trial for trial in trials if sizes[trial.name] and trial.record().get("status") in ENDED]
        for trial in sorted(ended, key=rank)[:-1]:  # the last trial is the best: it keeps its checkpoints
            if sum(sizes.values()) > max_gigabytes * GIGABYTE:
                for path in sorted(trial.path.glob(CHECKPOINTS)):
                    path.unlink()
                sizes[trial.name] = 0
                deleted.append(trial.name)
        return deleted

    def all_trials(self) -> list[Trial]:
        """Return the trials that are known by now."""
        return [trial for _, trials in sorted(self.trials.items()) for trial in trials]

    @property
    def num_trials(self) -> int:
        """The number of runs in the whole study, as far as it is known."""
        most = len(self.trials) if self.settings.sampler == "grid" or self.is_exhausted else self.settings.num_trials
        return (most or 0) * max(1, len(self.settings.seeds))

    def run_again(self, trial: Trial, seconds: float = 0.0) -> None:
        """Run a trial again, not before this many seconds from now."""
        self.waiting.append((time.monotonic() + seconds, trial))

    def next(self) -> Trial | None:
        """Return a trial to start now; None if no trial is left, or none may start yet."""
        for _ in range(len(self.waiting)):
            not_before, trial = self.waiting.popleft()
            if self._is_decided_by_another_seed(trial):
                continue
            if time.monotonic() >= not_before:
                self._results.pop(trial.number, None)
                trial.make()
                return trial
            self.waiting.append((not_before, trial))
        return self.next() if self.propose() else None

    def _is_decided_by_another_seed(self, trial: Trial) -> bool:
        """Return whether another seed of the same configuration was pruned, or diverged."""
        others = [other for other in self.trials[trial.number] if other is not trial]
        return any(other.status() in ("pruned", "diverged") and self.is_done(other) for other in others)

    def propose(self) -> bool:
        """Let the sampler propose one more configuration, and return whether there was one."""
        number = next(number for number in itertools.count() if number not in self.trials)
        if self.settings.sampler == "grid" or self.is_exhausted or number >= (self.settings.num_trials or 0):
            return False
        results, maximize = self.results(), self.is_maximized()
        for attempt in range(MOST_ATTEMPTS):
            chosen = propose(self.settings, self.directories.space, number, attempt, results, maximize)
            try:
                is_new = not self.directories.has(chosen)
            except utils.InputError:  # the values do not go together
                continue
            if is_new:
                self.trials[number] = self.directories.trials(number, chosen)
                self.waiting += [(0.0, trial) for trial in self.trials[number]]
                return True
        self.is_exhausted = True
        return False

    def results(self) -> list[Result]:
        """Return the result of each configuration."""
        results = []
        for number, trials in sorted(self.trials.items()):
            result = self._results.get(number) or self._result(number, trials)
            if result.state != "running":
                self._results[number] = result
            results.append(result)
        return results

    def _result(self, number: int, trials: Sequence[Trial]) -> Result:
        names = self.directories.space.names
        chosen = {name: value for name, value in trials[0].values.items() if name in names}
        statuses = [trial.status() for trial in trials]
        for trial, status in zip(trials, statuses, strict=True):
            if status in ("pruned", "diverged"):
                last = trial.record().get("pruned_epoch") or len(trial.history())
                history = {epoch: value for epoch, value in trial.monitored().items() if epoch <= last}
                return Result(number, chosen, "pruned", history=history)
        is_waiting = any(trial.number == number for _, trial in self.waiting)
        if is_waiting or any(status not in ENDED for status in statuses):
            return Result(number, chosen, "running")
        bests: list[Any] = [trial.record().get("best") for trial in trials]
        if "failed" in statuses or any(utils.ranking_key(best, None, True) == utils.NO_RESULT for best in bests):
            return Result(number, chosen, "failed")
        return Result(number, chosen, "finished", statistics.fmean(bests))
