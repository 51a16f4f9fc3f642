"""Disturb real training processes at random moments, continue them, and check that nothing was lost.

    python -m benchmarks.soak --kills 200
    python -m benchmarks.soak --kills 20 --seed 1 --jobs 2
    python -m benchmarks.soak --full_disk 20    20 runs and 20 studies on a disk that is full at random moments

Prints a row for each task: how often its runs were killed (by what they left behind, also how often during a save or a
validation) or met a full disk, and whether every run ended with the same weights, optimizer, history and metrics, to
the bit, as an undisturbed one. Exit code 1 if anything was lost. Works in a temporary folder.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.disk import Disk
from benchmarks.timing import PROJECT, new_parser
from fiveline.sanity.selftest import differences, train_once, unreadable

# Runs of some seconds on the data that ships with the tasks, so that kills come at all stages of a run.
SHORT: dict[str, Any] = {"num_epochs": 3, "checkpoint_minutes": 0.0005, "save_summary_steps": 10}
SMALL_NET = {"context_length": 64, "num_layers": 1, "width": 32}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "vision": ("base_model", {"num_channels": 16}),
    "vision, 2 workers": ("base_model", {"num_channels": 8, "cache": "none", "num_workers": 2}),
    "ner": ("ner", {}),
    "tabular": ("tabular_digits", {"num_epochs": 60}),
    "text, next": ("text_characters", {**SMALL_NET, "warmup_steps": 30, "num_steps": 300, "evaluate_every_steps": 100}),
    "text, label": ("text_labels", SMALL_NET),
}
FILLED = {  # for --full_disk only; many epochs between two saves, so that history and log meet the full disk
    "many epochs": {"num_epochs": 300, "checkpoint_minutes": 30, "hidden_size": 32},
    "study": {"num_epochs": 15},
}
SPACE = {"space": {"learning_rate": [0.001, 0.003, 0.01]}}
MAX_DISTURBED, MAX_COMMANDS = 6, 20  # for one run or study
MAX_SHOWN = 50


class Kind:
    """A kind of run, or of study, that is trained again and again in a folder, with the same hyperparameters."""

    def __init__(self, name: str, folder: Path, params: Mapping[str, Any]) -> None:
        self.name, self.folder, self.params = name, folder, params
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []
        script, flag = ("search_hyperparams.py", "--parent_dir") if name == "study" else ("train.py", "--model_dir")
        self.words = [sys.executable, script, flag]
        self.whole: Path | None = None
        self.seconds = 0.0  # of an undisturbed run

    def new_folder(self, name: str) -> Path:
        """Return a new run or study directory."""
        path = self.folder / name
        path.mkdir(parents=True)
        (path / "params.json").write_text(json.dumps(self.params), encoding="utf-8")
        if self.name == "study":
            (path / "search.yaml").write_text(json.dumps(SPACE), encoding="utf-8")
        return path

    def kill(self, number: int, generator: random.Random, max_kills: int) -> Counter[str]:
        """Train one run with kills, compare its end, and return the counts."""
        path, seen = self.new_folder(str(number)), Counter(runs=1, kills=0)
        while seen["kills"] < max_kills and train_once(path, delay=generator.uniform(0, self.seconds / 3))[0]:
            seen["kills"] += 1
            seen["during saving"] += any(path.glob(".*.tmp"))
            last_line = (path / "train.log").read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
            seen["during validation"] += ":INFO: - Train metrics" in last_line
            self.lost += [f"{self.name}: {line}" for line in unreadable(path)]
        train_once(path)
        self.compare(path)
        return seen

    def fill(self, number: int, generator: random.Random, disk: Disk) -> None:
        """Repeat the command on a disk that is full at times until it ends well, and compare its end."""
        path, num_left, code = self.new_folder(str(number)), MAX_DISTURBED, -1
        self.counts["runs"] += 1
        for _ in range(MAX_COMMANDS):
            with tempfile.TemporaryFile() as output:
                process = subprocess.Popen([*self.words, str(path)], cwd=PROJECT, stdout=output, stderr=output)
                while num_left and not _has_ended(process, generator.uniform(0, self.seconds / 3)):
                    disk.fill(10 ** generator.uniform(-2, 0.3))
                    self.counts["times full"] += 1
                    num_left -= 1
                code = process.wait()
                output.seek(0)
                text = output.read().decode(errors="replace")
            if code == 0:
                break
            self.counts["commands repeated"] += 1
            if code != 1 or "Traceback" in text:
                self.lost.append(f"{self.name}: exit code {code}: {text[-1500:]}")
        if code:
            self.lost.append(f"{self.name}: {MAX_COMMANDS} commands did not finish it")
        else:
            self.compare(path)

    def compare(self, path: Path) -> None:
        """Compare the end of a run, or of a study's runs, with an undisturbed one, and note what was lost."""
        assert self.whole is not None
        lost = [f"{file.name} was left behind" for file in path.glob("**/.*.tmp")]
        for checkpoint in sorted(self.whole.glob("**/last.pth.tar")):
            whole = checkpoint.parent
            ours = path / whole.relative_to(self.whole)
            lost += unreadable(ours) + differences(whole, ours)
        self.lost += [f"{self.name}: {line}" for line in lost]

    def run_undisturbed(self) -> None:
        """Run once without a disturbance, to compare the others with it."""
        self.whole, start = self.new_folder("whole"), time.monotonic()
        subprocess.run([*self.words, str(self.whole)], cwd=PROJECT, capture_output=True, check=True)
        self.seconds = time.monotonic() - start


