"""A run directory: its lock, its record (run.json) and its history. docs/run_directory.md lists its files."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fiveline.record.atomic import append_line, remove_stale, save_dict_to_json, write_lines
from fiveline.record.check import read_history, read_record
from fiveline.record.directory import delete_or_restore
from fiveline.record.errors import InputError, InUseError, OtherRunError, Stop, explain
from fiveline.record.files import read_json
from fiveline.record.origin import now, provenance, versions
from fiveline.record.params import Params

SCORES_OF_BEST = re.compile(r"(metrics|scored|shares|predictions|per_class)_(train|val|test)_best\.(json|npz|csv)")
NO_RESULT = (-math.inf, -math.inf)
RECORD, HISTORY, HOLDER = "run.json", "history.jsonl", ".lock.json"  # HOLDER: who holds the lock
LONGEST_WAIT = 60.0  # seconds that training waits for evaluate.py to finish writing; evaluate.py may be suspended


def scores_lock(path: Path) -> FileLock:
    """Return the lock of a run's best weights and their scores: only one script at a time may change them."""
    return FileLock(path / ".scores.lock")


def ranking_key(value: Any, loss: Any, is_high_better: bool) -> tuple[float, float]:
    """Return a pair that is larger for a better result; equal values: the lower loss; no finite value: NO_RESULT."""
    is_number, is_loss = (type(x) in (int, float) and abs(x) <= sys.float_info.max for x in (value, loss))
    return (value if is_high_better else -value, -loss if is_loss else -math.inf) if is_number else NO_RESULT


def has_stopped_early(params: Params, epoch: int, best_epoch: int) -> bool:
    """Return whether a run that is `epoch` epochs old has waited long enough for a new best."""
    return params.early_stopping_epochs is not None and epoch - best_epoch >= params.early_stopping_epochs


