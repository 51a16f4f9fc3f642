"""Where a run begins: anew, from the weights of another checkpoint, or where its last process stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import utils
from training.state import has_stopped_early


@dataclasses.dataclass(frozen=True)
class Start:
    """What to begin with.

    Args:
        weights: the checkpoint to take weights from, and, to continue, everything else; None to begin anew
        weights_path: where it was read
        is_resumed: whether a run is continued
        epoch: epochs that are complete
        best: the best value of the monitored metric in them
        facts: what the data had decided for them; None to look at the data
        is_finished: whether nothing is left to do
        warnings: for the log
    """

    weights: dict[str, Any] | None = None
    weights_path: Path = Path()
    is_resumed: bool = False
    epoch: int = 0
    best: float = float("nan")
    facts: dict[str, Any] | None = None
    is_finished: bool = False
    warnings: tuple[str, ...] = ()


def find_start(run: utils.RunDirectory, params: utils.Params, restore_file: str | None, restart: bool) -> Start:
    """Look at a run directory and decide.

    Args:
        run: the directory
        params: the hyperparameters asked for
        restore_file: a checkpoint's name in the directory (`best`), or its path; its weights are the beginning
        restart: whether to remove what an earlier run left

    Raises:
        InputError: the directory holds a run with other hyperparameters, one of other code, or damaged checkpoints
    """
    begin = _restored(run.path, restore_file) if restore_file else Start()  # read before --restart removes it
    if restart:
        run.clear()
    last_path, last, warnings = _read_last(run.path)
    if last is None:
        return begin
    if not utils.is_ours(last):  # CS230's, say
        if restore_file:
            return begin
        raise utils.InputError(
            f"{last_path}: made by other code, so it cannot be continued; --restore_file last starts from its weights, "
            "--restart begins anew (both replace it)"
        )
    changed = params.differences(last["params"])
    was_restored = run.record().get("restore_file")
    if restore_file != was_restored:
        changed.append(f"--restore_file: {was_restored} -> {restore_file}")
    if changed:
        raise utils.InputError(
            f"{run.path}: holds a run of {last['epoch']} epochs with other hyperparameters ({'; '.join(changed)}); "
            "take another --model_dir, or --restart to remove it and begin anew"
        )
    finished = last["epoch"] >= params.num_epochs or has_stopped_early(last["epoch"], last["best_epoch"], params)
    best = last["best"] if last["best"] is not None else float("nan")
    return Start(last, last_path, True, last["epoch"], best, last["facts"], finished, warnings)


def _read_last(model_dir: Path) -> tuple[Path, dict[str, Any] | None, tuple[str, ...]]:
    """Return the newest checkpoint that is whole, its path, and what there is to say about it."""
    last, previous = (model_dir / name for name in ("last.pth.tar", "last.previous.pth.tar"))
    if not last.exists():
        return last, None, ()
    try:
        return last, utils.read_checkpoint(last), ()
    except utils.InputError as error:
        if not previous.exists():
            raise utils.InputError(
                f"{error}; --restore_file best starts from the best weights, --restart anew"
            ) from None
        warning = f"- WARNING: {error}. Continuing from the one before it, {previous}; what came after is done again"
        return previous, utils.read_checkpoint(previous), (warning,)


def _restored(model_dir: Path, restore_file: str) -> Start:
    path = utils.checkpoint_path(model_dir, restore_file)
    return Start(utils.read_checkpoint(path), path)
