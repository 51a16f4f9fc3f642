"""How a script begins, and how it ends: its exit code and its last message."""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable

from fiveline import __version__
from fiveline.record.errors import InterruptedRun, explain
from fiveline.record.log import SafeFormatter


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a script's parser: its docstring as the help text, no abbreviated flags, and --version."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"fiveline {__version__}")
    return parser


def import_quickly(*names: str) -> None:
    """Import large modules with the garbage collector off: there is no garbage to find, and it takes a fifth longer."""
    missing = [name for name in names if name not in sys.modules]
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for name in missing:
            importlib.import_module(name)
    finally:
        if was_enabled:
            gc.enable()
    if "torch" in missing:  # so there is no model yet; a search through all that torch made takes half a second at exit
        gc.freeze()


def _open_closed_descriptors() -> None:
    """Open the null device in place of standard streams that were closed (`>&-`).

    Otherwise the next file that is opened, a checkpoint for example, gets the number of standard output.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so most often this one
            if descriptor != number:
                os.close(descriptor)
            else:
                os.set_inheritable(descriptor, True)  # a study's processes need them as well
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115, PTH123


def run_script(
    main: Callable[[], None], may_report: Callable[[BaseException, BaseException | None], bool] | None = None
) -> None:
    """Run a script's `main` and exit: 0 done, 2 a mistake, 3 diverged, 4 in use, 130 / 143 interrupted, 1 any other.

    What the user can fix, a full disk included, is reported in plain lines; only a bug shows a traceback.

    In a job of several processes, `may_report` is called with an error and its explanation, and returns whether this
    process should report it, because no other one has.
    """
    _open_closed_descriptors()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # as stderr does: for names of files

    def stop_here(number: int, _: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)  # a second one quits at once
        name = signal.Signals(number).name
        raise InterruptedRun(f"interrupted by {name}; rerun the same command to continue", number)

    console = logging.StreamHandler()
    console.setFormatter(SafeFormatter("%(message)s"))
    logging.basicConfig(handlers=[console])  # until `set_logger`
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop_here)
    try:
        main()
        sys.stdout.flush()  # here, where its error is reported like any other
    except BrokenPipeError:  # the reader of our output, `head` for example, has seen enough
        sys.stderr.close()
        sys.exit(0)
    except (Exception, InterruptedRun) as error:
        stop = error if isinstance(error, InterruptedRun) else explain(error)
        is_silent = may_report is not None and not may_report(error, stop)
        if stop is None and not is_silent:
            raise
        if not is_silent:
            logging.error(f"error: {stop}")  # into the log as well
        sys.exit(stop.exit_code if stop is not None else 1)
