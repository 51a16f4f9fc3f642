"""Compare how long the table of many runs takes with the time of a script that works as CS230's does.

    python -m benchmarks.synthesis
    python -m benchmarks.synthesis --runs 100000 --rounds 1

Makes run directories in a temporary folder, with the files that train.py and evaluate.py leave (checkpoints and
predictions are empty, because neither script opens them) and a history of 20 epochs. CS230's script reads the metrics
on val. Ours also reads hyperparameters, status and the metrics on test, sorts, and writes four formats.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.timing import new_parser, print_ratios, run_python, take_turns
from fiveline.record.origin import now, provenance, versions
from fiveline.tasks import DEFAULT_TASK, fetch_params_class

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


def write_run(folder: Path, record: dict[str, Any], generator: random.Random) -> None:
    """Write one run directory as train.py and evaluate.py leave it."""
    folder.mkdir(parents=True)
    chosen = {"learning_rate": 10 ** generator.uniform(-4, -1), "batch_size": generator.choice([16, 32, 64])}
    files = dict.fromkeys(EMPTY, "")
    files |= {"run.json": json.dumps({**record, "params": {**record["params"], **chosen}}, indent=4)}
    files |= {"params.json": json.dumps(chosen)}
    for name in ("val_best_weights", "val_last_weights", "test_best"):
        files[f"metrics_{name}.json"] = json.dumps({metric: generator.random() for metric in METRICS}, indent=4)
    row: dict[str, Any] = {split: {metric: generator.random() for metric in METRICS} for split in ("train", "val")}
    row |= {"learning_rate": chosen["learning_rate"], "examples_per_second": 1000.0, "seconds": 1.0}
    files["history.jsonl"] = "".join(json.dumps({"epoch": epoch, **row}) + "\n" for epoch in range(1, 21))
    files["train.log"] = files["history.jsonl"]
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def write_runs(parent_dir: Path, num_runs: int) -> None:
    """Write many runs, a hundred to a folder."""
    generator = random.Random(230)
    params = fetch_params_class(DEFAULT_TASK).from_values({}, "benchmark").model_dump(mode="json")
    record = {"status": "finished", "reason": None, "end": now(), "params": params, "hash": "0" * 16, **provenance()}
    record |= {"versions": versions(), "num_weights": 160_330, "lower_is_better": [], "epochs": 20, "best_epoch": 15}
    for i in range(num_runs):
        write_run(parent_dir / f"{i // 100:05}" / f"run_{i:06}", record, generator)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = new_parser(__doc__, rounds=7)
    parser.add_argument("--runs", type=int, default=10_000, help="directories to make")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder), args.runs)
        actions = {
            "CS230's script": lambda: run_python("-c", CS230, folder),
            "ours": lambda: run_python("synthesize_results.py", "--parent_dir", folder),
        }
        print_ratios(f"{args.runs:,} runs", take_turns(actions, args.rounds))


if __name__ == "__main__":
    main()
