"""The disk that a study may use: trials that lose give up their checkpoints, never their metrics."""

from __future__ import annotations

from collections.abc import Sequence

import utils
from fiveline.study.trials import Trial

CHECKPOINTS = "*.pth.tar"
GIGABYTE = 1e9
NOTHING = (float("-inf"), float("-inf"))  # what a trial without a result is worth


def give_up_checkpoints(trials: Sequence[Trial], max_gigabytes: float, maximize: bool) -> list[str]:
    """Remove the checkpoints of the worst trials that have ended until the rest is small enough; never the best one's.

    Args:
        trials: of the study
        max_gigabytes: for the checkpoints of all of them
        maximize: whether more of the monitored metric is better

    Returns:
        the names of the trials that gave theirs up
    """
    sizes = {trial.name: checkpoint_bytes(trial) for trial in trials}
    total = sum(sizes.values())
    ended = []
    for trial in trials:
        record = trial.record()
        if record.get("status") in ("finished", "pruned", "diverged", "failed") and sizes[trial.name]:
            worth = utils.standing(record.get("best"), record.get("best_loss"), maximize) or NOTHING
            ended.append((worth, trial.name, trial))
    ended.sort(key=lambda entry: entry[:2])
    given_up = []
    for _, name, trial in ended[:-1]:  # the last is the best
        if total <= max_gigabytes * GIGABYTE:
            break
        for path in trial.path.glob(CHECKPOINTS):
            path.unlink()
        total -= sizes[name]
        given_up.append(name)
    return given_up


def checkpoint_bytes(trial: Trial) -> int:
    """Return the bytes that a trial's checkpoints take; a file of two names counts once."""
    stats = [path.stat() for path in trial.path.glob(CHECKPOINTS)]
    return sum({status.st_ino: status.st_size for status in stats}.values())
