"""A run directory: who works in it, how far the run is, what it was run with. The README lists its files."""

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
LONGEST_WAIT = 60.0  # seconds that a training waits for an evaluation that writes; someone may have suspended it


def scores_lock(path: Path) -> FileLock:
    """Return the lock of a run's best weights together with their scores: one script at a time changes either."""
    return FileLock(path / ".scores.lock")


class RunDirectory:
    """One `model_dir` while a script works in it.

    run.json and the history are read once and then kept in memory: while one process has the lock, no other one writes.

    In a job, only the first process is the writer; the others read.
    """

    def __init__(self, path: Path, is_writer: bool = True) -> None:
        self.path, self.is_writer = path, is_writer
        self._lock = FileLock(path / ".lock")
        self._locked: os.stat_result | None = None  # which file it was
        self._record: dict[str, Any] | None = None
        self._history: list[dict[str, Any]] | None = None

    def __enter__(self) -> RunDirectory:
        """Take the directory's lock; an InUseError says who has it, an InputError that the folder cannot be written."""
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
        with contextlib.suppress(OSError):  # a disk that has become read-only
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
        """Raise Stop unless the path still leads to what was locked: no one moved or removed the folder or `.lock`."""
        if not self._is_in_place():
            raise Stop(f"{self.path}: moved, removed or made again while this command worked in it; it stopped writing")

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
        """Keep run.json true while a run works: `running` at first, then how it ended."""
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
            # of an error in a data loading process, the last line: its traceback stands before it
            reason = str(explain(error) or str(error).strip().rpartition("\n")[2]) or type(error).__name__
            self.update_record(status=status, reason=reason.removeprefix(f"{status}: "), end=now())
        except (OSError, InputError) as second:  # a full disk, perhaps: the first error is the one to report
            logging.error(f"- run.json could not be written either ({second})")

    def finish(self, params: Params) -> None:
        """Record that nothing is left to do; `params`: a later command that failed may have left other ones there."""
        if self.record().get("status") not in ("finished", "pruned"):
            self.update_record(status="finished", reason=None, end=now(), **_resolved(params))

    def note(self, name: str, entry: Mapping[str, Any]) -> None:
        """Record `data`, `machine` or `versions`, which may change the bits; warn if a continued run finds another."""
        before = self.record().get(name) or {} if self.is_writer else {}
        changed = [f"{key}: {before[key]} -> {new}" for key, new in entry.items() if before.get(key, new) != new]
        if changed and self.history():
            changes = "; ".join(changed)
            logging.warning(f"- WARNING: the {name} changed since this run began ({changes}); the bits may differ")
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
        """Append an epoch at once, for those who follow the run; `append_history` secures it with a checkpoint."""
        with contextlib.suppress(OSError, Stop):  # a full disk, perhaps; then the save reports it
            self.check_place()
            rows = self.history()  # before the line is there
            append_line(self.path / HISTORY, row)
            rows.append(dict(row))

    def append_history(self, new: Sequence[Mapping[str, Any]]) -> None:
        """Add epochs, in place of what an interrupted run may have written for them and after them."""
        self.cut_history(new[0]["epoch"] - 1, new)

    def cut_history(self, epoch: int, new: Sequence[Mapping[str, Any]] = ()) -> None:
        """Keep the epochs up to and including `epoch`, the one that the checkpoint was taken after, and add `new`."""
        if self.is_writer:
            rows = [*(row for row in self.history() if row["epoch"] <= epoch), *map(dict, new)]
            write_lines(self.path / HISTORY, rows)
            self._history = rows

    @contextlib.contextmanager
    def replacing_best(self) -> Iterator[None]:
        """Remove evaluate.py's scores of the best weights, and let it write none until others have replaced them."""
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
            with contextlib.suppress(PermissionError):  # Windows; training counts for more than a table
                path.unlink()
        left = [path.name for path in scores if path.exists()]
        removed = [path.name for path in scores if path.name not in left]
        if left:
            logging.warning(f"- WARNING: open elsewhere, so they keep the scores of older weights: {', '.join(left)}")
        if removed:
            logging.info(f"- Removed {', '.join(removed)}, of the best weights before these; evaluate.py scores them")

    def clear(self) -> None:
        """Put all that a run wrote aside, until `settle`; the params file and anything else in the folder stay."""
        restart.put_aside(self.path)
        remove_stale(self.path)
        self._record = self._history = None

    def settle(self) -> None:
        """Decide about the files put aside: removed if there is a new checkpoint; otherwise put back."""
        if any((self.path / name).is_dir() for name in restart.PLACES):
            restart.settle(self.path)
            self._record = self._history = None


def _resolved(params: Params) -> dict[str, Any]:
    return {"params": params.model_dump(mode="json"), "hash": params.hash()}
