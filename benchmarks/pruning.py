"""Compare the shipped study of four hyperparameters with its pruner and without: epochs trained, and best accuracy.

    python -m benchmarks.pruning
    python -m benchmarks.pruning --sampler_seeds 1 2 3 4 5

Runs search_hyperparams.py twice for each seed of the sampler, in temporary folders. An epoch that a pruned trial had
begun counts as a whole one.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tabulate import tabulate

import utils
from benchmarks.timing import PROJECT, new_parser, run_python

EXPERIMENT = PROJECT / "experiments/tuned_digits"


def run_study(words: list[str]) -> dict[str, Any]:
    """Run the study with some settings; return the best value of a finished trial, and the epochs of all trials."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("params.json", "search.yaml"):
            shutil.copy(EXPERIMENT / name, folder)
        run_python("search_hyperparams.py", "--parent_dir", folder, *words)
        best, epochs = [], 0
        for path in Path(folder).glob("*/run.json"):
            record = utils.read_json(path)
            if record["status"] == "finished":
                best.append(float(record["best"]))
            epochs += len(utils.read_lines(path.with_name("history.jsonl"))) + (record["status"] != "finished")
    return {"best accuracy": max(best), "epochs": epochs, "finished trials": len(best)}


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = new_parser(__doc__)
    parser.add_argument("--sampler_seeds", type=int, nargs="+", default=[230, 231, 232], help="two studies for each")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all studies, before the flags")
    args = parser.parse_args(argv)
    rows = []
    for seed in args.sampler_seeds:
        for title, words in (("with", []), ("without", ["pruner=none"])):
            seen = run_study([*args.overrides, f"sampler_seed={seed}", *words])
            rows.append({"sampler_seed": seed, "pruning": title, **seen})
    print(tabulate(rows, headers="keys", floatfmt=".4f"))
    (best, epochs), (best_without, epochs_without) = (
        [statistics.mean(row[key] for row in rows if row["pruning"] == title) for key in ("best accuracy", "epochs")]
        for title in ("with", "without")
    )
    print(f"with pruning, {epochs / epochs_without:.0%} of the epochs: {epochs:.0f} instead of {epochs_without:.0f}")
    print(f"mean best accuracy with pruning {best:.4f}, without {best_without:.4f}")


if __name__ == "__main__":
    main()
