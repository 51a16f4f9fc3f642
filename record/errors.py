"""The ways in which a script stops early, each with its exit code and the status that its run is left in."""

from __future__ import annotations


class Stop(Exception):
    """A stop that is explained in its message, in one or two plain lines, and needs no traceback."""

    exit_code = 1
    status = "failed"


class InputError(Stop, ValueError):
    """A mistake in the arguments, the hyperparameters or the data: what was found, what was expected, what to type."""

    exit_code = 2


class DivergedError(Stop):
    """The loss is not finite: going on would only burn time."""

    exit_code = 3
    status = "diverged"


class InUseError(Stop):
    """Another process is working in the directory."""

    exit_code = 4


class InterruptedRun(Stop):
    """SIGINT or SIGTERM: the same command continues.

    Args:
        message: what to tell the user
        signal_number: 2 (SIGINT) or 15 (SIGTERM); the exit code is 128 plus this number, as in a shell
    """

    status = "interrupted"

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
