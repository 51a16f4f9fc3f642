"""SIGINT and SIGTERM, noted until a run is between two steps."""

from __future__ import annotations

import signal
import threading
from typing import Any


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
