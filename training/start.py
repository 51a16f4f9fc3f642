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
        epoch: epochs that are complete; 0 unless a run is continued
        best: the best value of the monitored metric in them
        facts: what the data had decided for them; None to look at the data
        is_finished: whether nothing is left to do
    """

    weights: dict[str, Any] | None = None
    weights_path: Path = Path()
    epoch: int = 0
    best: float = float("nan")
    facts: dict[str, Any] | None = None
    is_finished: bool = False


def find_start(run: utils.RunDirectory, params: utils.Params, restore_file: str | None, restart: bool) -> Start:
    """Look at a run directory and decide.

    Args:
        run: the directory
        params: the hyperparameters asked for
        restore_file: a checkpoint's name in the directory (`best`), or its path; its weights are the beginning
        restart: whether to remove what an earlier run left

    Raises:
        InputError: the directory holds a run with other hyperparameters, or one of other code
    """
    begin = _restored(run.path, restore_file) if restore_file else Start()  # read before --restart removes it
    if restart:
        run.clear()
    last_path = run.path / "last.pth.tar"
    if not last_path.exists():
        return begin
    last = utils.read_checkpoint(last_path)
    if "params" not in last:  # CS230's, say
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
    return Start(last, last_path, last["epoch"], best, last["facts"], finished)


def _restored(model_dir: Path, restore_file: str) -> Start:
    path = Path(restore_file)
    if not path.name.endswith(".pth.tar"):
        path = model_dir / f"{restore_file}.pth.tar"
    return Start(utils.read_checkpoint(path), path)
