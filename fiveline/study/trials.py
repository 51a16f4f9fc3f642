"""The trials of a study and their directories, which are all that it remembers."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import utils
from fiveline.study.space import Space

LONGEST_NAME = 120  # bytes; file systems allow 255, and a person reads less
OUTPUT_FILE = "output.txt"  # what it printed; its log, and whatever came before or after that
NUMBER_FILE = "trial.json"  # which proposal it was; only a sampler that learns from the others needs to know


@dataclasses.dataclass
class Trial:
    """One run of a study.

    Args:
        number: of its configuration, from 0; with several seeds, trials share it
        values: what it was proposed to have, in the order of the space, `seed` included where the study repeats seeds
        params: all of its hyperparameters
        path: its directory, which may not exist yet
    """

    number: int
    values: dict[str, Any]
    params: utils.Params
    path: Path

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    def record(self) -> dict[str, Any]:
        """Return its run.json; empty before it has begun, and where the file is no good."""
        return read_record(self.path)

    def history(self) -> list[dict[str, Any]]:
        """Return its finished epochs."""
        try:
            return utils.RunDirectory(self.path).history()
        except utils.InputError:  # spoilt from outside; the run itself will tell
            return []

    def status(self) -> str:
        """Return `waiting` before it has begun or when it is to go on, else the status of its run.json."""
        record = self.record()
        status = str(record.get("status", "waiting"))
        asked = record.get("params", {}).get("num_epochs", 0)  # by a command that failed since it was finished, perhaps
        wants_more = self.params.num_epochs > (record.get("epochs", 0) if status == "finished" else asked)
        if status == "finished" and self.params.has_stopped_early(record.get("epochs", 0), record.get("best_epoch", 0)):
            return status  # more epochs are not for it
        return "waiting" if status in ("finished", "pruned") and wants_more else status

    def mark(self, status: str, reason: str, **entries: Any) -> None:
        """Write into its record how it ended, where it could not do so itself."""
        try:
            with utils.RunDirectory(self.path) as run:
                run.update_record(status=status, reason=reason, **entries)
        except (utils.Stop, OSError) as error:  # somebody works on it, or its record is spoilt: the study goes on
            logging.warning(f"{error}")

    def last_words(self, code: int) -> str:
        """Return what it said when it ended with an exit code other than 0, or what the code says."""
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"killed by {name}" + (" (out of memory, perhaps)" if code == -signal.SIGKILL else "")
        try:
            lines = utils.read_bytes(self.path / OUTPUT_FILE).decode("utf-8", "replace").split("\n")
        except (OSError, utils.InputError):  # the latter: a pipe, for example
            lines = []
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"exit code {code}" + (f" ({errors[-1] if errors else last})" if errors or last else "")

    def make(self) -> None:
        """Make the directory with its params.json, or bring that up to date; a YAML is left alone.

        Other processes may do the same at once: each file is written whole; params.json, which makes it a trial, last.
        """
        values, path = self.params.explicit_values(), self.path / "params.json"
        try:
            self.path.mkdir(exist_ok=True)
        except FileExistsError:
            raise utils.InputError(f"{self.path}: not a directory, and in the way of a trial; remove it") from None
        if path.exists():
            if _or_empty(utils.read_json, path) != values:
                utils.save_dict_to_json(values, path)
        elif found := sorted(self.path.glob("params.y*ml")):
            self._compare(found[0])  # with both, train.py would not know which one counts
        else:
            utils.save_dict_to_json({"number": self.number}, self.path / NUMBER_FILE)
            utils.save_dict_to_json(values, path)

    def _compare(self, path: Path) -> None:
        """Raise InputError if a params file of the user's own does not say what the trial is to be run with."""
        values, mistakes = utils.read_values(path)
        theirs = type(self.params).from_values(values, str(path), mistakes).model_dump(mode="json")
        ours = self.params.model_dump(mode="json")
        changed = [f"{name}: {theirs[name]!r} -> {ours[name]!r}" for name in ours if theirs[name] != ours[name]]
        if changed:
            raise utils.InputError(
                f"{path}: the study runs this trial with another {'; '.join(changed)}; write that into it, or remove it"
            )


def read_record(folder: Path) -> dict[str, Any]:
    """Return a run.json; empty where there is none, or none that can be read."""
    return _or_empty(utils.RunDirectory(folder).record)


def _or_empty(read: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    try:
        return read(*args)
    except utils.InputError:
        return {}


def trial_name(values: Mapping[str, Any]) -> str:
    """Return a directory name that tells the values, `learning_rate_0.001`, and that stays in its folder."""
    texts = {
        name: value if isinstance(value, str) else utils.to_json(value, indent=None) for name, value in values.items()
    }
    name = "__".join(f"{key}_{text}" for key, text in texts.items())
    safe = re.sub(r"[^\w.+=-]", "_", name)
    if safe == name and len(safe.encode()) <= LONGEST_NAME:
        return safe
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]  # what is replaced or cut off still tells trials apart
    return f"{safe.encode()[:LONGEST_NAME].decode(errors='ignore')}_{digest}"


