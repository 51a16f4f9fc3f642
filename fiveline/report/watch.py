"""`--watch`: the table again, whenever a run has changed it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fiveline.record.errors import Stop
from fiveline.record.escape import escaped_lines
from fiveline.report.runs import Run, read_runs
from fiveline.report.text import text_of


def watch(parent_dir: Path, seconds: float, show: Callable[[Sequence[Run]], list[str]]) -> None:
    """Show the runs below a folder, and again as they change, until Ctrl-C.

    Args:
        parent_dir: the folder
        seconds: between two looks at it; what has changed since the last look is read, nothing else
        show: prints the table and returns a line for each file that could not be read
    """
    before: dict[str, Run] = {}
    last = None
    try:
        while True:
            runs, problems = read_runs(parent_dir, before)
            now = [(run.name, run.stamp, run.status) for run in runs]
            if now != last:
                _show(runs, problems, show)
                last, before = now, {run.name: run for run in runs}
            time.sleep(seconds)
    except KeyboardInterrupt:
        print()


def _show(runs: Sequence[Run], problems: list[str], show: Callable[[Sequence[Run]], list[str]]) -> None:
    if sys.stdout.isatty():
        print("\x1b[H\x1b[2J\x1b[3J", end="")  # clear the terminal
    try:
        if runs:
            problems = [*problems, *show(runs)]
        else:
            print("no runs yet")
    except Stop as error:  # no run has the metric to sort by yet, or the disk is full, say
        print(escaped_lines(str(error)), file=sys.stderr)
    for line in problems:
        print(f"skipped: {text_of(line)}", file=sys.stderr)
    print(f"{time.strftime('%H:%M:%S')}: {len(runs)} runs. Ctrl-C ends this.", flush=True)
