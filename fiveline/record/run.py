"""A run directory: its lock, its record (run.json) and its history. docs/run_directory.md lists its files."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fiveline.record import restart
from fiveline.record.atomic import append_line, remove_stale, save_dict_to_json, write_lines
from fiveline.record.contents import read_history, read_record
from fiveline.record.errors import NO_ROOM, InputError, InUseError, OtherRunError, Stop, explain
from fiveline.record.files import read_json
from fiveline.record.origin import now, provenance, versions
from fiveline.record.params import Params

SCORES_OF_BEST = re.compile(r"(metrics|scored|shares|predictions|per_class)_(train|val|test)_best\.(json|npz|csv)")
RECORD, HISTORY = "run.json", "history.jsonl"
HOLDER = ".lock.json"  # who holds the lock
LONGEST_WAIT = 60.0  # seconds that training waits for evaluate.py to finish writing; evaluate.py may be suspended


def scores_lock(path: Path) -> FileLock:
    """Return the lock of a run's best weights and their scores: only one script at a time may change them."""
    return FileLock(path / ".scores.lock")


class RunDirectory:
    """One `model_dir` while a script works in it.

    run.json and the history are read once and kept in memory, because no other process writes while one has the lock.

    In a job, only the first process is the writer; the others read.
    """

    def __init__(self, path: Path, is_writer: bool = True) -> None:
        self.path, self.is_writer = path, is_writer
        self._lock = FileLock(path / ".lock")
        self._locked: os.stat_result | None = None  # the identity of the lock file
        self._record: dict[str, Any] | None = None
        self._history: list[dict[str, Any]] | None = None

    def __enter__(self) -> RunDirectory:
        """Take the directory's lock. InUseError: another process has it; InputError or Stop: no file can be written."""
        if not self.is_writer:
            return self
        try:
            self._lock.acquire(timeout=0)
            self._locked = (self.path / ".lock").stat()
            self._record = self._history = None  # other processes may have written until now
            remove_stale(self.path)
            self.settle()
            entry = {"host": socket.gethostname(), "process": os.getpid(), "since": now()}
            save_dict_to_json(entry, self.path / HOLDER)
        except Timeout:
            holder = "another process"
            with contextlib.suppress(InputError, KeyError):
                holder = "process {process} on {host} since {since}".format(**read_json(self.path / HOLDER))
            raise InUseError(f"{self.path}: in use by {holder}; wait for it, or take another --model_dir") from None
        except OSError as error:
            self._lock.release()
            kind = Stop if error.errno in NO_ROOM else InputError
            raise kind(f"{self.path}: cannot be written ({error.strerror or error})") from None
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the disk may have become read-only
            if self.is_writer and self._is_in_place():
                (self.path / HOLDER).unlink(missing_ok=True)
                self.settle()
        self._lock.release()

    def _is_in_place(self) -> bool:
        try:
            return self._locked is None or os.path.samestat(self._locked, (self.path / ".lock").stat())
        except FileNotFoundError:
            return False

    def check_place(self) -> None:
        """Raise Stop if the folder or its `.lock` was moved or removed after it was locked."""
        if not self._is_in_place():
            raise Stop(f"{self.path}: moved, removed or replaced while this command worked in it; the command stopped")

    def record(self) -> dict[str, Any]:
        """Return run.json, or an empty dict before the first run."""
        if self._record is None:
            self._record = read_record(self.path / RECORD)
        return self._record

    def update_record(self, **entries: Any) -> None:
        """Set entries of run.json."""
        if self.is_writer:
            record = {**self.record(), **entries}
            save_dict_to_json(record, self.path / RECORD)
            self._record = record

    @contextlib.contextmanager
    def recorded(self, params: Params, **entries: Any) -> Iterator[None]:
        """Keep the status in run.json correct: `running` within the block, then how the run ended."""
        if not self.is_writer:
            yield
            return
        before = self.record()
        self.update_record(status="running", reason=None, end=None, **_resolved(params), **entries, **provenance())
        try:
            self.note("versions", versions())
            yield
        except OtherRunError:
            self._record = {}
            self.update_record(**before)
            raise
        except BaseException as error:
            if self._is_in_place():
                self._record_failure(error)
            raise
        self.finish(params)

    def _record_failure(self, error: BaseException) -> None:
        status = getattr(error, "status", "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        try:
            # the last line: in an error of a data loading process, the lines before it are a traceback
            reason = str(explain(error) or str(error).strip().rpartition("\n")[2]) or type(error).__name__
            self.update_record(status=status, reason=reason.removeprefix(f"{status}: "), end=now())
        except (OSError, InputError) as second:  # a full disk, perhaps: the first error is the one to report
            logging.error(f"- run.json could not be written either ({second})")

    def finish(self, params: Params) -> None:
        """Record that the run is finished, with its `params`: a failed command may have recorded other ones."""
        if self.record().get("status") not in ("finished", "pruned"):
            self.update_record(status="finished", reason=None, end=now(), **_resolved(params))

    def note(self, name: str, entry: Mapping[str, Any]) -> None:
        """Record `data`, `machine` or `versions`; warn if a continued run finds other ones: its results may differ."""
        before = self.record().get(name) or {} if self.is_writer else {}
        changed = [f"{key}: {before[key]} -> {new}" for key, new in entry.items() if before.get(key, new) != new]
        if changed and self.history():
            found = f"the {name} changed since this run last started ({'; '.join(changed)})"
            logging.warning(f"- WARNING: {found}; the results may differ")
        self.update_record(**{name: dict(entry)})

    def history(self) -> list[dict[str, Any]]:
        """Return one dict for each finished epoch."""
        if self._history is None:
            self._history = read_history(self.path / HISTORY)
        return self._history

    def seconds(self) -> float:
        """Return the seconds that the epochs of the history took together."""
        return float(sum(row.get("seconds") or 0.0 for row in self.history()))

    def show_epoch(self, row: Mapping[str, Any]) -> None:
        """Append an epoch at once, for readers who follow the run; `append_history` writes it with the checkpoint."""
        with contextlib.suppress(OSError, Stop):  # a full disk, perhaps; then the save reports it
            self.check_place()
            rows = self.history()  # read the file before the new line is in it
            append_line(self.path / HISTORY, row)
            rows.append(dict(row))

    def append_history(self, new: Sequence[Mapping[str, Any]]) -> None:
        """Add epochs; remove the rows that an interrupted run may have written for these epochs or later ones."""
        self.cut_history(new[0]["epoch"] - 1, new)

    def cut_history(self, epoch: int, new: Sequence[Mapping[str, Any]] = ()) -> None:
        """Keep the rows up to `epoch`, the last complete epoch of the checkpoint, and add the rows `new`."""
        if self.is_writer:
            rows = [*(row for row in self.history() if row["epoch"] <= epoch), *map(dict, new)]
            write_lines(self.path / HISTORY, rows)
            self._history = rows

    @contextlib.contextmanager
    def replacing_best(self) -> Iterator[None]:
        """Remove evaluate.py's scores of the best weights, and keep it from writing scores until the block ends."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(scores_lock(self.path).acquire(timeout=LONGEST_WAIT))
            except Timeout:
                logging.warning("- WARNING: evaluate.py hangs while it writes; its scores may be of older weights")
            self._remove_scores_of_best()
            yield

    def _remove_scores_of_best(self) -> None:
        scores = sorted(path for path in self.path.iterdir() if SCORES_OF_BEST.fullmatch(path.name))
        for path in scores:
            with contextlib.suppress(PermissionError):  # Windows keeps an open file; training must not fail for that
                path.unlink()
        left = [path.name for path in scores if path.exists()]
        removed = [path.name for path in scores if path.name not in left]
        if left:
            logging.warning(f"- WARNING: in use, so not removed (they hold scores of older weights): {', '.join(left)}")
        if removed:
            logging.info(f"- Removed {', '.join(removed)} of the old best weights; evaluate.py scores the new ones")

    def clear(self) -> None:
        """Set aside the files that a run wrote, until `settle`; keep the params file and all other files."""
        restart.put_aside(self.path)
        remove_stale(self.path)
        self._record = self._history = None

    def settle(self) -> None:
        """Remove the files that were set aside if there is a new checkpoint; otherwise restore them."""
        if any((self.path / name).is_dir() for name in restart.PLACES):
            restart.settle(self.path)
            self._record = self._history = None


def _resolved(params: Params) -> dict[str, Any]:
    return {"params": params.model_dump(mode="json"), "hash": params.hash()}
