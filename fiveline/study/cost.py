"""What a study will cost, from one timed epoch."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import utils
from fiveline.study.plan import Plan
from fiveline.study.trials import Trial
from fiveline.study.view import duration

PROJECT = Path(__file__).resolve().parents[2]


def print_plan(plan: Plan) -> None:
    """Print the trials that are known, one a line, with their status."""
    for trial in plan.all_trials():
        print(utils.escaped(f"{trial.name}  {trial.status()}"))
    unknown = plan.num_trials - len(plan.all_trials())
    if unknown:
        print(f"and {unknown} that the sampler {plan.settings.sampler} proposes as it goes")


def print_cost(plan: Plan, num_workers: int, words: Sequence[str]) -> None:
    """Train one epoch of a trial somewhere else, and print what the rest will take.

    Raises:
        Stop: the epoch cannot be trained; the message of the run
    """
    todo = [trial for trial in plan.all_trials() if not plan.is_done(trial)]
    num_left = plan.num_trials - (len(plan.all_trials()) - len(todo))
    if not num_left:
        print("nothing is left to run")
        return
    params = todo[0].params if todo else plan.directories.base
    start_seconds, epoch_seconds, num_bytes = time_an_epoch(params, words)
    mean_epochs = sum(trial.params.num_epochs - len(trial.history()) for trial in todo) / max(1, len(todo))
    epochs = mean_epochs if todo else params.num_epochs
    num_together = min(num_workers, num_left)
    seconds = math.ceil(num_left / num_together) * (start_seconds + epochs * epoch_seconds)
    print(
        f"\n{num_left} of {plan.num_trials} trials to run, {epochs:.0f} epochs each, {num_together} at once; one epoch "
        f"took {epoch_seconds:.1f} s, the start before it {start_seconds:.1f} s\n"
        f"at most {duration(seconds)} in all ({seconds / 3600:.2f} hours), and "
        f"{num_left * num_bytes / 1e9:.2f} GB of checkpoints" + ("; pruning saves of both" if _prunes(plan) else "")
    )


def _prunes(plan: Plan) -> bool:
    return plan.settings.pruner != "none"


def time_an_epoch(params: utils.Params, words: Sequence[str]) -> tuple[float, float, int]:
    """Return the seconds that a run takes besides its epochs, those of one epoch, and the bytes of its checkpoints."""
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
        num_bytes = sum({p.stat().st_ino: p.stat().st_size for p in trial.path.glob("*.pth.tar")}.values())
        return whole - seconds, seconds, num_bytes
