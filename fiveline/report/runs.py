"""Run directories, as far as a table needs them: hyperparameters, metrics, status. Nothing is trusted, nothing written.

A directory counts as a run if it holds a `run.json` or CS230's `metrics_val_best_weights.json`. A file that is torn,
foreign, huge or unreadable costs its own values only, and one line in the list of problems.
"""

from __future__ import annotations

import dataclasses
import os
import reprlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fiveline.record.errors import InputError
from fiveline.report.data import name_groups
from fiveline.report.files import PARAMS_FILES, flatten, read_json, read_params
from fiveline.report.lock import is_held

RUN_FILE, VAL_FILE, TEST_FILE = "run.json", "metrics_val_best_weights.json", "metrics_test_best.json"
SIGNS = frozenset((RUN_FILE, VAL_FILE, TEST_FILE))  # one of them makes a folder a run
WATCHED = (RUN_FILE, VAL_FILE, TEST_FILE, *PARAMS_FILES, "history.jsonl")
Stamp = tuple[tuple[int, int, int], ...]


@dataclasses.dataclass
class Run:
    """What is known of one run directory.

    Args:
        folder: the directory, a text, because a thousand paths take longer to make than to read
        name: its path below the parent folder, with slashes
        params: the hyperparameters it was run with, or, where no run.json says, those in its params file; nested ones
            as `optimizer.lr`. `restore_file` is among them where run.json has it
        val: metrics of the best weights on val; NaN and infinities are kept
        test: metrics of the best weights on test
        status: of run.json; `stale` if that says `running` and no process holds the directory; `unknown` without one
        epochs: how many it has done
        seconds: that its finished epochs took, in all its processes; where run.json does not say, from the start to
            the end of the last one
        best_epoch: the one that the best weights are of
        lower_is_better: its metrics that are errors
        monitor: the val metric, or loss, that decided which weights are best
        fingerprint: of the data it was trained on; None where run.json does not say
        data: its task and data, in words, the same for runs that can be compared; `name_groups` sets it
        stamp: changes when one of the directory's files does; None where nobody asked
        problems: a line for each of its files that could not be read
    """

    folder: str
    name: str
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    val: dict[str, float] = dataclasses.field(default_factory=dict)
    test: dict[str, float] = dataclasses.field(default_factory=dict)
    status: str = "unknown"
    epochs: int | None = None
    seconds: float | None = None
    best_epoch: int | None = None
    lower_is_better: list[str] = dataclasses.field(default_factory=list)
    monitor: str | None = None
    fingerprint: str | None = None
    data: str = ""
    stamp: Stamp | None = None
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(self.folder)


def read_runs(parent_dir: Path, before: Mapping[str, Run] | None = None) -> tuple[list[Run], list[str]]:
    """Return every run below a folder, sorted by name, and a line for each file that could not be read.

    Args:
        parent_dir: the folder; if it is a run itself, that is among them
        before: for reading again and again: name -> run as it was the last time, with its stamp; what has not changed
            since is not read again. An empty one at first; None to read once, without stamps

    Raises:
        InputError: there is no such folder
    """
    if not parent_dir.is_dir():
        raise InputError(f"{parent_dir}: there is no such directory; --parent_dir says where the runs are")
    runs: list[Run] = []
    problems: list[str] = []
    root = str(parent_dir)
    for folder, files in _walk(root, problems):
        if SIGNS.isdisjoint(files):
            continue
        name = folder[len(root) :].lstrip(os.sep).replace(os.sep, "/") or parent_dir.resolve().name
        stamp = None if before is None else _stamp(folder, files)
        old = before.get(name) if before else None
        if old is not None and old.stamp == stamp:
            run = old
        else:
            run = _read_run(folder, name, files)
            run.stamp = stamp
        if run.status == "running" and not is_held(run.path):
            status = read_json(folder, RUN_FILE, []).get("status")  # it may have ended since
            run.status = "stale" if status == "running" else str(status or "unknown")
        runs.append(run)
        problems += run.problems
    runs.sort(key=lambda run: run.name)
    name_groups(runs)
    return runs, problems


