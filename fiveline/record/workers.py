"""The worker processes of a DataLoader: the files that they open, signals, and their end."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import threading

from fiveline.record.errors import InputError

FILES_OF_A_RUN, FILES_OF_A_WORKER = 40, 6  # open at once, at most: measured 16 and 5


def prepare(num_workers: int) -> None:
    """Check and register what a run with worker processes needs.

    Raises:
        InputError: they could not open their files
    """
    check_open_files(2 * num_workers)  # those of train and val
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)


def check_open_files(num_workers: int) -> None:
    """Check that worker processes may open their files; otherwise they would wait forever. Raise the limit if allowed.

    Raises:
        InputError: the limit is too low
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    needed = FILES_OF_A_RUN + FILES_OF_A_WORKER * num_workers
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return
    with contextlib.suppress(OSError, ValueError):
        wanted = needed if highest == resource.RLIM_INFINITY else min(needed, highest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, wanted), highest))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < needed:
        raise InputError(
            f"num_workers {num_workers // 2}: the processes need about {needed} open files, and the limit is {limit}; "
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
