"""A trial of a study: a run directory, which is all that the study remembers of it."""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import utils

OUTPUT_FILE = "output.txt"  # all that the trial's process prints: the log, and what comes before and after it
NUMBER_FILE = "trial.json"  # the number of its proposal, which matters only to a sampler that learns from the others
ENDED = ("finished", "pruned", "diverged", "failed")

T = TypeVar("T")


@dataclasses.dataclass
class Trial:
    """One run of a study."""

    number: int  # of its configuration, from 0; with several seeds, trials share it
    values: dict[str, Any]  # of what the study varies, in the order of the space, and of `seed` where it repeats seeds
    params: utils.Params  # all of its hyperparameters
    path: Path  # its directory, which may not exist yet

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    def record(self) -> dict[str, Any]:
        """Return its run.json; empty before it has begun, and if the file cannot be read."""
        return read_record(self.path)

    def history(self) -> list[dict[str, Any]]:
        """Return its finished epochs; empty if the file cannot be read, which the run itself will report."""
        return or_none(utils.RunDirectory(self.path).history) or []

    def monitored(self) -> dict[int, float]:
        """Return the monitored metric of each finished epoch, from 1."""
        pairs = [(row.get("epoch"), row.get("val", {}).get(self.params.monitor)) for row in self.history()]
        numbered = [(epoch, value) for epoch, value in pairs if isinstance(epoch, int)]
        return {epoch: math.nan if value is None else float(value) for epoch, value in numbered}  # JSON has no NaN

    def status(self) -> str:
        """Return `waiting` before it has begun or when it is to train for longer, else the status of its run.json."""
        record = self.record()
        status, epochs = str(record.get("status", "waiting")), record.get("epochs", 0)
        if status == "finished" and utils.has_stopped_early(self.params, epochs, record.get("best_epoch", 0)):
            return status
        # a finished run's params may come from a later command that requested more epochs and failed
        trained = epochs if status == "finished" else record.get("params", {}).get("num_epochs", 0)
        return "waiting" if status in ("finished", "pruned") and self.params.num_epochs > trained else status

    def mark(self, **entries: Any) -> None:
        """Write into its record how it ended, where it could not do so itself."""
        try:
            with utils.RunDirectory(self.path) as run:
                run.update_record(**entries)
        except (utils.Stop, OSError) as error:  # in use, or its record is corrupted: the study goes on
            logging.warning(f"{error}")

    def last_words(self, code: int) -> str:
        """Return the meaning of an exit code other than 0, with the last error in the trial's output."""
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"killed by {name}" + (" (out of memory, perhaps)" if code == -signal.SIGKILL else "")
        try:
            text = utils.read_bytes(self.path / OUTPUT_FILE).decode("utf-8", "replace")
        except (OSError, utils.InputError):  # the latter: a pipe, for example
            text = ""
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
        return f"exit code {code}" + (f" ({errors[-1]})" if errors else "")

    def checkpoints(self) -> list[Path]:
        """Return its checkpoint files."""
        return sorted(self.path.glob("*.pth.tar"))

    def checkpoint_bytes(self) -> int:
        """Return the size of its checkpoints; a file with two names counts once."""
        stats = [path.stat() for path in self.checkpoints()]
        return sum({status.st_ino: status.st_size for status in stats}.values())

    def make(self) -> None:
        """Make the directory with its params.json, or update that file; other processes may do the same at once."""
        values, path = self.params.explicit_values(), self.path / "params.json"
        try:
            self.path.mkdir(exist_ok=True)
        except FileExistsError:
            raise utils.InputError(f"{self.path}: not a directory, and in the way of a trial; remove it") from None
        if others := sorted(self.path.glob("params.y*ml")):  # train.py takes one params file only
            raise utils.InputError(f"{others[0]}: in the way of the params.json that the study writes; remove it")
        if not path.exists():
            utils.save_dict_to_json({"number": self.number}, self.path / NUMBER_FILE)
        if or_none(utils.read_json, path) != values:
            utils.save_dict_to_json(values, path)  # this file, which makes it a trial, comes last


def read_record(folder: Path) -> dict[str, Any]:
    """Return a run.json; empty if it is missing or cannot be read."""
    return or_none(utils.RunDirectory(folder).record) or {}


def or_none(read: Callable[..., T], *args: Any) -> T | None:
    """Return the result of a function that reads a file, or None if it raises InputError."""
    try:
        return read(*args)
    except utils.InputError:
        return None
