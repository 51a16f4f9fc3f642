"""What a person sees of a study while it runs, and of its status at any time."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

import utils
from fiveline.record.held import current_status
from fiveline.study.plan import Plan
from fiveline.study.trials import Trial


class View:
    """Prints lines that stay, and on a terminal a progress bar for each trial at work."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[Any]] = {}  # by the trial's name

    def note(self, text: str) -> None:
        """Print a line that stays."""
        tqdm.write(utils.escaped_lines(text))
        sys.stdout.flush()

    def show(self, trials: Sequence[Trial], maximize: bool) -> None:
        """Draw the progress of the trials at work: epochs, time left, the monitored metric and its best value."""
        for name in self._bars.keys() - {trial.name for trial in trials}:
            self._bars.pop(name).close()
        for trial in trials if sys.stdout.isatty() else ():
            history = trial.monitored()
            last, total = max(history, default=0), trial.params.num_epochs
            if trial.name not in self._bars:
                name, unit = utils.escaped(trial.name), " epochs"
                bar = tqdm(desc=name, total=total, initial=last, unit=unit, leave=False, file=sys.stdout)
                self._bars[trial.name] = bar
            bar, best = self._bars[trial.name], best_of(history, maximize)
            if best is not None:
                bar.set_postfix_str(f"{trial.params.monitor} {history[last]:.4g}, best {best:.4g}", refresh=False)
            bar.n = last
            bar.refresh()

    def concluded(self, trial: Trial, status: str, reason: str, maximize: bool) -> None:
        """Print how a trial has ended."""
        history = trial.monitored()
        best = best_of(history, maximize)
        result = f", best {trial.params.monitor} {best:.4g} of {len(history)} epochs" if best is not None else ""
        reason = (reason or str(trial.record().get("reason") or "")).removeprefix(status).lstrip(": ")
        self.note(f"{trial.name}: {status}{result}{': ' + reason if reason and status != 'finished' else ''}")


def print_status(plan: Plan) -> None:
    """Print one line for each trial that is known, and a summary, from the directories alone."""
    maximize, statuses, rows = plan.is_maximized(), [], []
    for trial in plan.all_trials():
        history = trial.monitored()
        statuses.append(current_status(trial.path, trial.status()))
        epochs, best = f"{max(history, default=0)}/{trial.params.num_epochs}", best_of(history, maximize)
        reason = utils.escaped(str(trial.record().get("reason") or "")[:60])
        rows.append([utils.escaped(trial.name), statuses[-1], epochs, best, reason])
    head = ["trial", "status", "epochs", f"best {plan.directories.base.monitor}", "reason"]
    if rows:
        print(tabulate(rows, head, floatfmt=".4g", missingval="-", disable_numparse=[0, 1, 2, 4]))
    print(f"\n{summary(statuses, plan.num_trials)}")
    num_more = len(plan.directories.configurations()) - len(plan.trials)
    if num_more > 0:
        print(f"{num_more} more configurations of this space are in the folder; a larger num_trials counts them")
    if "stale" in statuses:
        print("stale: its process is gone, killed perhaps; the same search command continues it from its checkpoint")


def summary(statuses: Sequence[str], num_trials: int) -> str:
    """Return how far a study is, in one line."""
    counts = Counter(statuses)
    counts["waiting"] += num_trials - len(statuses)  # a sampler proposes those later
    texts = [f"{count} {status}" for status, count in sorted(counts.items()) if count > 0]
    return f"{num_trials} trials: {'all waiting' if counts['waiting'] == num_trials else ', '.join(texts)}"


def best_of(history: Mapping[int, float], maximize: bool) -> float | None:
    """Return the best value of a history, or None before there is one."""
    values = [value for value in history.values() if math.isfinite(value)]
    return (max if maximize else min)(values) if values else None
