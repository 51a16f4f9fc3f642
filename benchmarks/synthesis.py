"""Measure how long the table of many runs takes, against a script that works as CS230's does.

    python -m benchmarks.synthesis
    python -m benchmarks.synthesis --runs 100000 --rounds 1

Makes run directories in a temporary folder, with a history of 20 epochs each: once with all the files that train.py and
evaluate.py leave (checkpoints and predictions empty, since neither script opens them), once with run.json, history and
metrics alone. The scripts take turns, each a process of its own; the ratio is that of their medians. CS230's reads the
metrics on val; ours hyperparameters, status and the metrics on test besides, sorts, and writes four formats.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fiveline.record.origin import now, provenance, versions
from fiveline.tasks import DEFAULT_TASK, fetch_params_class

PROJECT = Path(__file__).resolve().parent.parent
METRICS = ("accuracy", "top_5_accuracy", "macro_precision", "macro_recall", "macro_f1", "loss")
EMPTY = (".lock", "last.pth.tar", "last.previous.pth.tar", "best.pth.tar", "predictions_test_best.csv", "evaluate.log")
CS230 = """
import json, os, sys
from tabulate import tabulate

def gather(folder, found):
    path = os.path.join(folder, "metrics_val_best_weights.json")
    if os.path.isfile(path):
        with open(path) as file:
            found[folder] = json.load(file)
    for name in os.listdir(folder):
        if os.path.isdir(os.path.join(folder, name)):
            gather(os.path.join(folder, name), found)

found = {}
gather(sys.argv[1], found)
head = list(found[next(iter(found))])
table = tabulate([[name] + [values[key] for key in head] for name, values in found.items()], head, tablefmt="pipe")
print(table)
with open(os.path.join(sys.argv[1], "results.md"), "w") as file:
    file.write(table)
"""


def write_run(folder: Path, record: dict[str, Any], generator: random.Random, is_full: bool) -> None:
    """Write one run directory as train.py and evaluate.py leave it."""
    folder.mkdir(parents=True)
    chosen = {"learning_rate": 10 ** generator.uniform(-4, -1), "batch_size": generator.choice([16, 32, 64])}
    record = {**record, "params": {**record["params"], **chosen}}
    files = {"run.json": json.dumps(record, indent=4)}
    for name in ("val_best_weights", "test_best"):
        files[f"metrics_{name}.json"] = json.dumps({metric: generator.random() for metric in METRICS}, indent=4)
    row: dict[str, Any] = {split: {metric: generator.random() for metric in METRICS} for split in ("train", "val")}
    row |= {"learning_rate": chosen["learning_rate"], "examples_per_second": 1000.0, "seconds": 1.0}
    files["history.jsonl"] = "".join(json.dumps({"epoch": epoch, **row}) + "\n" for epoch in range(1, 21))
    if is_full:
        files |= {"params.json": json.dumps(chosen), "train.log": files["history.jsonl"], **dict.fromkeys(EMPTY, "")}
        files["metrics_val_last_weights.json"] = files["metrics_val_best_weights.json"]
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def write_study(parent_dir: Path, num_runs: int, is_full: bool) -> None:
    """Write a study of many runs, a hundred to a folder."""
    generator = random.Random(230)
    params = fetch_params_class(DEFAULT_TASK).from_values({}, "benchmark").model_dump(mode="json")
    record = {"status": "finished", "reason": None, "end": now(), "params": params, "hash": "0" * 16, **provenance()}
    record |= {"versions": versions(), "num_weights": 160_330, "lower_is_better": [], "epochs": 20, "best_epoch": 15}
    for i in range(num_runs):
        write_run(parent_dir / f"{i // 100:05}" / f"run_{i:06}", record, generator, is_full)


def run_once(command: list[str]) -> tuple[float, float]:
    """Return the seconds that a process takes, and the most memory that it had, in MB."""
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[1]} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1000


def measure(parent_dir: Path, num_runs: int, rounds: int, label: str) -> None:
    """Let the scripts take turns, and print times, memory and the ratio."""
    commands = {
        "CS230's": [sys.executable, "-c", CS230, str(parent_dir)],
        "ours": [sys.executable, "synthesize_results.py", "--parent_dir", str(parent_dir)],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for command in commands.values():
        run_once(command)  # bring the files into memory
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(run_once(command))
    for name, measured in found.items():
        seconds, memory = zip(*measured, strict=True)
        spread = f"{min(seconds):6.2f} to {max(seconds):6.2f}"
        print(f"{num_runs:,} {label}  {name:8} {statistics.median(seconds):6.2f} s  ({spread})  {max(memory):4.0f} MB")
    theirs, ours = ([seconds for seconds, _ in measured] for measured in found.values())
    ratios = [b / a for a, b in zip(theirs, ours, strict=True)]
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"{num_runs:,} {label}  ratio    {ratio:6.2f}    ({min(ratios):6.2f} to {max(ratios):6.2f} by round)")


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="directories to make")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each script; the median counts")
    args = parser.parse_args(argv)
    for is_full, label in ((True, "runs with all files"), (False, "bare runs")):
        with tempfile.TemporaryDirectory() as folder:
            write_study(Path(folder), args.runs, is_full)
            measure(Path(folder), args.runs, args.rounds, label)


if __name__ == "__main__":
    main()
