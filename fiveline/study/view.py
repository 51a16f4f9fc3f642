"""A study's output for people: its progress while it runs, its status at any time, and its estimated cost."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

import utils
from fiveline.record.directory import current_status
from fiveline.report.table import duration
from fiveline.study.plan import GIGABYTE, Plan
from fiveline.study.trials import Trial
from fiveline.study.workers import PROJECT


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
        for trial in trials if sys.stderr.isatty() else ():
            history, name = trial.monitored(), utils.escaped(trial.name)
            last, total, best = max(history, default=0), trial.params.num_epochs, best_of(history, maximize)
            if trial.name not in self._bars:
                self._bars[trial.name] = tqdm(desc=name, total=total, initial=last, unit=" epochs", leave=False)
            bar = self._bars[trial.name]
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


def describe_study(plan: Plan) -> dict[str, Any]:
    """Return the progress of a study, as --json prints it: finished trials first, the best of them first."""
    maximize, parent_dir = plan.is_maximized(), plan.directories.parent_dir
    ranked = sorted(trial_entries(plan), key=lambda each: utils.ranking_key(each["best"], None, maximize), reverse=True)
    return {
        "parent_dir": str(parent_dir),
        "monitor": plan.directories.base.monitor,
        "maximize": maximize,
        "num_trials": plan.num_trials,
        "trials": sorted(ranked, key=lambda each: each["status"] != "finished"),
        "files": [str(path) for path in sorted(parent_dir.glob("results.*"))],
    }


def trial_entries(plan: Plan) -> list[dict[str, Any]]:
    """Return one dict for each known trial, from the directories alone."""
    entries, maximize = [], plan.is_maximized()
    for index, trial in enumerate(plan.all_trials()):
        history = trial.monitored()
        entry = {"index": index, "name": trial.name, "model_dir": str(trial.path), "values": trial.values}
        entry |= {"status": current_status(trial.path, trial.status()), "reason": trial.record().get("reason")}
        entry |= {"epochs": max(history, default=0), "num_epochs": trial.params.num_epochs}
        entries.append({**entry, "best": best_of(history, maximize)})
    return entries


def print_status(plan: Plan) -> None:
    """Print one line for each trial that is known, and a summary, from the directories alone."""
    statuses, rows = [], []
    for trial in trial_entries(plan):
        statuses.append(trial["status"])
        name, reason = utils.escaped(trial["name"]), utils.escaped(str(trial["reason"] or "")[:60])
        rows.append([name, trial["status"], f"{trial['epochs']}/{trial['num_epochs']}", trial["best"], reason])
    head = ["trial", "status", "epochs", f"best {plan.directories.base.monitor}", "reason"]
    if rows:
        print(tabulate(rows, head, floatfmt=".4g", missingval="-", disable_numparse=[0, 1, 2, 4]))
    print(f"\n{summary(statuses, plan.num_trials)}")
    if "stale" in statuses:
        print("stale: its process is gone, perhaps killed; rerun the same command to continue from its checkpoint")


def summary(statuses: Sequence[str], num_trials: int) -> str:
    """Return the progress of a study, in one line."""
    counts = Counter(statuses)
    counts["waiting"] += num_trials - len(statuses)  # trials that the sampler has not proposed yet
    texts = [f"{count} {status}" for status, count in sorted(counts.items()) if count > 0]
    return f"{num_trials} trials: {'all waiting' if counts['waiting'] == num_trials else ', '.join(texts)}"


def best_of(history: Mapping[int, float], maximize: bool) -> float | None:
    """Return the best value of a history, or None before there is one."""
    values = [value for value in history.values() if math.isfinite(value)]
    return (max if maximize else min)(values) if values else None


def print_cost(plan: Plan, num_workers: int, words: Sequence[str]) -> dict[str, float] | None:
    """Print the known trials, and the time and the disk that the study will take, from one timed epoch; return them."""
    trials, num_trials = plan.all_trials(), plan.num_trials
    for trial in trials:
        print(utils.escaped(f"{trial.name}  {trial.status()}"))
    if num_trials > len(trials):
        print(f"and {num_trials - len(trials)} that the sampler {plan.settings.sampler} proposes later")
    todo = [trial for trial in trials if not plan.is_done(trial)]
    num_left = num_trials - (len(trials) - len(todo))
    if not num_left:
        print("nothing is left to run")
        return None
    params = todo[0].params if todo else plan.directories.base
    start_seconds, epoch_seconds, num_bytes = time_an_epoch(params, words)
    left = [trial.params.num_epochs - len(trial.history()) for trial in todo] or [params.num_epochs]
    num_epochs, num_together = sum(left) / len(left), min(num_workers, num_left)
    seconds = math.ceil(num_left / num_together) * (start_seconds + num_epochs * epoch_seconds)
    print(f"\n{num_left} of {num_trials} trials to run, {num_epochs:.0f} epochs each, {num_together} at once")
    print(f"one epoch took {duration(epoch_seconds)}, the start before it {duration(start_seconds)}")
    print(f"at most {duration(seconds)} in all, and {num_left * num_bytes / GIGABYTE:.2f} GB of checkpoints")
    return {"num_left": num_left, "num_parallel": num_together, "seconds": seconds, "bytes": num_left * num_bytes}


def time_an_epoch(params: utils.Params, words: Sequence[str]) -> tuple[float, float, int]:
    """Return the seconds of a run without its epochs, the seconds of an epoch, and the bytes of its checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(0, {}, params.model_copy(update={"num_epochs": 1}), Path(folder) / "epoch")
        trial.make()
        command = [sys.executable, str(PROJECT / "train.py"), "--model_dir", str(trial.path), *words]
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        whole = time.monotonic() - start
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            raise utils.Stop(f"the timed epoch failed: {last.removeprefix('error: ')}")
        seconds = trial.history()[0]["seconds"]
        return whole - seconds, seconds, trial.checkpoint_bytes()
