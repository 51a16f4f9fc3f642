"""What a person sees of a study: one line for each trial at work, redrawn in place; plain lines where nobody looks."""

from __future__ import annotations

import math
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import utils
from fiveline.study.plan import Plan
from fiveline.study.trials import Trial


class View:
    """Writes to the terminal, or, where standard output is a file or a pipe, one plain line an event."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._num_drawn = 0
        self._num_started = 0
        self._settled: dict[str, str] = {}  # trial -> status, once that cannot change: grids have thousands

    def told(self, text: str) -> None:
        """Say something that stays."""
        self.clear()
        print(utils.escaped_lines(text), flush=True)

    def started(self, trial: Trial, num_trials: int) -> None:
        """Say that a trial has begun, or goes on."""
        self._num_started += 1
        epoch = len(trial.history())
        self.told(f"{trial.name}: " + (f"goes on after epoch {epoch}" if epoch else f"started (of {num_trials})"))

    def ended(self, trial: Trial, status: str, reason: str, history: Mapping[int, float], maximize: bool) -> None:
        """Say how a trial has ended."""
        best = best_of(history, maximize)
        said = f", best {trial.params.monitor} {best:.4g} of {len(history)} epochs" if best is not None else ""
        reason = (reason or str(trial.record().get("reason") or "")).removeprefix(status).lstrip(": ")  # said once
        self.told(f"{trial.name}: {status}{said}{': ' + reason if reason and status != 'finished' else ''}")

    def line(self, trial: Trial, history: Mapping[int, float], maximize: bool) -> str:
        """Return the line of a trial at work: epoch, metric, best so far, time left."""
        if not history:
            return f"{trial.name}  epoch 1/{trial.params.num_epochs}"
        last, best = max(history), best_of(history, maximize)
        seconds = [row["seconds"] for row in trial.history() if isinstance(row.get("seconds"), (int, float))]
        left = (trial.params.num_epochs - last) * sum(seconds) / max(1, len(seconds))
        told = f"best {best:.4g}" if best is not None else "no number yet"
        epoch = f"epoch {min(last + 1, trial.params.num_epochs)}/{trial.params.num_epochs}"
        return f"{trial.name}  {epoch}  {trial.params.monitor} {history[last]:.4g}  {told}  {duration(left)} left"

    def show(self, lines: Sequence[str], plan: Plan) -> None:
        """Draw the lines of the trials at work in place of those drawn before."""
        if not self.is_terminal:
            return
        self.clear()
        width = shutil.get_terminal_size().columns - 1
        drawn = [*lines, summary([self._status(trial) for trial in plan.all_trials()], plan.num_trials)]
        print("\n".join(utils.escaped(line)[:width] for line in drawn), flush=True)
        self._num_drawn = len(drawn)

    def _status(self, trial: Trial) -> str:
        status = self._settled.get(trial.name) or trial.status()
        if status in ("finished", "diverged"):
            self._settled[trial.name] = status
        return status

    def clear(self) -> None:
        """Take the drawn lines away."""
        if self._num_drawn:
            print(f"\x1b[{self._num_drawn}A\x1b[J", end="", flush=True)
            self._num_drawn = 0


def summary(statuses: Sequence[str], num_trials: int) -> str:
    """Return how far a study is, in one line."""
    counts = Counter(statuses)
    counts["waiting"] += num_trials - len(statuses)  # a sampler proposes those later
    told = [f"{count} {status}" for status, count in sorted(counts.items()) if count > 0]
    return f"{num_trials} trials: {'all waiting' if counts['waiting'] == num_trials else ', '.join(told)}"


def best_of(history: Mapping[int, float], maximize: bool) -> float | None:
    """Return the best value of a history, or None before there is one."""
    values = [value for value in history.values() if math.isfinite(value)]
    return (max if maximize else min)(values) if values else None


def duration(seconds: float) -> str:
    """Return a length of time as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