class Directories:
    """What is in a study's folder: the runs that belong to its space, found by what they are, not by their names.

    Args:
        parent_dir: the study's folder
        base: the hyperparameters that the trials have in common
        space: what varies
        seeds: that each configuration is run with; none for the base's own

    Raises:
        InputError: the folder cannot be read
    """

    def __init__(self, parent_dir: Path, base: utils.Params, space: Space, seeds: Sequence[int]) -> None:
        self.parent_dir, self.base, self.space, self.seeds = parent_dir, base, space, seeds
        self.others: list[str] = []  # runs in the folder that are not of this space
        self._folders: dict[str, Path] = {}  # identity -> directory
        self._numbers: dict[str, int] = {}  # configuration -> its number, -1 where none is written down
        for folder in sorted(path for path in parent_dir.iterdir() if path.is_dir() and path.name[0] != "."):
            if any((folder / name).exists() for name in ("run.json", "params.json")):
                self._look_at(folder)

    def _look_at(self, folder: Path) -> None:
        try:
            values = read_record(folder).get("params") or utils.read_json(folder / "params.json")
            params = type(self.base).from_values(values, str(folder))
            chosen = self.space.choices_in(params.model_dump(mode="json"))
            identity = self._identity(params)
            ours = None if chosen is None else self._fetch(self._run_with(chosen, params.seed))
            is_ours = ours is not None and identity == self._identity(ours)
        except utils.InputError:  # a run of another task or of older code
            is_ours = False
        if not is_ours or identity in self._folders:
            self.others.append(folder.name)
            return
        self._folders[identity] = folder
        key = utils.to_json(chosen, indent=None)
        self._numbers[key] = max(_read_number(folder), self._numbers.get(key, -1))

    def _identity(self, params: utils.Params) -> str:
        """Return a hash of the hyperparameters; a run that is to train for longer is still the same."""
        return (params if "num_epochs" in self.space.names else params.model_copy(update={"num_epochs": 1})).hash()

    def _run_with(self, chosen: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return {**chosen, "seed": seed} if seed in self.seeds else dict(chosen)

    def _fetch(self, values: Mapping[str, Any]) -> utils.Params:
        return type(self.base).from_values({**self.base.explicit_values(), **values}, trial_name(values))

    def configurations(self) -> dict[int, dict[str, Any]]:
        """Return what was proposed already, by its number; the lowest free ones for those that have none."""
        configurations: dict[int, dict[str, Any]] = {}
        homeless = []
        for key, number in sorted(self._numbers.items(), key=lambda item: item[1]):
            if number < 0 or number in configurations:
                homeless.append(key)
            else:
                configurations[number] = json.loads(key)
        free = (number for number in itertools.count() if number not in configurations)
        numbered = {next(free): json.loads(key) for key in homeless}
        return dict(sorted((configurations | numbered).items()))

    def trials(self, number: int, chosen: Mapping[str, Any]) -> list[Trial]:
        """Return the runs of a configuration, one for each seed, in the directories where they are or will be.

        Raises:
            InputError: the values do not go together, or a directory of that name holds something else
        """
        trials = []
        for values in [{**chosen, "seed": seed} for seed in self.seeds] or [dict(chosen)]:
            params = self._fetch(values)
            folder = self._folders.get(self._identity(params))
            if folder is None:
                folder = self.parent_dir / trial_name(values)
                self._check_free(folder, params)
            trials.append(Trial(number, values, params, folder))
        return trials

    def add(self, trial: Trial) -> None:
        """Take note of a trial that is about to get its directory."""
        self._folders[self._identity(trial.params)] = trial.path

    def has(self, chosen: Mapping[str, Any]) -> bool:
        """Return whether there is a run of a configuration already."""
        values = self._run_with(chosen, self.seeds[0]) if self.seeds else chosen
        return self._identity(self._fetch(values)) in self._folders

    def _check_free(self, folder: Path, params: utils.Params) -> None:
        before = read_record(folder).get("params")
        if not (folder / "run.json").exists() and (folder / NUMBER_FILE).exists():
            return
        if before is None and not (folder / "params.json").exists():
            return
        before = before or utils.read_json(folder / "params.json")
        with contextlib.suppress(utils.InputError):  # of another task, or of older code
            if self._identity(type(self.base).from_values(before, str(folder))) == self._identity(params):
                return  # another process has made it since this one looked around
        changed = "; ".join(params.differences(before)) or "something that cannot be read"
        raise utils.InputError(
            f"{folder}: has begun with another {changed}; remove the directory to run it anew, or take another "
            "--parent_dir"
        )


def _read_number(folder: Path) -> int:
    number = _or_empty(utils.read_json, folder / NUMBER_FILE).get("number")
    return number if isinstance(number, int) else -1
