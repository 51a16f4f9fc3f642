"""A run's history for TensorBoard: `tensorboard --logdir experiments` shows it while it is trained.

The events are written from the history alone, so the two cannot differ. When a run continues, its events are written
again. Only `tensorboard=true` needs `pip install tensorboard`.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import Any

import utils

PATTERN = "events.out.tfevents.*"


def check_installed() -> None:
    """Stop before anything is trained if there is no TensorBoard.

    Raises:
        InputError: the package is missing; says how to get it
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise utils.InputError(
            "tensorboard: the package is not installed; pip install tensorboard, or tensorboard=false"
        )


class Events:
    """The events of one run, in its directory: `accuracy/train`, `accuracy/val` and so on, a step an epoch.

    Args:
        run: where to write; events of an earlier process are replaced
        params: shown beside the last metrics, in TensorBoard's table of hyperparameters
    """

    def __init__(self, run: utils.RunDirectory, params: utils.Params) -> None:
        self.run, self.params = run, params
        self._writer: Any = None  # torch's SummaryWriter, once there is something to write

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add epochs. They are in the file when this returns.

        Args:
            rows: as in history.jsonl, which holds them already
        """
        if self._writer is None:
            rows = self.run.history()
            self._writer = self._begin(rows)
        at = time.time() - sum(row["seconds"] for row in rows)  # as if it had been trained without a pause
        for row in rows:
            at += row["seconds"]
            for tag, value in _scalars(row).items():
                self._writer.add_scalar(tag, value, row["epoch"], walltime=at)
        self._writer.flush()

    def close(self) -> None:
        """End the session."""
        if self._writer is not None:
            self._writer.file_writer.add_summary(self._session(())[2])
            self._writer.close()

    def _begin(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Remove the events of earlier processes and begin new ones."""
        from torch.utils.tensorboard import SummaryWriter

        for path in sorted(self.run.path.glob(PATTERN)):
            path.unlink()
        # purge_step: a TensorBoard that looks on forgets what it has read from the files that are gone
        writer: Any = SummaryWriter(str(self.run.path), purge_step=rows[0]["epoch"])
        for summary in self._session(_scalars(rows[0]))[:2]:
            writer.file_writer.add_summary(summary)
        return writer

    def _session(self, tags: Any) -> tuple[Any, Any, Any]:
        """Return the three summaries of TensorBoard's table of hyperparameters: names, values, end."""
        from torch.utils.tensorboard.summary import hparams

        values = {
            name: value if isinstance(value, (bool, int, float, str)) else utils.to_json(value, indent=None)
            for name, value in self.params.model_dump(mode="json").items()
        }
        return hparams(values, dict.fromkeys(tags, 0.0))


def _scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return an epoch's numbers by TensorBoard's tags."""
    metrics = {f"{name}/{split}": value for split in ("train", "val") for name, value in row[split].items()}
    others = {name: row[name] for name in ("learning_rate", "examples_per_second")}
    return {tag: value for tag, value in {**metrics, **others}.items() if value is not None}  # JSON's null was NaN
