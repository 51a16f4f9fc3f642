"""What pruning saves, and what it costs: the shipped study of four hyperparameters, with its pruner and without.

    python -m benchmarks.pruning
    python -m benchmarks.pruning --sampler_seeds 1,2,3,4,5

Runs `search_hyperparams.py` with each seed of the sampler twice, in temporary folders, and prints the best value that a
finished trial came to and the epochs trained. An epoch that a pruned trial had begun counts as a whole one. The best
with pruning is as good as without if, on average over the seeds, it is not worse by more than one example of val. Exit
code 1 if it is worse, or if pruning takes more than 60% of the epochs.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

import utils
from fiveline.study.settings import FILE_NAME

PROJECT = Path(__file__).resolve().parent.parent
EXPERIMENT = PROJECT / "experiments" / "tuned_digits"
MOST_RATIO = 0.6


def run_study(folder: Path, words: list[str]) -> tuple[float, int, int, float]:
    """Run the shipped study in a folder of its own.

    Args:
        folder: to make
        words: settings that beat those of search.yaml

    Returns:
        best value of a finished trial, epochs trained in all trials, finished trials, seconds
    """
    folder.mkdir()
    for path in (utils.find_params_file(EXPERIMENT), EXPERIMENT / FILE_NAME):
        assert path is not None
        shutil.copy(path, folder)
    command = [sys.executable, "search_hyperparams.py", "--parent_dir", str(folder), *words]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise utils.Stop(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    seconds = time.perf_counter() - start
    best, epochs = [], 0
    for path in folder.glob("*/run.json"):
        record = utils.read_json(path)
        is_finished = record["status"] == "finished"
        if is_finished:
            best.append(float(record["best"]))
        epochs += len(utils.read_lines(path.with_name("history.jsonl"))) + (not is_finished)
    return max(best), epochs, len(best), seconds


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampler_seeds", default="230,231,232", help="one pair of studies for each")
    parser.add_argument("--folder", default=None, help="where to keep the studies; default: nowhere")
    args = parser.parse_args(argv)
    rows: list[tuple[int, str, float, int, int, float]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(args.folder or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        for seed in map(int, args.sampler_seeds.split(",")):
            for name, words in (("with", []), ("without", ["pruner=none"])):
                seen = run_study(folder / f"{name}_{seed}", [f"sampler_seed={seed}", *words])
                rows.append((seed, name, *seen))
    headers = ["sampler_seed", "pruning", "best accuracy", "epochs", "finished trials", "seconds"]
    print(tabulate(rows, headers=headers, floatfmt=("", "", ".4f", "", "", ".0f")))
    best = {name: statistics.mean(row[2] for row in rows if row[1] == name) for name in ("with", "without")}
    epochs = {name: statistics.mean(row[3] for row in rows if row[1] == name) for name in ("with", "without")}
    with np.load(PROJECT / "data" / "digits" / "val.npz") as arrays:
        one_example = 1 / len(arrays["labels"])
    lost, ratio = best["without"] - best["with"], epochs["with"] / epochs["without"]
    print(f"mean best: with {best['with']:.4f}, without {best['without']:.4f}; one example of val is {one_example:.4f}")
    print(f"mean epochs: with {epochs['with']:.0f}, without {epochs['without']:.0f}; ratio {ratio:.2f}")
    is_as_good, is_sooner = lost <= one_example + 1e-9, ratio <= MOST_RATIO
    print(f"as good (mean best not worse by more than one example of val): {'yes' if is_as_good else 'no'}")
    print(f"in at most {MOST_RATIO:.0%} of the epochs: {'yes' if is_sooner else 'no'}")
    sys.exit(int(not (is_as_good and is_sooner)))


if __name__ == "__main__":
    utils.run_script(main)
