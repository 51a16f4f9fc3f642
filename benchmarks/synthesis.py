"""Compare how long the table of many runs takes with the time of a script that works as CS230's does.

    python -m benchmarks.synthesis
    python -m benchmarks.synthesis --runs 100000 --rounds 1

Trains and scores one run in a temporary folder and copies it, each time with another learning rate. CS230's script
reads the metrics on val. Ours also reads hyperparameters, status and metrics on test, sorts, and writes four formats.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.timing import PROJECT, new_parser, print_ratios, run_python, take_turns

RATE = '"learning_rate": 0.003'  # in run.json
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


def copy(run_dir: Path, target: Path, rate: float) -> None:
    """Copy a run directory, with another learning rate in its record."""
    target.mkdir(parents=True)
    for path in run_dir.iterdir():
        if path.name == "run.json":
            text = path.read_text(encoding="utf-8").replace(RATE, f'"learning_rate": {rate}')
            (target / path.name).write_text(text, encoding="utf-8")
        else:
            os.link(path, target / path.name)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = new_parser(__doc__, rounds=7)
    parser.add_argument("--runs", type=int, default=10_000, help="directories to make, a hundred to a folder")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        run_dir, parent_dir = Path(name, "run"), Path(name, "runs")
        run_dir.mkdir()
        shutil.copy(PROJECT / "experiments/base_model/params.json", run_dir)
        run_python("train.py", "--model_dir", str(run_dir), "learning_rate=0.003", "num_channels=2", "num_epochs=20")
        run_python("evaluate.py", "--model_dir", str(run_dir))
        for i in range(args.runs):
            copy(run_dir, parent_dir / f"{i // 100:05}" / f"run_{i:06}", (i + 1) / 1e6)
        actions = {
            "CS230's script": lambda: run_python("-c", CS230, str(parent_dir)),
            "ours": lambda: run_python("synthesize_results.py", "--parent_dir", str(parent_dir)),
        }
        print_ratios(f"{args.runs:,} runs", take_turns(actions, args.rounds))


if __name__ == "__main__":
    main()
