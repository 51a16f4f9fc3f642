"""A study at work: start what the plan says, follow it, stop what is hopeless, and act on how trials end."""

from __future__ import annotations

import dataclasses
import signal
import time
from typing import Any, Protocol

from fiveline.study.disk import give_up_checkpoints
from fiveline.study.plan import Plan, is_maximized, monitored
from fiveline.study.pruner import Pruner
from fiveline.study.settings import Settings
from fiveline.study.trials import Trial
from fiveline.study.view import View
from fiveline.study.workers import Ended

POLL_SECONDS = 0.1
FOLLOW_SECONDS = 0.5  # between two looks at what the trials have written
SAVE_SECONDS = 120.0  # that a trial which was told to stop may take to save
IN_USE_PAUSE, IN_USE_ATTEMPTS = 2.0, 12  # seconds, more each time: waiting for a trial that runs elsewhere


class Workers(Protocol):
    """Where trials run: `LocalWorkers`, or a cluster."""

    @property
    def running(self) -> list[Trial]:
        """The trials at work."""

    def has_room(self) -> bool:
        """Return whether one more can start now."""

    def has_begun(self, trial: Trial) -> bool:
        """Return whether a trial that was started is at work already."""

    def start(self, trial: Trial) -> None:
        """Start a trial, whose directory is there."""

    def stop(self, trial: Trial, number: int = signal.SIGTERM) -> None:
        """Send a signal to a trial; SIGTERM lets it save first."""

    def poll(self, seconds: float) -> list[Ended]:
        """Wait for up to so many seconds, and return the trials that have ended."""

    def close(self) -> None:
        """Stop what still runs, and end."""


@dataclasses.dataclass
class Watched:
    """A trial at work.

    Args:
        start: when it was started; monotonic seconds
        killed_at: when patience with a trial that was told to stop ends; None while nobody has told it
        status: what it is to be, once it has stopped; None for what its own record says
        reason: of that
        entries: more for its record
    """

    start: float
    killed_at: float | None = None
    status: str | None = None
    reason: str = ""
    entries: dict[str, Any] = dataclasses.field(default_factory=dict)


