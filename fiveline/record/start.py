"""Where a run begins: with new weights, with another checkpoint's weights, or where its last process stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fiveline.record.check import Resumable, check_values
from fiveline.record.checkpoint import checkpoint_path, is_of_train, read_checkpoint
from fiveline.record.directory import set_aside
from fiveline.record.errors import InputError
from fiveline.record.params import Params
from fiveline.record.run import RunDirectory, has_stopped_early

LAST, PREVIOUS, DAMAGED = "last.pth.tar", "last.previous.pth.tar", "last.damaged.pth.tar"


@dataclasses.dataclass(frozen=True)
class Start:
    """What to begin with."""

    weights: dict[str, Any] | None = None  # the checkpoint with the weights and, to continue, all else; None: new ones
    weights_path: Path = Path()
    is_resumed: bool = False  # whether a run is continued
    is_finished: bool = False
    warnings: tuple[str, ...] = ()  # for the log

    @property
    def facts(self) -> dict[str, Any] | None:
        """What the data had decided when the run began; None to look at the data."""
        return self.weights["facts"] if self.weights is not None and self.is_resumed else None

    def summary(self, path: Path, params: Params) -> str:
        """Return the result of a finished run in one line, and what can be done with it."""
        last = self.weights or {}
        more = "To train on, num_epochs=..."
        if last["epoch"] < params.num_epochs:
            more = f"It stopped early (early_stopping_epochs {params.early_stopping_epochs})"
        best = float("nan") if last["best"] is None else last["best"]
        result = f"{last['epoch']} epochs, best {params.monitor} {best:.4f}"
        return f"{path} is finished: {result}. {more}; to start over, --restart; to score it, evaluate.py"


def find_start(run: RunDirectory, params: Params, restore_file: str | None, restart: bool) -> Start:
    """Look at a run directory and decide; refuse other hyperparameters, other code's runs, and damaged checkpoints."""
    begin = Start()
    if restore_file:
        path = checkpoint_path(run.path, restore_file)
        begin = Start(read_checkpoint(path), path)  # before --restart sets it aside
    if restart:
        set_aside(run.path)
    last_path, last, warnings = _read_last(run.path)
    if last is None or (restore_file and not is_of_train(last)):
        return begin
    if not is_of_train(last):  # CS230's, for example
        hint = "--restore_file last starts from its weights, --restart starts over; both replace it"
        raise InputError(f"{last_path}: made by other code, so it cannot be continued; {hint}")
    is_older = last.get("batches") != "balanced"  # whose batches were cut in another way
    if not is_older:
        check_values(Resumable, last, str(last_path))
    changed = params.differences(last["params"])
    was_restored = run.record().get("restore_file")
    if restore_file != was_restored:
        changed.append(f"--restore_file: {was_restored} -> {restore_file}")
    if changed:
        found = f"holds a run of {last['epoch']} epochs with other hyperparameters ({'; '.join(changed)})"
        raise InputError(f"{run.path}: {found}; take another --model_dir, or --restart to remove it and start over")
    is_finished = last["epoch"] >= params.num_epochs or has_stopped_early(params, last["epoch"], last["best_epoch"])
    if is_older and not is_finished:
        found = "an older version saved it, which cut its batches in another way, so it cannot be continued"
        hint = f"--restart starts over; another --model_dir with --restore_file {last_path} starts from its weights"
        raise InputError(f"{last_path}: {found}. evaluate.py still scores it; {hint}")
    if last_path.name == PREVIOUS and (run.path / LAST).exists():
        # else the damaged `last` would take the place of the whole one before it at the next save
        (run.path / LAST).replace(run.path / DAMAGED)
    return Start(last, last_path, True, is_finished, warnings)


def _read_last(model_dir: Path) -> tuple[Path, dict[str, Any] | None, tuple[str, ...]]:
    """Return the path and the contents of the newest checkpoint that is whole, and warnings about it."""
    last, previous = model_dir / LAST, model_dir / PREVIOUS
    problems: list[str] = []
    for path in (last, previous) if last.exists() or previous.exists() else ():
        hint = f"Continuing from the one before it, {path}; what came after is done again"
        try:
            return path, read_checkpoint(path), tuple(f"- WARNING: {problem}. {hint}" for problem in problems)
        except InputError as error:  # noqa: PERF203
            problems.append(str(error))
    if problems:
        hint = "To start from the best weights, --restore_file best --restart; to start over, --restart"
        raise InputError(f"{'; '.join(problems)}. {hint}")
    return last, None, ()
