"""SIGINT and SIGTERM in a run and in the workers of its DataLoaders; the files that workers open, and their end."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import threading
from typing import Any

from fiveline.record.errors import InputError

FILES_OF_A_RUN, FILES_OF_A_WORKER = 40, 6  # open at once, at most: measured 16 and 5


class Signals:
    """A context manager that notes SIGINT and SIGTERM, so that a run stops between two steps.

    A second signal ends the process at once. SIGHUP keeps its handler, because `nohup` ignores it. Outside the main
    thread nothing is noted.

    Args:
        ends_at_second: False in a job, where torchrun passes on a signal that each process may have received already
    """

    def __init__(self, ends_at_second: bool = True) -> None:
        self.received = 0  # the signal's number, 0 for none
        self.ends_at_second = ends_at_second
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = number
        for each, before in self._before.items() if self.ends_at_second else ():
            # in a notebook, the second signal interrupts the cell
            signal.signal(each, before if before is signal.default_int_handler else signal.SIG_DFL)


def prepare_workers(num_workers: int) -> None:
    """Have the workers of train and val killed at exit, and raise the limit of open files to what they need.

    If it cannot be raised that far, an InputError says so: the workers would wait forever.
    """
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)
    try:
        import resource
    except ImportError:  # Windows
        return
    needed = FILES_OF_A_RUN + FILES_OF_A_WORKER * 2 * num_workers
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return
    with contextlib.suppress(OSError, ValueError):
        wanted = needed if highest == resource.RLIM_INFINITY else min(needed, highest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, wanted), highest))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < needed:
        raise InputError(
            f"num_workers {num_workers}: the processes need about {needed} open files, and the limit is {limit}; "
            f"raise it (ulimit -n {needed}) or lower num_workers"
        )


def outlive_signals(_: int) -> None:
    """Let a worker outlive Ctrl-C and a first SIGTERM: its parent stops it, after the checkpoint."""

    def obey_from_now_on(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, obey_from_now_on)


def notice_dead_workers_at_the_fetch() -> None:
    """Undo torch's signal handler, which raises an error as soon as a worker dies.

    That may be within a step, which cannot be saved. The next fetch from the dead worker raises it too, between steps.
    """
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _end_workers() -> None:
    """Kill the workers that are left at exit: Python would send a signal that they ignore, and wait."""
    notice_dead_workers_at_the_fetch()  # torch's handler would report their end as an error
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