def _has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def fetch_kinds(folder: Path) -> list[Kind]:
    """Return the kinds of run whose task is there."""
    kinds = []
    for name, (experiment, settings) in RUNS.items():
        path = PROJECT / "experiments" / experiment / "params.json"
        params = {**json.loads(path.read_text(encoding="utf-8")), **SHORT, **settings} if path.exists() else {}
        if params and (PROJECT / "model" / params["task"]).exists():
            kinds.append(Kind(name, folder / name, params))
    return kinds


def kill_runs(folder: Path, num_kills: int, seed: int, jobs: int) -> tuple[list[Kind], str]:
    """Kill runs of each kind in turn until there were enough kills; return the kinds, and a summary."""
    kinds, number, done = fetch_kinds(folder), 0, 0
    for kind in kinds:
        kind.run_undisturbed()
    with ThreadPoolExecutor(jobs) as pool:
        while done < num_kills:
            runs = []
            for share in filter(None, ((num_kills - done + i) // jobs for i in range(jobs))):  # of what is left
                kind, generator = kinds[number % len(kinds)], random.Random(seed * 1_000_003 + number)
                runs.append((kind, pool.submit(kind.kill, number, generator, min(MAX_DISTURBED, share))))
                number += 1
            for kind, future in runs:
                kind.counts.update(future.result())
            done = sum(kind.counts["kills"] for kind in kinds)
            print(f"{done} of {num_kills} kills", file=sys.stderr, flush=True)
    return kinds, f"{done} kills"


def fill_disks(folder: Path, number: int, seed: int) -> tuple[list[Kind], str]:
    """Train runs, and then studies, on a disk that is full at times; return the kinds, and a summary."""
    generator, disk = random.Random(seed), Disk(folder)
    kinds = fetch_kinds(folder)
    kinds += [Kind(name, folder / name, {**kinds[-1].params, **settings}) for name, settings in FILLED.items()]
    try:
        for i in range(2 * number):
            kind = kinds[-1] if i >= number else kinds[i % (len(kinds) - 1)]
            if kind.whole is None:
                kind.run_undisturbed()
            kind.fill(i, generator, disk)
            shutil.rmtree(kind.folder / str(i))
            print(f"{i + 1} of {2 * number}: {kind.name}", file=sys.stderr, flush=True)
    finally:
        disk.unmount()
    return kinds, f"{number} runs and {number} studies"


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = new_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how many, over all runs")
    parser.add_argument(
        "--full_disk", type=int, nargs="?", const=20, default=0, metavar="N", help="N runs and N studies, and no kills"
    )
    parser.add_argument("--seed", type=int, default=230, help="decides the moments")
    parser.add_argument("--jobs", type=int, default=1, help="runs that are killed at the same time")
    args = parser.parse_args(argv)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if args.full_disk:
            kinds, summary = fill_disks(Path(folder), args.full_disk, args.seed)
        else:
            kinds, summary = kill_runs(Path(folder), args.kills, args.seed, args.jobs)
    rows = [
        {"run": kind.name, **kind.counts, "same bits": "no" if kind.lost else "yes"} for kind in kinds if kind.counts
    ]
    lost = [line for kind in kinds for line in kind.lost]
    print(tabulate(rows, headers="keys", tablefmt="pipe"))
    print(f"\n{summary} in {time.monotonic() - start:.0f} s; {len(lost) or 'nothing'} lost")
    if lost:
        sys.exit("\n".join(lost[:MAX_SHOWN]))


if __name__ == "__main__":
    main()
