"""A study at work: start the trials of the plan, follow them, stop hopeless trials, and act when a trial ends."""

from __future__ import annotations

import dataclasses
import functools
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from fiveline.study.plan import Plan
from fiveline.study.sampler import Pruner
from fiveline.study.trials import Trial
from fiveline.study.view import View
from fiveline.study.workers import GRACE_SECONDS, Ended, LocalWorkers

if TYPE_CHECKING:
    from fiveline.study.ray_workers import RayWorkers

POLL_SECONDS = 0.1
FOLLOW_SECONDS = 0.5  # how often the files of the running trials are read
IN_USE_PAUSE, IN_USE_ATTEMPTS = 2.0, 12  # if a trial runs elsewhere: seconds (times the attempt) to wait, attempts


@dataclasses.dataclass
class Watched:
    """The state of a running trial."""

    start: float  # monotonic seconds
    kill_at: float | None = None  # deadline for SIGKILL after SIGTERM
    entries: dict[str, Any] = dataclasses.field(default_factory=dict)  # status and reason, if the study stopped it


class Driver:
    """Runs the trials of a plan."""

    def __init__(self, plan: Plan, workers: LocalWorkers | RayWorkers, view: View) -> None:
        self.plan, self.settings, self.workers, self.view = plan, plan.settings, workers, view
        self.prunes = self.settings.pruner != "none"
        self.failed: dict[str, str] = {}  # name -> reason
        self.elsewhere: list[str] = []  # trials that another process still runs
        self.signal = 0  # the signal that stops the study, 0 for none
        self.is_out_of_time = False
        self._watched: dict[str, Watched] = {}
        self._retries, self._in_use = Counter[str](), Counter[str]()
        self._start = time.monotonic()

    def run(self) -> None:
        """Run until no trial is left, the time is up, or a signal arrives. When it returns, all trials have stopped."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for trial in filter(self.plan.is_done, self.plan.all_trials()):
                self._report_end(trial, trial.status())
            next_look = 0.0
            while True:
                for ended in self.workers.poll(POLL_SECONDS):
                    self._end(ended)
                while not self._is_stopping() and self.workers.has_room() and (next_trial := self.plan.next()):
                    self._start_trial(next_trial)
                if not self.workers.running and (self._is_stopping() or not self.plan.waiting):
                    break
                if time.monotonic() >= next_look:
                    self._follow()
                    next_look = time.monotonic() + FOLLOW_SECONDS
        finally:
            self._stop_all()  # after an error, some trials still run
            self.view.show([], maximize=True)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_all(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for trial in self.workers.running:
                self.workers.stop(trial, number)
            latest = time.monotonic() + GRACE_SECONDS
            while self.workers.running and time.monotonic() < latest:
                self.workers.poll(POLL_SECONDS)

    def _on_signal(self, number: int, _: object) -> None:
        if self.signal:  # a second one
            for trial in self.workers.running:
                self.workers.stop(trial, signal.SIGKILL)
        self.signal = number

    def _is_stopping(self) -> bool:
        return bool(self.signal) or self.is_out_of_time

    def _start_trial(self, trial: Trial) -> None:
        self.workers.start(trial)
        self._watched[trial.name] = Watched(time.monotonic())
        if trial.name not in self._in_use:
            epoch, total = len(trial.history()), self.plan.num_trials
            self.view.note(f"{trial.name}: {f'continues after epoch {epoch}' if epoch else f'started (of {total})'}")

    def _follow(self) -> None:
        hours = (time.monotonic() - self._start) / 3600
        self.is_out_of_time = self.settings.max_hours is not None and hours >= self.settings.max_hours
        for trial in self.workers.running:
            self._look_at(trial)
        self.view.show(self.workers.running, self.plan.is_maximized())

    def _look_at(self, trial: Trial) -> None:
        """Stop a trial that is out of time or hopeless, and kill one that does not stop."""
        watched, minutes = self._watched[trial.name], self.settings.timeout_minutes
        if watched.kill_at is not None:
            if time.monotonic() >= watched.kill_at:
                self.workers.stop(trial, signal.SIGKILL)
            return
        if not self.workers.has_begun(trial):
            watched.start = time.monotonic()
        if not self._is_stopping():
            if minutes is not None and time.monotonic() - watched.start > 60 * minutes:
                watched.entries = {"status": "failed", "reason": f"stopped after {minutes:g} minutes (timeout_minutes)"}
            elif self.prunes and (history := trial.monitored()):
                epoch = self._pruner.report(trial.name, history)
                if epoch is not None and max(history) < trial.params.num_epochs:
                    reason = f"pruned after epoch {epoch} ({self.settings.pruner})"
                    watched.entries = {"status": "pruned", "reason": reason, "pruned_epoch": epoch}
        if watched.entries or self._is_stopping():
            watched.kill_at = time.monotonic() + GRACE_SECONDS
            self.workers.stop(trial)

    def _end(self, ended: Ended) -> None:
        """Act on a trial's end: it is done, or runs again, or has failed."""
        trial, code = ended.trial, ended.code
        watched = self._watched.pop(trial.name)
        if code == 0:
            self._conclude(trial, trial.status())
        elif watched.entries:
            self._conclude(trial, **watched.entries)
        elif code == 3:
            self._conclude(trial, "diverged")
        elif self._is_stopping():
            self.view.note(f"{trial.name}: stopped; rerun the same command to continue it")
        elif code == 4:
            self._leave_to_others(trial)
        elif code != 2 and self._retries[trial.name] < self.settings.max_retries:
            self._retries[trial.name] += 1
            self.view.note(f"{trial.name}: {ended.reason or trial.last_words(code)}; started again")
            self.plan.run_again(trial)
        else:
            self._conclude(trial, "failed", ended.reason or trial.last_words(code))

    def _leave_to_others(self, trial: Trial) -> None:
        """Try a trial that another process runs again later; after the last attempt, leave it to that process."""
        self._in_use[trial.name] += 1
        attempts = self._in_use[trial.name]
        if attempts == 1:
            self.view.note(f"{trial.name}: runs elsewhere")
        if attempts >= IN_USE_ATTEMPTS and not self.workers.running:
            self.elsewhere.append(trial.name)
        else:
            self.plan.run_again(trial, IN_USE_PAUSE * min(attempts, IN_USE_ATTEMPTS))

    def _conclude(self, trial: Trial, status: str, reason: str = "", **entries: Any) -> None:
        """Report a trial that is done or has failed. If `reason` is given, also write it into the trial's run.json."""
        if reason:
            trial.mark(status=status, reason=reason, **entries)
        if status == "failed":
            self.failed[trial.name] = reason
        self._report_end(trial, status)
        self.view.concluded(trial, status, reason, self.plan.is_maximized())
        if (most := self.settings.max_gigabytes) is not None:
            for name in self.plan.delete_checkpoints(most):
                self.view.note(f"{name}: gave up its checkpoints (max_gigabytes {most:g})")

    @functools.cached_property
    def _pruner(self) -> Pruner:  # made after the first epoch, when the task's metrics are recorded
        return Pruner(self.settings, self.plan.directories.base.num_epochs, self.plan.is_maximized())

    def _report_end(self, trial: Trial, status: str) -> None:
        if self.prunes:
            self._pruner.report(trial.name, trial.monitored())
            self._pruner.end(trial.name, trial.record().get("best") if status == "finished" else None)
