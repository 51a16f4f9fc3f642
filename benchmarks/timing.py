"""What the benchmarks share: they take turns, and the ratios of their times are compared."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

PROJECT = Path(__file__).resolve().parent.parent


def new_parser(description: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """Return a parser, with --rounds for the benchmarks that measure time."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="turns of each action; the median counts")
    return parser


def take_turns(actions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Run the actions one after the other, again and again; return the seconds that each took in each round.

    The speed of a machine drifts within minutes, so only times of the same round are compared. The first round is a
    warm-up and does not count: it reads files from the disk.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if number > 0:
                times[name].append(time.perf_counter() - start)
    return times


def print_ratios(title: str, times: Mapping[str, Sequence[float]], scale: float = 1.0, unit: str = "s") -> None:
    """Print the median time of each action, in seconds * scale, and how long "ours" takes as a multiple of it."""
    rows = []
    for name, seconds in times.items():
        ratios = [ours / other for ours, other in zip(times["ours"], seconds, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append([name, scale * statistics.median(seconds), statistics.median(ratios), spread])
    print(tabulate(rows, headers=[title, f"median {unit}", "ours / it", "by round"], floatfmt=("", ".4g", ".2f")), "\n")


def run_python(*words: str) -> str:
    """Run Python with words such as `train.py --model_dir DIR` in the project's folder; return its output."""
    done = subprocess.run([sys.executable, *words], cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        end = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        sys.exit(f"{' '.join(words)} ended with exit code {done.returncode}\n{end}")
    return done.stdout
