"""The ways in which a script stops early: each has an exit code, and a status that its run is left in."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk is full, or this user's share of it
BROKEN_DISK = (errno.EROFS, errno.EIO, errno.ESTALE)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
MORE_FILES = "raise the limit (ulimit -n 4096), or lower num_workers"
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory",
             "Storage size calculation overflowed", "Overflow when unpacking long")  # fmt: skip


class Stop(Exception):
    """A stop whose message explains it in one or two plain lines; a traceback would add nothing."""

    exit_code = 1
    status = "failed"


class InputError(Stop, ValueError):
    """A mistake in the arguments, the hyperparameters or the data: what was found, what was expected, what to type."""

    exit_code = 2


class OtherRunError(InputError):
    """The directory holds another run, which stays as it is, with its run.json."""


class DivergedError(Stop):
    """The loss is not finite: training on would only waste time."""

    exit_code = 3
    status = "diverged"


class InUseError(Stop):
    """Another process is working in the directory."""

    exit_code = 4


class InterruptedRun(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived. Not an `Exception`: `except Exception` must not swallow it."""

    status = "interrupted"

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # as in a shell


def with_result(error: BaseException, result: Mapping[str, Any]) -> Any:
    """Return an error, or a SystemExit, that carries what its script has done: --json prints that as well."""
    error.__dict__["result"] = result
    return error


# Errors of the machine or of a setting, not of the code: class, words in the message, how to stop and what to print
KNOWN_ERRORS = (
    ("BdbQuit", "", Stop, "ended in the debugger; rerun the same command to continue from the last checkpoint"),
    ("RuntimeError", "Too many open files", Stop, "too many open files; " + MORE_FILES),
    ("RuntimeError", "DataLoader worker (pid", Stop,
     "a data loading process died ({}); if memory ran out, lower num_workers; rerun the same command to continue"),
    ("ValueError", "more than 1 value per channel when training", InputError,
     "batch norm cannot train on a single example ({}); raise batch_size or microbatch_size"),
    ("RuntimeError", "does not have a deterministic implementation", InputError,
     "deterministic: {}; take another operation, or deterministic=false"),
)  # fmt: skip


def explain(error: BaseException) -> Stop | None:
    """Return the Stop that reports an error of the machine or of a setting; None for any other error."""
    if isinstance(error, Stop):
        return error
    if isinstance(error, OSError) and (stop := _explain_os_error(error)):
        return stop
    text = str(getattr(error, "strerror", None) or error).strip().partition("\n")[0]
    if is_out_of_memory(error):
        hint = "lower microbatch_size or num_workers, or else batch_size or the size of the net"
        return Stop(f"out of memory ({text or type(error).__name__}); {hint}")
    for name, words, kind, message in KNOWN_ERRORS:
        if type(error).__name__ == name and words in str(error):  # names: importing bdb only for its class is slow
            return kind(message.format(text.partition(". ")[0].partition(", but")[0]))
    return None


def _explain_os_error(error: OSError) -> Stop | None:
    """Return the Stop that reports an error of the system; None where it names neither a file nor a limit."""
    name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    reason = error.strerror
    if error.errno in (*NO_ROOM, *BROKEN_DISK):
        return Stop(f"{name or 'a file or the output: '}could not be written ({reason})")
    if error.errno in TOO_MANY_FILES:
        return Stop(f"{name or 'a file: '}could not be opened ({reason}); {MORE_FILES}")
    if not name or not reason or error.errno == errno.ENOMEM:
        return None
    if isinstance(error, PermissionError):
        return Stop(f"{name}no permission to read or write it ({reason}); chmod it, or name another place")
    return InputError(f"{name}cannot be used ({reason}); name another file or folder")


@contextlib.contextmanager
def naming_builder(data_dir: Path) -> Iterator[None]:
    """Add how to get the data to an error about a dataset's folder, such as a missing split, that the block raises."""
    try:
        yield
    except (InputError, FileNotFoundError) as error:
        builder, readme = data_dir / "build_dataset.py", data_dir / "README.md"
        hint = f"python {builder}" if builder.exists() else f"see {readme}" if readme.exists() else ""
        if hint and (isinstance(error, FileNotFoundError) or str(error).startswith(f"{data_dir}: ")):
            raise InputError(f"{explain(error) or error}. If files are missing: {hint}") from None
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of the machine or of a GPU ran out; torch has several messages for it."""
    is_torchs = isinstance(error, RuntimeError | OSError | TypeError)
    return isinstance(error, MemoryError) or (is_torchs and any(words in str(error) for words in NO_MEMORY))
