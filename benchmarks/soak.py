"""Kill real training processes at random moments, continue them, and see whether anything is ever lost.

    python -m benchmarks.soak --kills 200
    python -m benchmarks.soak --kills 20 --seed 1 --jobs 2
    python -m benchmarks.soak --full_disk 20    20 runs and 20 studies on a disk that is full at random moments

One row for each task: how many kills, how many of them during a save or a validation (by what they left behind), how
many files could not be read at any time, and whether every run ended with the same weights, optimizer, history and
metrics, to the bit, as an undisturbed one. Exit code 1 if anything was lost. Works in a temporary folder. With
--full_disk: how often the disk was full, and how often the command ended because of it and was repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.full_disk import soak_on_full_disk
from fiveline.sanity.selftest import differences, finish, kill_after, unreadable

PROJECT = Path(__file__).resolve().parent.parent
# Runs of some seconds, over the data that ships with the tasks: so that kills come at any stage of them.
SHORT: dict[str, Any] = {"num_epochs": 3, "checkpoint_minutes": 0.0005, "save_summary_steps": 10}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "vision": ("base_model", {"num_channels": 16}),
    "vision, 2 workers": ("base_model", {"num_channels": 8, "cache": "none", "num_workers": 2}),
    "ner": ("ner", {}),
    "tabular": ("tabular_digits", {"num_epochs": 60}),
}
MOST_KILLS = 6  # of one run; then it may end
MOST_SHOWN = 50


@dataclasses.dataclass
class Outcome:
    """What was seen of one run, or of all runs of a kind: kills, when they came, and a line for everything lost."""

    runs: int = 1
    kills: int = 0
    during_saving: int = 0
    during_validation: int = 0
    unreadable: list[str] = dataclasses.field(default_factory=list)
    different: list[str] = dataclasses.field(default_factory=list)


class Kind:
    """A kind of run, which is trained again and again.

    Args:
        name: for the table
        folder: for all of its directories
        params: of all of them
    """

    def __init__(self, name: str, folder: Path, params: dict[str, Any]) -> None:
        self.name, self.folder, self.params = name, folder, params
        self.whole = self.new_run("whole")
        self.seconds = finish(self.whole)

    def new_run(self, name: str) -> Path:
        """Return a new run directory."""
        path = self.folder / name
        path.mkdir(parents=True)
        (path / "params.json").write_text(json.dumps(self.params), encoding="utf-8")
        return path

    def soak(self, name: str, generator: random.Random, most_kills: int) -> Outcome:
        """Train one run, with up to so many kills, and compare its end."""
        path, seen = self.new_run(name), Outcome()
        while seen.kills < most_kills and kill_after(generator.uniform(0, self.seconds / 3), path):
            seen.kills += 1
            seen.during_saving += any(path.glob(".*.tmp"))
            seen.during_validation += _last_line(path).startswith("- Train metrics")
            seen.unreadable += unreadable(path)
        finish(path)
        seen.unreadable += unreadable(path)
        seen.different += differences(self.whole, path)
        return seen


def _last_line(path: Path) -> str:
    lines = (path / "train.log").read_text(encoding="utf-8").splitlines()
    return lines[-1].partition(":INFO: ")[2] if lines else ""


def fetch_kinds() -> dict[str, dict[str, Any]]:
    """Return the hyperparameters of each kind of run whose task is there."""
    kinds: dict[str, dict[str, Any]] = {}
    for name, (experiment, settings) in RUNS.items():
        path = PROJECT / "experiments" / experiment / "params.json"
        params = {**json.loads(path.read_text(encoding="utf-8")), **SHORT, **settings} if path.exists() else {}
        if params and (PROJECT / "model" / params["task"]).exists():
            kinds[name] = params
    return kinds


def run_all(kinds: list[Kind], num_kills: int, seed: int, jobs: int) -> dict[str, list[Outcome]]:
    """Train the kinds in turn, again and again, until there were enough kills; return what was seen by name."""
    outcomes: dict[str, list[Outcome]] = {kind.name: [] for kind in kinds}
    lock = threading.Lock()
    position, left = 0, num_kills

    def work() -> None:
        nonlocal position, left
        while left > 0:
            with lock:
                number, most = position, min(MOST_KILLS, left)
                position, left = position + 1, left - most
            kind = kinds[number % len(kinds)]
            seen = kind.soak(str(number), random.Random(seed * 1_000_003 + number), most)
            with lock:
                outcomes[kind.name].append(seen)
                left += most - seen.kills
                done = sum(each.kills for several in outcomes.values() for each in several)
                print(f"{done} of {num_kills} kills", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work) for _ in range(jobs)]:
            future.result()
    return outcomes


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many, over all runs")
    parser.add_argument("--full_disk", type=int, default=0, metavar="N", help="N runs and N studies, and no kills")
    parser.add_argument("--seed", type=int, default=230, help="of the moments")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    args = parser.parse_args(argv)
    start = time.monotonic()
    if args.full_disk:
        report_full_disk(args.full_disk, args.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        kinds = [Kind(name, Path(folder, str(i)), params) for i, (name, params) in enumerate(fetch_kinds().items())]
        outcomes = run_all(kinds, args.kills, args.seed, args.jobs)
    rows, lost = [], []
    for name, several in outcomes.items():
        row: dict[str, Any] = {"run": name}
        for column in ("runs", "kills", "during_saving", "during_validation"):
            row[column.replace("_", " ")] = sum(getattr(seen, column) for seen in several)
        row["unreadable files"] = sum(len(seen.unreadable) for seen in several)
        row["same bits"] = "no" if any(seen.different for seen in several) else "yes"
        rows.append(row)
        lost += [f"{name}: {line}" for seen in several for line in seen.unreadable + seen.different]
    num_kills, seconds = sum(row["kills"] for row in rows), time.monotonic() - start
    print(tabulate(rows, headers="keys", tablefmt="pipe"))
    print(f"\n{num_kills} kills in {seconds:.0f} s; {len(lost) or 'nothing'} lost")
    if lost:
        sys.exit("\n".join(lost[:MOST_SHOWN]))


def report_full_disk(number: int, seed: int) -> None:
    """Print the table of --full_disk, and exit with 1 if anything was lost."""
    start = time.monotonic()
    tasks, how = soak_on_full_disk(fetch_kinds(), number, seed)
    rows = [
        {"run": task.name, "runs": task.runs, "times full": task.times_full, "commands repeated": task.repeats,
         "same bits": "no" if task.lost else "yes"}
        for task in tasks
    ]  # fmt: skip
    lost = [line for task in tasks for line in task.lost]
    print(tabulate(rows, headers="keys", tablefmt="pipe"))
    print(f"\n{how}; {time.monotonic() - start:.0f} s; {len(lost) or 'nothing'} lost")
    if lost:
        sys.exit("\n".join(lost[:MOST_SHOWN]))


if __name__ == "__main__":
    main()
