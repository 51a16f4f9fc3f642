"""How a script begins, is interrupted and ends: its exit code, its last message, and its DataLoaders' workers."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from fiveline import __version__
from fiveline.record.atomic import to_bytes
from fiveline.record.errors import InputError, InterruptedRun, explain
from fiveline.record.log import SafeFormatter

STOPS = (signal.SIGINT, signal.SIGTERM)
JSON_FLAG = "--json"
FORMAT_VERSION = 1  # of the documents that --json prints; docs/json.md describes them


class _Parser(argparse.ArgumentParser):
    """Raises an error in the command line if --json is to print it."""

    def error(self, message: str) -> NoReturn:
        if JSON_FLAG in sys.argv:
            raise InputError(f"{message}; --help lists the flags")
        super().error(message)


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a script's parser: its docstring as the help text, no abbreviated flags, --version and --json."""
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fiveline {__version__}", help="print the version")
    text = "print one JSON document (docs/json.md) on standard output, and everything else on standard error"
    parser.add_argument(JSON_FLAG, action="store_true", help=text)
    return parser


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """Add --device and --disable_cuda; CS230's spelling --disable-cuda works as well, and --help does not list it."""
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, mps; default: cuda where there is one")
    parser.add_argument("--disable_cuda", action="store_true", help="compute on the CPU although there is a GPU")
    parser.add_argument("--disable-cuda", action="store_true", help=argparse.SUPPRESS)


def import_quickly(name: str) -> None:
    """Import a large module without the garbage collector, and keep what it made from being searched for garbage."""
    if name not in sys.modules:  # else there may be a model, which would never be freed
        gc.disable()
        importlib.import_module(name)
        gc.enable()
        gc.freeze()  # at exit, the search takes half a second


def _stop_here(number: int, _: object) -> None:
    for each in STOPS:
        signal.signal(each, signal.SIG_DFL)  # a second one quits at once
    name = signal.Signals(number).name
    raise InterruptedRun(f"interrupted by {name}; rerun the same command to continue", number)


def _print_document(descriptor: int | None, result: Mapping[str, Any] | None, exit_code: Any) -> None:
    """Write the document of --json; without --json, or in a process of a job that has no result, write nothing."""
    if descriptor is not None and result is not None:
        with open(descriptor, "wb", closefd=False) as file:  # noqa: PTH123
            file.write(to_bytes({"version": FORMAT_VERSION, **result, "exit_code": exit_code}, indent=4))


def run_script(
    main: Callable[[], Mapping[str, Any] | None],
    may_report: Callable[[BaseException, BaseException | None], bool] | None = None,
) -> None:
    """Run a script's `main` and exit: 0 done, 2 a mistake, 3 diverged, 4 in use, 130 / 143 interrupted, 1 any other.

    Only a bug shows a traceback. In a job, `may_report` gets an error and its explanation, and returns whether this
    process reports it. With --json, standard output gets what `main` returns, or its error, and nothing else.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed with `>&-`: the next file, a checkpoint perhaps, would get its number
            stream = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115, PTH123
            os.set_inheritable(stream.fileno(), True)  # a study's processes need them as well
            setattr(sys, name, stream)
    descriptor = None  # of the real standard output
    if JSON_FLAG in sys.argv:
        descriptor = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # in order with other lines
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # as stderr does: for names of files
    console = logging.StreamHandler()
    console.setFormatter(SafeFormatter("%(message)s"))
    logging.basicConfig(handlers=[console])  # until `set_logger`
    for number in STOPS:
        signal.signal(number, _stop_here)
    try:
        result = main()
        sys.stdout.flush()  # here, where its error is reported like any other
        _print_document(descriptor, result, 0)
    except BrokenPipeError:  # the reader of our output, `head` for example, has seen enough
        sys.stderr.close()
        sys.exit(0)
    except SystemExit as end:
        with contextlib.suppress(OSError):
            _print_document(descriptor, getattr(end, "result", {}), end.code or 0)
        raise
    except (Exception, InterruptedRun) as error:
        stop = error if isinstance(error, InterruptedRun) else explain(error)
        if may_report is None or may_report(error, stop):
            entry = {"type": type(stop or error).__name__, "message": str(stop or error)}
            result = {**getattr(error, "result", {}), "error": entry}
            with contextlib.suppress(OSError):  # the first error is the one to report
                _print_document(descriptor, result, getattr(stop, "exit_code", 1))
            if stop is None:
                raise
            logging.error(f"error: {stop}")  # into the log as well
        sys.exit(stop.exit_code if stop is not None else 1)


class Signals:
    """A context manager that notes SIGINT and SIGTERM, so that a run stops between two steps; a second one ends it."""

    def __init__(self, second_signal_ends: bool = True) -> None:
        self.received = 0  # the signal's number, 0 for none
        self.second_signal_ends = second_signal_ends  # not in a job: torchrun repeats a signal that processes have
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            self._before = {number: signal.signal(number, self._note) for number in STOPS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = number
        for each, before in self._before.items() if self.second_signal_ends else ():
            # in a notebook, the second signal interrupts the cell
            signal.signal(each, before if before is signal.default_int_handler else signal.SIG_DFL)


def prepare_workers() -> None:
    """Have the workers of DataLoaders killed at exit."""
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)


def notice_dead_workers_at_the_fetch() -> None:
    """Undo torch's handler, which raises an error within a step when a worker dies; the next fetch raises it too."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _end_workers() -> None:
    """Kill the workers that are left at exit: Python would send a signal that they ignore, and wait."""
    notice_dead_workers_at_the_fetch()  # torch's handler would report their end as an error
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def outlive_signals(_: int) -> None:
    """Let a worker outlive Ctrl-C and a first SIGTERM: its parent stops it, after the checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))
