"""Where a run begins: anew, from the weights of another checkpoint, or where its last process stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import utils

BEST, LAST = "best.pth.tar", "last.pth.tar"
PREVIOUS, DAMAGED = "last.previous.pth.tar", "last.damaged.pth.tar"


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

    def told(self, path: Path, params: utils.Params) -> str:
        """Return what there is to say of a run that is finished, and what can be done with it."""
        result = f"{self.epoch} epochs, best {params.monitor} {self.best:.4f}"
        if self.epoch < params.num_epochs:
            more = f"It stopped early (early_stopping_epochs {params.early_stopping_epochs}): it does not train on"
        else:
            more = "To train on, num_epochs=..."
        return f"{path} is finished: {result}. {more}; to begin anew, --restart; to score it, evaluate.py"


def find_start(run: utils.RunDirectory, params: utils.Params, restore_file: str | None, restart: bool) -> Start:
    """Look at a run directory and decide.

    Args:
        run: the directory
        params: the hyperparameters asked for
        restore_file: a checkpoint's name in the directory (`best`), or its path; its weights are the beginning
        restart: whether to begin anew, in place of what an earlier run left

    Raises:
        InputError: the directory holds a run with other hyperparameters, one of other code, or damaged checkpoints; or
            the params ask for TensorBoard, and there is none
    """
    begin = _restored(run.path, restore_file) if restore_file else Start()  # read before --restart puts it aside
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
            "--restart begins anew (both replace it). In a study, move the folder away"
        )
    utils.check_run(last, last_path)
    changed = params.differences(last["params"])
    was_restored = run.record().get("restore_file")
    if restore_file != was_restored:
        changed.append(f"--restore_file: {was_restored} -> {restore_file}")
    if changed:
        raise utils.InputError(
            f"{run.path}: holds a run of {last['epoch']} epochs with other hyperparameters ({'; '.join(changed)}); "
            "take another --model_dir, or --restart to remove it and begin anew"
        )
    if last_path.name == PREVIOUS:
        _put_aside(run.path / LAST)
    finished = last["epoch"] >= params.num_epochs or params.has_stopped_early(last["epoch"], last["best_epoch"])
    best = last["best"] if last["best"] is not None else float("nan")
    if "best_loss" not in last:  # an older checkpoint: the loss that a tie must beat stands in the history
        losses = [row["val"].get("loss") for row in run.history() if row["epoch"] == last["best_epoch"]]
        last["best_loss"] = losses[0] if losses else None
    return Start(last, last_path, True, last["epoch"], best, last["facts"], finished, warnings)


def _read_last(model_dir: Path) -> tuple[Path, dict[str, Any] | None, tuple[str, ...]]:
    """Return the newest checkpoint that is whole, its path, and what there is to say about it."""
    last, previous = model_dir / LAST, model_dir / PREVIOUS
    if not last.exists() and not previous.exists():
        return last, None, ()
    try:
        return last, utils.read_checkpoint(last), ()
    except utils.InputError as error:
        told = str(error)
    try:
        state = utils.read_checkpoint(previous)
    except utils.InputError as error:
        told += f"; {error}" if previous.exists() else ""
        raise utils.InputError(
            f"{told}. To start from the best weights, --restore_file best --restart; to begin anew, --restart"
        ) from None
    return (
        previous,
        state,
        (f"- WARNING: {told}. Continuing from the one before it, {previous}; what came after is done again",),
    )


def check_nothing_is_lost(run: utils.RunDirectory, epoch: int) -> None:
    """Check that training may write into a directory. A notebook's cell that is run again would replace a run there.

    Args:
        run: the directory
        epoch: epochs that are complete in what is to be trained

    Raises:
        OtherRunError: the directory holds a run that has got further
    """
    if not run.is_writer or len(run.history()) <= epoch:  # of train.py, there are no more than the checkpoint holds
        return
    _, last, _ = _read_last(run.path)
    num_epochs = last["epoch"] if last is not None else len(run.history()) if (run.path / BEST).exists() else 0
    if num_epochs > epoch:
        raise utils.OtherRunError(
            f"{run.path}: holds a run of {num_epochs} epochs, which this one, of {epoch} so far, would replace; "
            "take another folder or remove this one; to continue, "
            "state.load_state_dict(utils.load_checkpoint(path, model))"
        )


def _put_aside(damaged: Path) -> None:
    """Rename a damaged `last`, which would otherwise take the place of the whole one before it at the next save."""
    if damaged.exists():
        damaged.replace(damaged.with_name(DAMAGED))


def _restored(model_dir: Path, restore_file: str) -> Start:
    path = utils.checkpoint_path(model_dir, restore_file)
    return Start(utils.read_checkpoint(path), path)
