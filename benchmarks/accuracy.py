"""Train a shipped experiment with several seeds and print the metrics that it reaches, and their spread.

    python -m benchmarks.accuracy --model_dir experiments/base_model
    python -m benchmarks.accuracy --model_dir experiments/ner --seeds 1 2 3 4 5 6
    python -m benchmarks.accuracy --model_dir experiments/signs --data_dir data/64x64_SIGNS

Runs train.py and evaluate.py in temporary folders, one seed after the other. Writes nothing into the project.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tabulate import tabulate

import utils
from benchmarks.timing import PROJECT, new_parser, run_python


def measure(params_file: Path, seed: int, words: list[str]) -> dict[str, Any]:
    """Train with one seed; return the row of the table: the best weights' metrics on val and test."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(params_file, folder)
        run_python("train.py", "--model_dir", folder, *words, f"seed={seed}")
        run_python("evaluate.py", "--model_dir", folder)
        record = utils.read_json(Path(folder, "run.json"))
        val = utils.read_json(Path(folder, "metrics_val_best_weights.json"))
        test = utils.read_json(Path(folder, "metrics_test_best.json"))
    name = record["params"]["monitor"]
    return {"seed": str(seed), f"val {name}": val[name], f"test {name}": test[name], "epochs": record["epochs"]}


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = new_parser(__doc__)
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory that holds params.json")
    parser.add_argument("--data_dir", default=None, help="the dataset; default: data_dir of the params")
    parser.add_argument("--seeds", type=int, nargs="+", default=[230, 231, 232], help="one run for each")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="hyperparameters that override the file's")
    args = parser.parse_args(argv)
    words = [*(["--data_dir", args.data_dir] if args.data_dir else []), *args.overrides]
    rows = []
    for seed in args.seeds:
        rows.append(measure(utils.find_params_file(PROJECT / args.model_dir), seed, words))
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), file=sys.stderr, flush=True)
    summaries: dict[str, Any] = {"mean": statistics.mean, "lowest": min, "highest": max}
    if len(rows) > 1:
        summaries["standard deviation"] = statistics.stdev
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "seed"}
    ends = [{"seed": title, **{name: f(column) for name, column in columns.items()}} for title, f in summaries.items()]
    print(tabulate([*rows, *ends], headers="keys", floatfmt=".4g", tablefmt="pipe"))


if __name__ == "__main__":
    main()
