"""Read run directories for the table: hyperparameters, metrics, status. No file is trusted, and none is written.

A directory counts as a run if it holds a `run.json` or CS230's `metrics_val_best_weights.json`. A file that is torn,
foreign, huge or unreadable loses its own values and adds one line to `problems`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import reprlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fiveline.record import check, directory, files
from fiveline.record.errors import InputError
from fiveline.record.params import Params
from fiveline.tasks import fetch_params_class, list_tasks

RUN_FILE, VAL_FILE, TEST_FILE = "run.json", "metrics_val_best_weights.json", "metrics_test_best.json"
SCORED_FILE = "scored_test_best.json"  # evaluate.py writes it; older versions wrote no intervals into it
SIGNS = frozenset((RUN_FILE, VAL_FILE, TEST_FILE))  # one of them makes a folder a run
PARAMS_FILES = ("params.json", "params.yaml", "params.yml")
SCALARS = {str, int, float, bool, type(None)}
UNKNOWN = "data not recorded"  # for runs by other code, such as CS230's


@dataclasses.dataclass
class Run:
    """What is known of one run directory: the entries that --json prints, which docs/json.md describes."""

    model_dir: str  # the directory, as str: building Path objects dominates the time for thousands of runs
    name: str  # its path below the parent folder, with slashes
    params: dict[str, Any] = dataclasses.field(default_factory=dict)  # resolved if run.json has them; and restore_file
    val: dict[str, float] = dataclasses.field(default_factory=dict)  # metrics of the best weights; may be NaN, inf
    test: dict[str, float] = dataclasses.field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)  # 95% intervals of `test`
    status: str = "unknown"  # as in run.json; `stale` if that says `running` and no process holds the directory
    epochs: int | None = None  # finished ones
    seconds: float | None = None  # the time of these epochs
    best_epoch: int | None = None  # the epoch of the best weights
    lower_is_better: list[str] = dataclasses.field(default_factory=list)  # metrics that are errors
    monitor: str | None = None  # the val metric, or loss, that decided which weights are best
    fingerprint: str | None = None  # the training data's
    data: str = ""  # name of task and data, the same for runs that can be compared; `name_data` sets it

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(self.model_dir)


def describe_run(model_dir: Path) -> dict[str, Any]:
    """Return the entries of one run, and the files that it wrote."""
    run = _read_run(str(model_dir), model_dir.resolve().name, {path.name for path in model_dir.iterdir()}, [])
    name_data([run])
    return {**vars(run), "files": [str(path) for path in directory.products(model_dir)]}


def read_runs(parent_dir: Path) -> tuple[list[Run], list[str]]:
    """Return every run below a folder, or in it, sorted by name, and a line for each file that could not be read."""
    if not parent_dir.is_dir():
        raise InputError(f"{parent_dir}: there is no such directory; --parent_dir says where the runs are")
    problems: list[str] = []
    root, runs = str(parent_dir), []
    for folder, names in _walk(root, problems):
        if not SIGNS.isdisjoint(names):
            name = folder[len(root) :].lstrip(os.sep).replace(os.sep, "/") or parent_dir.resolve().name
            runs.append(_read_run(folder, name, names, problems))
    runs.sort(key=lambda run: run.name)
    name_data(runs)
    return runs, problems


def _walk(parent_dir: str, problems: list[str]) -> Iterator[tuple[str, set[str]]]:
    """Yield each folder with the names of its files. Hidden folders are skipped, and no folder is visited twice."""
    root, seen = os.path.realpath(parent_dir), set[str]()

    def is_new(path: str) -> bool:
        place = os.path.realpath(path)
        is_link = os.path.islink(path)  # noqa: PTH114  building Path objects dominates the time for thousands of runs
        if place in seen or (is_link and (Path(place).is_relative_to(root) or Path(root).is_relative_to(place))):
            return False
        seen.add(place)
        return True

    report = lambda error: problems.append(f"{error.filename}: cannot be read ({error.strerror})")  # noqa: E731
    for folder, folders, names in os.walk(parent_dir, onerror=report, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "." and is_new(f"{folder}/{name}")]
        yield folder, set(names)


def _read_run(folder: str, name: str, names: set[str], problems: list[str]) -> Run:
    record = _read(files.read_json, Path(folder, RUN_FILE), problems) if RUN_FILE in names else {}
    if record and (mistakes := check.find_mistakes(check.Record, record)):
        problems += [f"{folder}/{RUN_FILE}: {mistake}" for mistake in mistakes]
        record = {}
    if params := record.get("params"):
        params = _params_class(str(params.get("task"))).with_new_names(params)
    params = params or _read_params(folder, names, problems)
    params = {sys.intern(str(name)): _plain(value) for name, value in params.items()}  # thousands have the same names
    if "restore_file" in record:
        params["restore_file"] = record["restore_file"]
    fingerprint = record.get("data", {}).get("fingerprint")
    return Run(
        model_dir=folder,
        name=name,
        params=params,
        val=_read_metrics(folder, VAL_FILE, problems) if VAL_FILE in names else {},
        test=_read_metrics(folder, TEST_FILE, problems) if TEST_FILE in names else {},
        intervals=_read_intervals(folder, problems) if SCORED_FILE in names else {},
        status=directory.current_status(Path(folder), record.get("status", "unknown")),
        epochs=record.get("epochs"),
        seconds=float(record["seconds"]) if is_number(record.get("seconds")) else None,
        best_epoch=record.get("best_epoch"),
        lower_is_better=record.get("lower_is_better", []),
        monitor=str(params["monitor"]) if "monitor" in params else None,
        fingerprint=str(fingerprint) if fingerprint else None,
    )


@functools.cache
def _params_class(task: str) -> type[Params]:
    return fetch_params_class(task) if task in list_tasks() else Params


def _read(read: Callable[[Path], Any], path: Path, problems: list[str]) -> Any:
    """Return `read(path)`; an empty dict if the file cannot be read."""
    try:
        return read(path)
    except (InputError, OSError) as error:
        problems.append(str(error))
        return {}


def read_history(run: Run, problems: list[str]) -> list[dict[str, Any]]:
    """Return one dict for each finished epoch: `epoch`, `train`, `val`, ...; empty if the file cannot be read."""
    return _read(check.read_history, run.path / "history.jsonl", problems) or []


def _read_params(folder: str, names: set[str], problems: list[str]) -> dict[str, Any]:
    """Return the hyperparameters of a params file, the JSON one before the YAML one; empty if there is none."""
    from fiveline.record.params_file import read_values  # PyYAML, which folders with a run.json do not need

    name = next((name for name in PARAMS_FILES if name in names), None)
    return (_read(read_values, Path(folder, name), problems) or ({},))[0] if name else {}


def _plain(value: Any) -> Any:
    """Return a hyperparameter that is a scalar or a list of scalars as it is, and another, of other code, cut short."""
    is_plain = type(value) in SCALARS or (type(value) is list and set(map(type, value)) <= SCALARS)
    return value if is_plain else reprlib.repr(value)


def _read_metrics(folder: str, name: str, problems: list[str]) -> dict[str, float]:
    """Return the numbers in a metrics file, and report every other value, such as text."""
    numbers = {}
    for key, value in _read(files.read_json, Path(folder, name), problems).items():
        if is_number(value):
            numbers[sys.intern(key)] = value
        elif value is not None:  # null is how NaN is saved
            problems.append(f"{folder}/{name}: {key}: expected a number, found {reprlib.repr(value)}")
    return numbers


def _read_intervals(folder: str, problems: list[str]) -> dict[str, tuple[float, float]]:
    found = _read(files.read_json, Path(folder, SCORED_FILE), problems).get("intervals")
    pairs = {name: ends for name, ends in (found.items() if type(found) is dict else ()) if type(ends) is list}
    return {sys.intern(name): (e[0], e[1]) for name, e in pairs.items() if len(e) == 2 and all(map(is_number, e))}


def is_number(value: Any) -> bool:
    """Return whether a value can be compared and averaged; True cannot."""
    return type(value) is float or (type(value) is int and abs(value) < 1e300)


def name_data(runs: Sequence[Run]) -> None:
    """Set `data` of each run: its task and data folder, with digits of the fingerprint where two datasets share a name.

    A run that failed before it saw its data has no metrics to compare: it belongs to the runs with its `data_dir`.
    """
    places = [(str(run.params.get("task") or ""), str(run.params.get("data_dir") or "")) for run in runs]
    seen = {place: run.fingerprint for run, place in zip(runs, places, strict=True) if run.fingerprint}
    names: dict[tuple[str, str | None], str] = {}
    keys = []
    for run, (task, data_dir) in zip(runs, places, strict=True):
        has_results = run.fingerprint or run.val or run.test
        keys.append((task, run.fingerprint if has_results else seen.get((task, data_dir))))
        names.setdefault(keys[-1], f"{task} {Path(data_dir).name if keys[-1][1] else UNKNOWN}".strip())
    counts = Counter(names.values())
    for run, key in zip(runs, keys, strict=True):
        run.data = names[key] if counts[names[key]] == 1 else f"{names[key]} ({str(key[1])[:6]})"
