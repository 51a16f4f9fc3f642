"""What a study takes: time, from one timed epoch, and disk, from which the worst trials' checkpoints are deleted."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import utils
from fiveline.report.table import duration
from fiveline.study.plan import Plan
from fiveline.study.trials import ENDED, Trial

PROJECT = Path(__file__).resolve().parents[2]
GIGABYTE = 1e9


def delete_checkpoints(plan: Plan, max_gigabytes: float) -> list[str]:
    """Delete the worst ended trials' checkpoints until the rest is small enough; return a line for each such trial."""
    maximize, sizes, ended = plan.is_maximized(), {}, []
    for trial in plan.all_trials():
        record, sizes[trial.name] = trial.record(), trial.checkpoint_bytes()
        if record.get("status") in ENDED and sizes[trial.name]:
            standing = utils.standing(record.get("best"), record.get("best_loss"), maximize) or (-math.inf, -math.inf)
            ended.append((standing, trial.name, trial))
    total, lines = sum(sizes.values()), []
    for _, name, trial in sorted(ended, key=lambda entry: entry[:2])[:-1]:  # the last is the best, which keeps its own
        if total > max_gigabytes * GIGABYTE:
            for path in trial.checkpoints():
                path.unlink()
            total -= sizes[name]
            lines.append(f"{name}: gave up its checkpoints (max_gigabytes {max_gigabytes:g})")
    return lines


def print_cost(plan: Plan, num_workers: int, words: Sequence[str]) -> None:
    """Print the known trials, and the time and the disk that the study will take, from one timed epoch."""
    trials = plan.all_trials()
    for trial in trials:
        print(utils.escaped(f"{trial.name}  {trial.status()}"))
    if plan.num_trials > len(trials):
        print(f"and {plan.num_trials - len(trials)} that the sampler {plan.settings.sampler} proposes as it goes")
    todo = [trial for trial in trials if not plan.is_done(trial)]
    num_left = plan.num_trials - (len(trials) - len(todo))
    if not num_left:
        print("nothing is left to run")
        return
    params = todo[0].params if todo else plan.directories.base
    start_seconds, epoch_seconds, num_bytes = time_an_epoch(params, words)
    left = [trial.params.num_epochs - len(trial.history()) for trial in todo] or [params.num_epochs]
    num_epochs, num_together = sum(left) / len(left), min(num_workers, num_left)
    seconds = math.ceil(num_left / num_together) * (start_seconds + num_epochs * epoch_seconds)
    print(
        f"\n{num_left} of {plan.num_trials} trials to run, {num_epochs:.0f} epochs each, {num_together} at once; one "
        f"epoch took {duration(epoch_seconds)}, the start before it {duration(start_seconds)}\n"
        f"at most {duration(seconds)} in all ({seconds / 3600:.2f} hours), and "
        f"{num_left * num_bytes / GIGABYTE:.2f} GB of checkpoints"
        + ("; pruning reduces both" if plan.settings.pruner != "none" else "")
    )


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
