"""The record of a run: hyperparameters, log, JSON files and checkpoints. The work is in `record/`; this is its door.

    Params.from_values(values, source)          hyperparameters, checked (record/params.py)
    set_logger("experiments/base/train.log")    the log, on the terminal and in a file
    save_dict_to_json(metrics, "metrics.json")  JSON, written atomically (record/files.py)
    save_checkpoint(state, is_best, model_dir)  checkpoints, with a checksum (record/checkpoint.py)
    RunDirectory(model_dir)                     status, history and lock of a run (record/run.py)

Nothing here imports torch at import: a mistake in a params file is told in a moment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fiveline.record.best import standing
from fiveline.record.check import check_values, describe, find_mistakes
from fiveline.record.checkpoint import (
    checkpoint_path,
    checksum,
    is_ours,
    load_checkpoint,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    scores_name,
    write_checkpoint,
)
from fiveline.record.contents import check_run, fitting
from fiveline.record.effects import idle_unless
from fiveline.record.errors import (
    NO_ROOM,
    DivergedError,
    InputError,
    InterruptedRun,
    InUseError,
    OtherRunError,
    Stop,
    explain,
    is_dead_worker,
)
from fiveline.record.files import (
    open_atomically,
    read_json,
    read_lines,
    save_dict_to_json,
    to_json,
    write_atomically,
    write_lines,
)
from fiveline.record.origin import fingerprint
from fiveline.record.params import (
    MACHINE,
    Params,
    find_params_file,
    machine_settings,
    read_overrides,
    read_values,
    with_data_dir,
)
from fiveline.record.plain import SafeFormatter, escaped, escaped_lines
from fiveline.record.regular import check_regular, read_bytes
from fiveline.record.rows import csv_lines
from fiveline.record.run import RunDirectory, scores_lock
from fiveline.record.script import import_quickly, run_script
from fiveline.record.walk import files_below, is_hidden

__all__ = [
    "MACHINE",
    "DivergedError",
    "InUseError",
    "InputError",
    "InterruptedRun",
    "OtherRunError",
    "Params",
    "RunDirectory",
    "Stop",
    "check_regular",
    "check_run",
    "check_values",
    "checkpoint_path",
    "checksum",
    "csv_lines",
    "describe",
    "escaped",
    "escaped_lines",
    "explain",
    "files_below",
    "find_mistakes",
    "find_params_file",
    "fingerprint",
    "fitting",
    "format_metrics",
    "idle_unless",
    "import_quickly",
    "is_dead_worker",
    "is_hidden",
    "is_ours",
    "load_checkpoint",
    "load_weights",
    "machine_settings",
    "open_atomically",
    "read_bytes",
    "read_checkpoint",
    "read_json",
    "read_lines",
    "read_overrides",
    "read_values",
    "run_script",
    "save_checkpoint",
    "save_dict_to_json",
    "scores_lock",
    "scores_name",
    "set_logger",
    "standing",
    "to_json",
    "with_data_dir",
    "write_atomically",
    "write_checkpoint",
    "write_lines",
]


def set_logger(log_path: Path | str | None, level: int = logging.INFO) -> None:
    """Send `logging.info(...)` to the terminal and to the end of a file.

    Calling it again, for another run in the same process, moves the log to the new file.

    Args:
        log_path: the file, for example `experiments/base_model/train.log`; None for the terminal alone
        level: what is less than that is not logged

    Raises:
        InputError: the file cannot be written, or is a link
        Stop: the disk is full
    """
    logger = logging.getLogger()
    logger.setLevel(level)
    for handler in logger.handlers[:]:
        # a plain StreamHandler is that of logging.basicConfig: beside it, the terminal would show each line twice
        if getattr(handler, "is_ours", False) or type(handler) is logging.StreamHandler:
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # lines that a full disk did not take
                handler.close()
    console = logging.StreamHandler()
    console.setFormatter(SafeFormatter("%(message)s"))
    handlers: list[logging.Handler] = [console]
    if log_path is not None:
        try:
            if Path(log_path).exists():
                check_regular(log_path)  # to open a pipe could take for ever
            file_handler = _LogFile(log_path, encoding="utf-8", errors="backslashreplace")  # names may be no UTF-8
        except OSError as error:
            hint = "; it is a link, which a log does not follow: remove it" if Path(log_path).is_symlink() else ""
            kind = Stop if error.errno in NO_ROOM else InputError
            raise kind(f"{log_path}: cannot be written ({error.strerror or error}){hint}") from None
        file_handler.setFormatter(SafeFormatter("%(asctime)s:%(levelname)s: %(message)s"))
        handlers.append(file_handler)
    for handler in handlers:
        handler.is_ours = True  # type: ignore[attr-defined]
        logger.addHandler(handler)


class _LogFile(logging.FileHandler):
    """A log file, never a link, and not worth an error: on a full disk, lines wait for room, and the user hears of it.

    A few KB wait; what does not fit is on the terminal alone.
    """

    has_failed = False

    def _open(self) -> Any:
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)

        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=opener)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if not self.has_failed:
            self.has_failed = True
            logging.error(f"- {self.baseFilename}: cannot be written ({sys.exc_info()[1]}); the log may lack lines")


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Return metrics as the seed's log shows them: `accuracy: 0.906 ; loss: 0.519`."""
    return " ; ".join(f"{name}: {value:05.3f}" for name, value in metrics.items())