class RunDirectory:
    """One `model_dir` while a script works in it. In a job, only the first process is the writer; the others read."""

    def __init__(self, path: Path, is_writer: bool = True) -> None:
        self.path, self.is_writer = path, is_writer
        self._lock = FileLock(path / ".lock")
        self._locked: os.stat_result | None = None  # the identity of the lock file
        self._unwritten: list[Mapping[str, Any]] = []  # epochs of the history

    def __enter__(self) -> RunDirectory:
        """Take the directory's lock; InUseError: another process has it."""
        if not self.is_writer:
            return self
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = "another process"
            with contextlib.suppress(InputError, KeyError):
                holder = "process {process} on {host} since {since}".format(**read_json(self.path / HOLDER))
            raise InUseError(f"{self.path}: in use by {holder}; wait for it, or take another --model_dir") from None
        self._locked = (self.path / ".lock").stat()
        remove_stale(self.path)
        delete_or_restore(self.path)
        entry = {"host": socket.gethostname(), "process": os.getpid(), "since": now()}
        save_dict_to_json(entry, self.path / HOLDER)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the disk may have become read-only
            if self.is_writer and self._has_lock():
                (self.path / HOLDER).unlink(missing_ok=True)
                delete_or_restore(self.path)
        self._lock.release()

    def _has_lock(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self._locked is None or os.path.samestat(self._locked, (self.path / ".lock").stat())
        return False

    def check_lock(self) -> None:
        """Raise Stop if the folder or its `.lock` was moved or removed after it was locked."""
        if not self._has_lock():
            raise Stop(f"{self.path}: moved, removed or replaced while this command worked in it; the command stopped")

    def record(self) -> dict[str, Any]:
        """Return run.json, or an empty dict before the first run."""
        return read_record(self.path / RECORD)

    def update_record(self, **entries: Any) -> None:
        """Set entries of run.json."""
        if self.is_writer:
            save_dict_to_json({**self.record(), **entries}, self.path / RECORD)

    @contextlib.contextmanager
    def recorded(self, params: Params, **entries: Any) -> Iterator[None]:
        """Keep the status in run.json correct: `running` within the block, then how the run ended."""
        before = self.record()
        self.update_record(status="running", reason=None, end=None, **_resolved(params), **entries, **provenance())
        try:
            self.record_conditions("versions", versions())
            yield
        except OtherRunError:  # only the writer raises it, so this process may write
            save_dict_to_json(before, self.path / RECORD)
            raise
        except BaseException as error:
            if self._has_lock():
                self._record_failure(error)
            raise
        self.finish(params)

    def _record_failure(self, error: BaseException) -> None:
        status = getattr(error, "status", "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        # the last line: in an error of a data loading process, the lines before it are a traceback
        reason = str(explain(error) or str(error).strip().rpartition("\n")[2]) or type(error).__name__
        try:
            self.update_record(status=status, reason=reason.removeprefix(f"{status}: "), end=now())
        except (OSError, InputError) as second:  # a full disk, perhaps: the first error is the one to report
            logging.error(f"- run.json could not be written either ({second})")

    def finish(self, params: Params) -> None:
        """Record that the run is finished, with its `params`: a failed command may have recorded different ones."""
        if self.record().get("status") not in ("finished", "pruned"):
            self.update_record(status="finished", reason=None, end=now(), **_resolved(params))

    def record_conditions(self, name: str, entry: Mapping[str, Any]) -> None:
        """Record `data`, `machine` or `versions`; warn if it changed since a run was stopped: results may differ."""
        before = self.record().get(name) or {} if self.is_writer else {}
        changed = [f"{key}: {before[key]} -> {new}" for key, new in entry.items() if before.get(key, new) != new]
        if changed and self.history():
            found = f"the {name} changed since this run last started ({'; '.join(changed)})"
            logging.warning(f"- WARNING: {found}; the results may differ")
        self.update_record(**{name: dict(entry)})

    def history(self) -> list[dict[str, Any]]:
        """Return one dict for each finished epoch."""
        return read_history(self.path / HISTORY)

    def cut_history(self, epoch: int) -> None:
        """Remove the epochs after `epoch`, the last complete one of the checkpoint: they are trained again."""
        if self.is_writer:
            write_lines(self.path / HISTORY, [row for row in self.history() if row["epoch"] <= epoch])

    def check_nothing_is_lost(self, epoch: int) -> None:
        """Raise OtherRunError if more epochs than `epoch` are saved: rerunning a notebook cell would replace them."""
        num_epochs = self.record().get("epochs", 0) if self.is_writer else 0
        if min(num_epochs, len(self.history())) > epoch:  # never in train.py, which has cut the history
            found = f"holds a run of {num_epochs} epochs; this run has {epoch} so far and would replace it"
            hint = "take another folder, or continue it: state.load_state_dict(utils.load_checkpoint(path, model))"
            raise OtherRunError(f"{self.path}: {found}; {hint}")

    def append_history(self, row: Mapping[str, Any]) -> None:
        """Append an epoch at once, for readers who follow the run; on a full disk, `write_history` appends it later."""
        self._unwritten += [row] if self.is_writer else []
        with contextlib.suppress(OSError, Stop):
            self.write_history()

    def write_history(self) -> None:
        """Append the epochs that are not in the file yet."""
        while self._unwritten:
            self.check_lock()
            append_line(self.path / HISTORY, self._unwritten[0])
            del self._unwritten[0]

    @contextlib.contextmanager
    def replacing_best(self) -> Iterator[None]:
        """Remove evaluate.py's scores of the best weights, and keep it from writing scores until the block ends."""
        with scores_lock(self.path).acquire(timeout=LONGEST_WAIT):
            for path in sorted(path for path in self.path.iterdir() if SCORES_OF_BEST.fullmatch(path.name)):
                try:
                    path.unlink()
                    logging.info(f"- Removed {path.name} of the old best weights; evaluate.py can score the new ones")
                except PermissionError:  # noqa: PERF203  Windows cannot delete an open file
                    logging.warning(f"- WARNING: {path.name} is in use and was not removed; it is from older weights")
            yield


def _resolved(params: Params) -> dict[str, Any]:
    return {"params": params.model_dump(mode="json"), "hash": params.hash()}