class Driver:
    """Runs the trials of a plan.

    Args:
        plan: what to run
        settings: of the study
        workers: where
        view: who is told
    """

    def __init__(self, plan: Plan, settings: Settings, workers: Workers, view: View) -> None:
        self.plan, self.settings, self.workers, self.view = plan, settings, workers, view
        self.failed: dict[str, str] = {}  # name -> reason
        self.elsewhere: list[str] = []  # trials that another process has run all the time
        self.signal = 0  # that asked the study to stop
        self.is_out_of_time = False
        self._watched: dict[str, Watched] = {}
        self._retries: dict[str, int] = {}
        self._in_use: dict[str, int] = {}
        self._pruner: Pruner | None = None
        self._start = time.monotonic()

    def run(self) -> None:
        """Run until nothing is left, the time is up, or a signal comes; all trials have stopped then.

        Raises:
            InputError: a directory is in the way of a trial
        """
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._tell_pruner_of_what_has_ended()
            next_look = 0.0
            while True:
                for ended in self.workers.poll(POLL_SECONDS):
                    self._end(ended)
                if not self._is_stopping():
                    self._start_what_has_room()
                if not self.workers.running and (self._is_stopping() or not self.plan.is_waiting()):
                    break
                if time.monotonic() >= next_look:
                    self._follow()
                    next_look = time.monotonic() + FOLLOW_SECONDS
        finally:
            self.view.clear()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        if self.signal:  # a second one
            for trial in self.workers.running:
                self.workers.stop(trial, signal.SIGKILL)
        self.signal = number

    def _is_stopping(self) -> bool:
        return bool(self.signal) or self.is_out_of_time

    def _start_what_has_room(self) -> None:
        while self.workers.has_room():
            trial = self.plan.next()
            if trial is None:
                return
            self._watched[trial.name] = Watched(time.monotonic())
            self.workers.start(trial)
            if trial.name not in self._in_use:
                self.view.started(trial, self.plan.num_trials)

    def _follow(self) -> None:
        """Look at the trials at work: what they have written, and how long they take."""
        hours = (time.monotonic() - self._start) / 3600
        self.is_out_of_time = self.settings.max_hours is not None and hours >= self.settings.max_hours
        lines = []
        for trial in self.workers.running:
            history = monitored(trial)
            self._look_at(trial, history)
            lines.append(self.view.line(trial, history, self._maximize()))
        self.view.show(lines, self.plan)

    def _look_at(self, trial: Trial, history: dict[int, float]) -> None:
        watched = self._watched[trial.name]
        if not self.workers.has_begun(trial):
            watched.start = time.monotonic()
        minutes = self.settings.timeout_minutes
        if watched.killed_at is not None:
            if time.monotonic() >= watched.killed_at:
                self.workers.stop(trial, signal.SIGKILL)
            return
        if self._is_stopping():
            self._ask_to_stop(trial, watched)
        elif minutes is not None and time.monotonic() - watched.start > 60 * minutes:
            watched.status, watched.reason = "failed", f"stopped after {minutes:g} minutes (timeout_minutes)"
            self._ask_to_stop(trial, watched)
        elif history and self.settings.pruner != "none":
            epoch = self._fetch_pruner().report(trial.name, history)
            if epoch is not None and max(history) < trial.params.num_epochs:
                watched.status, watched.reason = "pruned", f"pruned after epoch {epoch} ({self.settings.pruner})"
                watched.entries = {"pruned_epoch": epoch}
                self._ask_to_stop(trial, watched)

    def _ask_to_stop(self, trial: Trial, watched: Watched) -> None:
        watched.killed_at = time.monotonic() + SAVE_SECONDS
        self.workers.stop(trial)

    def _end(self, ended: Ended) -> None:
        """Act on a trial's end: it is done, or to be run again, or has failed."""
        trial, code = ended.trial, ended.code
        watched = self._watched.pop(trial.name)
        status = trial.status()
        if code == 0:
            self._conclude(trial, status)
        elif watched.status is not None:
            trial.mark(watched.status, watched.reason, **watched.entries)
            if watched.status == "failed":
                self.failed[trial.name] = watched.reason
            self._conclude(trial, watched.status)
        elif code == 3:
            self._conclude(trial, "diverged")
        elif self._is_stopping():
            self.view.told(f"{trial.name}: stopped; the same command continues it")
        elif code == 4:
            self._leave_to_others(trial)
        elif code != 2 and self._retries.get(trial.name, 0) < self.settings.max_retries:
            self._retries[trial.name] = self._retries.get(trial.name, 0) + 1
            self.view.told(f"{trial.name}: {ended.reason or trial.last_words(code)}; started again")
            self.plan.put_back(trial)
        else:
            self.failed[trial.name] = ended.reason or trial.last_words(code)
            trial.mark("failed", self.failed[trial.name])
            self._conclude(trial, "failed")

    def _leave_to_others(self, trial: Trial) -> None:
        """Look again later at a trial that another process runs; give it up when nothing else is left to do here."""
        attempts = self._in_use[trial.name] = self._in_use.get(trial.name, 0) + 1
        if attempts == 1:
            self.view.told(f"{trial.name}: runs elsewhere")
        if attempts >= IN_USE_ATTEMPTS and not self.workers.running:
            self.elsewhere.append(trial.name)
        else:
            self.plan.put_back(trial, IN_USE_PAUSE * min(attempts, IN_USE_ATTEMPTS))

    def _conclude(self, trial: Trial, status: str) -> None:
        history = monitored(trial)
        if self.settings.pruner != "none":
            best = trial.record().get("best") if status == "finished" else None
            self._fetch_pruner().report(trial.name, history)
            self._fetch_pruner().end(trial.name, best)
        self.view.ended(trial, status, self.failed.get(trial.name, ""), history, self._maximize())
        if self.settings.max_gigabytes is not None:
            names = give_up_checkpoints(self.plan.all_trials(), self.settings.max_gigabytes, self._maximize())
            for name in names:
                self.view.told(f"{name}: gave up its checkpoints (max_gigabytes {self.settings.max_gigabytes:g})")

    def _maximize(self) -> bool:
        return is_maximized(self.plan.directories.base, self.plan.all_trials())

    def _fetch_pruner(self) -> Pruner:
        if self._pruner is None:
            self._pruner = Pruner(self.settings, self.plan.directories.base.num_epochs, self._maximize())
        return self._pruner

    def _tell_pruner_of_what_has_ended(self) -> None:
        if self.settings.pruner == "none":
            return
        for trial in self.plan.all_trials():
            if self.plan.is_done(trial):
                self._fetch_pruner().report(trial.name, monitored(trial))
                finished = trial.status() == "finished"
                self._fetch_pruner().end(trial.name, trial.record().get("best") if finished else None)
