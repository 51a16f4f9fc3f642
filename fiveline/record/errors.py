"""The ways in which a script stops early, each with its exit code and the status that its run is left in."""

from __future__ import annotations

import errno
import os
import sys

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk is full, or what this user may write
BROKEN_DISK = (errno.EROFS, errno.EIO, errno.ESTALE)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
WRONG_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST, errno.EINVAL)
MORE_FILES = "too many open files; raise the limit (ulimit -n 4096), or lower num_workers"
NULL_TEXTS = ("embedded null byte", "embedded null character")  # ValueError, of open() and of pathlib
NO_MEMORY_TEXTS = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory",
                   "Storage size calculation overflowed", "Overflow when unpacking long")  # fmt: skip


class Stop(Exception):
    """A stop that is explained in its message, in one or two plain lines, and needs no traceback."""

    exit_code = 1
    status = "failed"


class InputError(Stop, ValueError):
    """A mistake in the arguments, the hyperparameters or the data: what was found, what was expected, what to type."""

    exit_code = 2


class OtherRunError(InputError):
    """The directory holds another run, which stays as it is: its record too."""


class DivergedError(Stop):
    """The loss is not finite: going on would only burn time."""

    exit_code = 3
    status = "diverged"


class InUseError(Stop):
    """Another process is working in the directory."""

    exit_code = 4


class InterruptedRun(KeyboardInterrupt):
    """SIGINT or SIGTERM: the same command continues.

    No `Stop`, and no `Exception` at all: a signal comes anywhere, and `except Exception` must not swallow it.

    Args:
        message: what to tell the user
        signal_number: 2 (SIGINT) or 15 (SIGTERM); the exit code is 128 plus this number, as in a shell
    """

    status = "interrupted"

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def explain(error: BaseException) -> Stop | None:
    """Return what to tell of an error that the machine or a setting made, not the code; None for any other error."""
    if isinstance(error, Stop):
        return error
    text = str(error).strip().partition("\n")[0]
    if type(error).__name__ == "BdbQuit":  # of bdb, which is loaded only where there is a breakpoint
        return Stop("ended in the debugger; the same command continues from the last checkpoint, if there is one")
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in text:
        return Stop(f"{error.strerror}: they are full or read-only; make room, or set TMPDIR to a folder with room")
    if isinstance(error, OSError) and (stop := _explain_os_error(error)) is not None:
        return stop
    if isinstance(error, RuntimeError) and "Too many open files" in str(error):  # torch's, of shared memory
        return Stop(MORE_FILES)
    if isinstance(error, ValueError) and text in NULL_TEXTS:
        return InputError(f"a path holds a null character ({text}); expected the name of a file or a folder")
    if isinstance(error, NotImplementedError) and "for the MPS device" in text:
        return InputError(f"--device mps: {text.partition('. ')[0]}; --device cpu has it")
    if is_out_of_memory(error):
        told = text or type(error).__name__
        return Stop(
            f"out of memory ({told}); lower microbatch_size or num_workers, or else batch_size or the size of the net"
        )
    if isinstance(error, ValueError) and "more than 1 value per channel when training" in text:
        return InputError(f"batch norm cannot train on a single number ({text}); raise batch_size or microbatch_size")
    if isinstance(error, RuntimeError) and "does not have a deterministic implementation" in text:
        return InputError(f"deterministic: {text.partition(',')[0]}; take another operation, or deterministic=false")
    if isinstance(error, RuntimeError) and "CUBLAS_WORKSPACE_CONFIG=" in text:
        return InputError("deterministic: cuBLAS is set otherwise; export CUBLAS_WORKSPACE_CONFIG=:4096:8, or unset it")
    if is_dead_worker(error):
        return Stop(f"a data loading process died ({text}); if memory ran out, lower num_workers or batch_size")
    return None


def _explain_os_error(error: OSError) -> Stop | None:
    """Return how to report an error of the system; None for one that says neither a file nor a limit."""
    name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    if error.errno in (*NO_ROOM, *BROKEN_DISK):
        return Stop(f"{name or 'a file or the output: '}could not be written ({error.strerror})")
    if error.errno in TOO_MANY_FILES:
        hint = "raise the limit (ulimit -n 4096), or lower num_workers"
        return Stop(f"{name or 'a file: '}could not be opened ({error.strerror}); {hint}")
    if not name or error.errno == errno.ENOMEM:
        return None
    if isinstance(error, PermissionError):
        return Stop(f"{name}not yours to read or write ({error.strerror}); chmod it, or name another place")
    if error.errno in WRONG_PATHS:
        return InputError(f"{name}cannot be used ({error.strerror}); name another file or folder")
    return Stop(f"{name}{error.strerror}") if error.strerror else None


def is_dead_worker(error: BaseException) -> bool:
    """Return whether an error says that a data loading process is gone; not one that the process itself reports."""
    return isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, of the machine or of a GPU; torch says so in several ways."""
    torch = sys.modules.get("torch")  # not imported here: an error of torch's comes after its import
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError | OSError | TypeError) and any(
        words in str(error) for words in NO_MEMORY_TEXTS
    )