def _walk(parent_dir: str, problems: list[str]) -> Iterator[tuple[str, set[str]]]:
    """Yield each folder with the names of its files; hidden folders are passed over, links lead to each place once."""
    followed = [os.path.realpath(parent_dir)]
    folders = [parent_dir]
    while folders:
        folder = folders.pop()
        files = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        # a link has led there; slow to find out, so asked only where one was followed
                        is_known = len(followed) > 1 and os.path.realpath(entry.path) in followed
                        if entry.name[0] != "." and not is_known:
                            folders.append(entry.path)
                    elif entry.is_symlink() and entry.is_dir():
                        place = os.path.realpath(entry.path)
                        if not any(_is_within(place, root) for root in followed) and not _is_within(followed[0], place):
                            followed.append(place)
                            folders.append(entry.path)
                    else:
                        files.add(entry.name)
        except OSError as error:
            problems.append(f"{folder}: cannot be read ({error.strerror})")
        yield folder, files


def _is_within(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip(os.sep) + os.sep)


def _stamp(folder: str, files: Iterable[str]) -> Stamp:
    """Return what is another tuple after any of the files was replaced, written, added or removed."""
    found = []
    for name in WATCHED:
        if name in files:
            try:
                status = os.stat(f"{folder}/{name}")  # noqa: PTH116  a Path for each would take longer than to read it
            except OSError:
                continue
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _read_run(folder: str, name: str, files: set[str]) -> Run:
    problems: list[str] = []
    record = read_json(folder, RUN_FILE, problems) if RUN_FILE in files else {}
    if record:
        from fiveline.record.contents import (
            find_record_mistakes,  # pydantic, which a folder without run.json does not need
        )

        problems += [f"{folder}/{RUN_FILE}: {mistake}" for mistake in find_record_mistakes(record)]
    params = record.get("params")
    if not isinstance(params, dict) or not params:
        params = read_params(folder, files, problems)
    elif not {dict, list}.isdisjoint(map(type, params.values())):
        params = flatten(params, f"{folder}/{RUN_FILE}", problems)
    params = dict(zip(_shared(params), params.values(), strict=True))
    if "restore_file" in record:
        params["restore_file"] = record["restore_file"]
    data, status = record.get("data"), record.get("status")
    epochs, best_epoch, errors = record.get("epochs"), record.get("best_epoch"), record.get("lower_is_better")
    monitor = params.get("monitor")
    return Run(
        folder=folder,
        name=name,
        params=params,
        val=_read_metrics(folder, VAL_FILE, problems) if VAL_FILE in files else {},
        test=_read_metrics(folder, TEST_FILE, problems) if TEST_FILE in files else {},
        status=sys.intern(status) if isinstance(status, str) else "unknown",
        epochs=epochs if type(epochs) is int else None,
        seconds=_seconds(record),
        best_epoch=best_epoch if type(best_epoch) is int else None,
        lower_is_better=[str(each) for each in errors] if isinstance(errors, list) else [],
        monitor=monitor if isinstance(monitor, str) else None,
        fingerprint=sys.intern(str(data["fingerprint"])) if isinstance(data, dict) and "fingerprint" in data else None,
        problems=problems,
    )


def _read_metrics(folder: str, name: str, problems: list[str]) -> dict[str, float]:
    """Return the numbers in a metrics file, and name what is none: text, or an integer of a thousand digits."""
    values = read_json(folder, name, problems)
    if set(map(type, values.values())) != {float}:
        for key, value in values.items():
            if value is not None and not is_number(value):  # null is how NaN is saved
                problems.append(f"{folder}/{name}: {key}: expected a number, found {reprlib.repr(value)}")
        values = {key: value for key, value in values.items() if is_number(value)}
    return dict(zip(_shared(values), values.values(), strict=True))


_known: dict[tuple[str, ...], tuple[str, ...]] = {}


def _shared(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the values; thousands of runs have the same ones, and need not have a copy each."""
    names = tuple(values)
    return _known.setdefault(names, names)


def is_number(value: Any) -> bool:
    """Return whether a value is one that can be compared and averaged; True is not."""
    return type(value) is float or (type(value) is int and abs(value) < 1e300)


def _seconds(record: Mapping[str, Any]) -> float | None:
    if is_number(record.get("seconds")):
        return float(record["seconds"])
    try:
        return (datetime.fromisoformat(record["end"]) - datetime.fromisoformat(record["start"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None
