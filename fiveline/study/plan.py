"""What a study is to run next: what has not ended, then what the sampler proposes."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence

import utils
from fiveline.study.result import Result
from fiveline.study.sampler import MOST_ATTEMPTS, propose
from fiveline.study.settings import Settings
from fiveline.study.trials import Directories, Trial

ENDED = ("finished", "pruned", "diverged", "failed")


class Plan:
    """The trials of a study, in the order in which they are to run.

    Args:
        directories: what is there
        settings: of the study
    """

    def __init__(self, directories: Directories, settings: Settings) -> None:
        self.directories, self.settings = directories, settings
        self.lag = 1  # where proposals are to be reproducible: how many trials run at once, and are not waited for
        self.is_exhausted = False  # whether the space holds nothing new
        self._results: dict[int, Result] = {}  # of configurations that have ended
        self.trials: dict[int, list[Trial]] = {}
        if settings.sampler == "grid":
            configurations = dict(enumerate(itertools.islice(directories.space.grid(), settings.num_trials)))
        else:
            most = settings.num_trials or 0
            found = directories.configurations()
            configurations = {number: chosen for number, chosen in found.items() if number < most}
        for number, chosen in configurations.items():
            self.trials[number] = directories.trials(number, chosen)
        todo = [trial for trials in self.trials.values() for trial in trials if not self.is_done(trial)]
        self._waiting: deque[tuple[float, Trial]] = deque((0.0, trial) for trial in todo)  # not before, trial

    def is_done(self, trial: Trial) -> bool:
        """Return whether a trial needs nothing more; one that failed is tried again by the next command."""
        status = trial.status()
        return status in ("finished", "diverged") or (status == "pruned" and self.settings.pruner != "none")

    def all_trials(self) -> list[Trial]:
        """Return the trials that are known by now."""
        return [trial for _, trials in sorted(self.trials.items()) for trial in trials]

    @property
    def num_trials(self) -> int:
        """How many runs the whole study is, as far as it is known."""
        most = len(self.trials) if self.settings.sampler == "grid" or self.is_exhausted else self.settings.num_trials
        return (most or 0) * max(1, len(self.settings.seeds))

    def put_back(self, trial: Trial, seconds: float = 0.0) -> None:
        """Run a trial again, not before so many seconds from now."""
        self._waiting.append((time.monotonic() + seconds, trial))

    def is_waiting(self) -> bool:
        """Return whether there are trials that may start later, though none may now."""
        return bool(self._waiting)

    def next(self) -> Trial | None:
        """Return a trial to start now, or None if there is none, or none yet.

        Raises:
            InputError: a directory is in the way of a proposal
        """
        for _ in range(len(self._waiting)):
            not_before, trial = self._waiting.popleft()
            if self._is_hopeless(trial):
                continue
            if time.monotonic() >= not_before:
                return self._begin(trial)
            self._waiting.append((not_before, trial))
        return self.next() if self.propose() else None

    def _is_hopeless(self, trial: Trial) -> bool:
        """Return whether another seed of the same configuration was pruned, or diverged."""
        others = [other for other in self.trials[trial.number] if other is not trial]
        return any(other.status() in ("pruned", "diverged") and self.is_done(other) for other in others)

    def _begin(self, trial: Trial) -> Trial:
        self._results.pop(trial.number, None)
        trial.make()
        return trial

    def propose(self) -> bool:
        """Ask the sampler for one more configuration; return whether there was one.

        Raises:
            InputError: a directory is in the way of it
        """
        number = next(number for number in itertools.count() if number not in self.trials)
        if self.settings.sampler == "grid" or self.is_exhausted or number >= (self.settings.num_trials or 0):
            return False
        results = self.results()
        if self.settings.reproducible:
            early = [result for result in results if result.number <= number - self.lag]
            if any(result.state == "running" for result in early):
                return False
            unknown = [Result(each.number, each.chosen, "running") for each in results if each not in early]
            results = [*early, *unknown]
        maximize = is_maximized(self.directories.base, self.all_trials())
        for attempt in range(MOST_ATTEMPTS):
            chosen = propose(self.settings, self.directories.space, number, attempt, results, maximize)
            try:
                is_new = not self.directories.has(chosen)
            except utils.InputError:  # the values do not go together
                continue
            if is_new:
                self.trials[number] = self.directories.trials(number, chosen)
                for trial in self.trials[number]:
                    self.directories.add(trial)
                    self._waiting.append((0.0, trial))
                return True
        self.is_exhausted = True
        return False

    def results(self) -> list[Result]:
        """Return what is known of each configuration."""
        for number, trials in self.trials.items():
            if number not in self._results:
                result = self._result(number, trials)
                if result.state == "running":
                    continue
                self._results[number] = result
        return [
            self._results.get(number) or Result(number, self._chosen(trials[0]), "running")
            for number, trials in sorted(self.trials.items())
        ]

    def _chosen(self, trial: Trial) -> dict[str, object]:
        return {name: value for name, value in trial.values.items() if name in self.directories.space.names}

    def _result(self, number: int, trials: Sequence[Trial]) -> Result:
        chosen, statuses = self._chosen(trials[0]), [trial.status() for trial in trials]
        waiting = {id(trial) for _, trial in self._waiting}
        for trial, status in zip(trials, statuses, strict=True):
            if status in ("pruned", "diverged"):
                last = trial.record().get("pruned_epoch") or len(trial.history())
                history = {epoch: value for epoch, value in monitored(trial).items() if epoch <= last}
                return Result(number, chosen, "pruned", history=history)
        if any(status not in ENDED or id(trial) in waiting for trial, status in zip(trials, statuses, strict=True)):
            return Result(number, chosen, "running")
        records = [trial.record() for trial in trials]
        values = [record["best"] for record in records if utils.standing(record.get("best"), None, True)]
        losses = [record["best_loss"] for record in records if utils.standing(record.get("best_loss"), None, True)]
        if "failed" in statuses or len(values) < len(records):
            return Result(number, chosen, "failed")
        loss = sum(losses) / len(losses) if len(losses) == len(records) else None
        return Result(number, chosen, "finished", sum(values) / len(values), loss=loss)


def monitored(trial: Trial) -> dict[int, float]:
    """Return the monitored metric of each finished epoch, from 1."""
    values = {row.get("epoch"): row.get("val", {}).get(trial.params.monitor) for row in trial.history()}
    return {
        epoch: float("nan") if value is None else float(value)  # JSON has no NaN
        for epoch, value in values.items()
        if isinstance(epoch, int)
    }


def is_maximized(base: utils.Params, trials: Sequence[Trial]) -> bool:
    """Return whether more of the monitored metric is better; the first run to start says so of the task's metrics."""
    if base.monitor == "loss":
        return False
    errors = (trial.record().get("lower_is_better") for trial in trials)
    return base.monitor not in (next((names for names in errors if names is not None), None) or ())
