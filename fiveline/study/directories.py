"""The runs in a study's folder that belong to its space, recognised by their hyperparameters, not by their names."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import utils
from fiveline.study.space import Space
from fiveline.study.trials import NUMBER_FILE, Trial, or_none, read_record

LONGEST_NAME = 120  # bytes; file systems allow 255, and people read less


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
            params = self._fetch(values)
            identity = self._identity(params)
            if identity not in self._folders:
                folder = self.parent_dir / trial_name(values)
                self._check_free(folder, params)
                self._folders[identity] = folder
            trials.append(Trial(number, values, params, self._folders[identity]))
        return trials

    def has(self, chosen: Mapping[str, Any]) -> bool:
        """Return whether there is a run of a configuration already."""
        return self._identity(self._fetch(self._each_seed(chosen)[0])) in self._folders

    def _check_free(self, folder: Path, params: utils.Params) -> None:
        """Raise InputError if a directory holds another run; one that a study has made, but not begun, is free."""
        has_begun = (folder / "run.json").exists()
        if folder.name in self.others and (has_begun or not (folder / NUMBER_FILE).exists()):
            changed = "; ".join(params.differences(or_none(read_params, folder) or {})) or "params file"
            raise utils.InputError(
                f"{folder}: has begun with another {changed}; remove the directory, or take another --parent_dir"
            )


def read_params(folder: Path) -> dict[str, Any]:
    """Return the hyperparameters that a run has begun with; before its start, the ones in its params.json."""
    values: dict[str, Any] = read_record(folder).get("params") or utils.read_json(folder / "params.json")
    return values
