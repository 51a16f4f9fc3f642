"""The run directories of a study, its only memory: they show which trials exist and belong to its space."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
import math
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import utils
from fiveline.study.space import Space

OUTPUT_FILE = "output.txt"  # all that the trial's process prints: the log, and what comes before and after it
NUMBER_FILE = "trial.json"  # the number of its proposal, which matters only to a sampler that learns from the others
CHECKPOINTS = "*.pth.tar"
LONGEST_NAME = 120  # bytes; file systems allow 255, and people read less
ENDED = ("finished", "pruned", "diverged", "failed")

T = TypeVar("T")


@dataclasses.dataclass
class Trial:
    """One run of a study."""

    number: int  # its configuration's, from 0; trials that differ in their seed share it
    values: dict[str, Any]  # the varied hyperparameters, in the space's order, and `seed` if several are run
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
        except (OSError, utils.InputError):  # InputError: a pipe, for example
            text = ""
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
        return f"exit code {code}" + (f" ({errors[-1]})" if errors else "")

    def checkpoint_bytes(self) -> int:
        """Return the size of its checkpoints; a file with two names counts once."""
        stats = [path.stat() for path in self.path.glob(CHECKPOINTS)]
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


def trial_name(values: Mapping[str, Any]) -> str:
    """Return the directory's name for these values, such as `learning_rate_0.001`; never a path out of its folder."""
    name = "__".join(f"{k}_{v if isinstance(v, str) else utils.to_json(v, indent=None)}" for k, v in values.items())
    safe = re.sub(r"[^\w.+=-]", "_", name)
    if safe == name and len(safe.encode()) <= LONGEST_NAME:
        return safe
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]  # tells names apart that differ in a lost character
    return f"{safe.encode()[:LONGEST_NAME].decode(errors='ignore')}_{digest}"


class Directories:
    """The trials' directories; the trials have the base's hyperparameters, except for the space and the seeds."""

    def __init__(self, parent_dir: Path, base: utils.Params, space: Space, seeds: Sequence[int]) -> None:
        self.parent_dir, self.base, self.space, self.seeds = parent_dir, base, space, seeds
        self.others: list[str] = []  # runs in the folder that are not of this space
        self._folders: dict[str, Path] = {}  # identity -> directory
        self._numbers: dict[str, int] = {}  # configuration -> its number, -1 where the directory does not say
        for folder in sorted(path for path in parent_dir.iterdir() if path.is_dir() and path.name[0] != "."):
            if any((folder / name).exists() for name in ("run.json", "params.json")):
                self._look_at(folder)

    def _look_at(self, folder: Path) -> None:
        """Adopt a run of this space."""
        try:
            params = type(self.base).from_values(read_params(folder), str(folder))
            chosen, identity = self.space.choices_in(params.model_dump(mode="json")), self._identity(params)
            ours = {**(chosen or {}), **({"seed": params.seed} if params.seed in self.seeds else {})}
            is_ours = chosen is not None and identity == self._identity(self._fetch(ours))
        except utils.InputError:  # a run of another task or of older code
            is_ours = False
        if not is_ours or identity in self._folders:
            self.others.append(folder.name)
            return
        self._folders[identity] = folder
        number = (or_none(utils.read_json, folder / NUMBER_FILE) or {}).get("number")
        key = utils.to_json(chosen, indent=None)
        self._numbers[key] = max(number if isinstance(number, int) else -1, self._numbers.get(key, -1))

    def _each_seed(self, chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{**chosen, "seed": seed} for seed in self.seeds] or [dict(chosen)]

    def _identity(self, params: utils.Params) -> str:
        """Return a hash of the hyperparameters; a run that is to train for longer is still the same."""
        return (params if "num_epochs" in self.space.names else params.model_copy(update={"num_epochs": 1})).hash()

    def _fetch(self, values: Mapping[str, Any]) -> utils.Params:
        return type(self.base).from_values({**self.base.explicit_values(), **values}, trial_name(values))

    def configurations(self) -> dict[int, dict[str, Any]]:
        """Return the configurations found, by number; the lowest free numbers for those that have none."""
        keys = {number: key for key, number in reversed(self._numbers.items()) if number >= 0}
        numbered = set(keys.values())
        free = (number for number in itertools.count() if number not in keys)
        keys |= {next(free): key for key in self._numbers if key not in numbered}
        return {number: json.loads(key) for number, key in sorted(keys.items())}

    def trials(self, number: int, chosen: Mapping[str, Any]) -> list[Trial]:
        """Return the runs of a configuration, one for each seed, in the directories where they are or will be."""
        trials = []
        for values in self._each_seed(chosen):
            params, folder = self._fetch(values), self.parent_dir / trial_name(values)
            identity = self._identity(params)
            if identity not in self._folders:
                self._check_free(folder, params)
            trials.append(Trial(number, values, params, self._folders.setdefault(identity, folder)))
        return trials

    def has(self, chosen: Mapping[str, Any]) -> bool:
        """Return whether there is a run of a configuration already."""
        return self._identity(self._fetch(self._each_seed(chosen)[0])) in self._folders

    def _check_free(self, folder: Path, params: utils.Params) -> None:
        """Raise InputError if a directory holds another run; one that a study has made, but not begun, is free."""
        has_begun = (folder / "run.json").exists()
        if folder.name in self.others and (has_begun or not (folder / NUMBER_FILE).exists()):
            changed = "; ".join(params.differences(or_none(read_params, folder) or {})) or "params file"
            advice = "remove the directory, or take another --parent_dir"
            raise utils.InputError(f"{folder}: has begun with another {changed}; {advice}")


def read_params(folder: Path) -> Any:
    """Return the hyperparameters that a run has begun with; before its start, the ones in its params.json."""
    return read_record(folder).get("params") or utils.read_json(folder / "params.json")


def read_record(folder: Path) -> dict[str, Any]:
    """Return a run.json; empty if it is missing or cannot be read."""
    return or_none(utils.RunDirectory(folder).record) or {}


def or_none(read: Callable[..., T], *args: Any) -> T | None:
    """Return the result of a function that reads a file, or None if this function raises InputError."""
    try:
        return read(*args)
    except utils.InputError:
        return None
