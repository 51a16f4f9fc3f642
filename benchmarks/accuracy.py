"""Train a shipped experiment with several seeds and print what it reaches.

    python -m benchmarks.accuracy --model_dir experiments/base_model
    python -m benchmarks.accuracy --model_dir experiments/signs --data_dir data/64x64_SIGNS

Trains in a temporary folder through the scripts, as a user would; nothing is written into the project.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tabulate import tabulate

PROJECT = Path(__file__).resolve().parent.parent


def run(script: str, model_dir: Path, *words: str) -> None:
    """Run one of the scripts; its output is shown only when it fails."""
    command = [sys.executable, str(PROJECT / script), "--model_dir", str(model_dir), *words]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{script} ended with exit code {result.returncode}\n{result.stderr}")


def measure(params_file: Path, seed: int, data_dir: list[str]) -> dict[str, Any]:
    """Return one row of the table: the metrics of the best weights on val and on test."""
    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(folder)
        shutil.copy(params_file, model_dir)
        run("train.py", model_dir, *data_dir, f"seed={seed}")
        run("evaluate.py", model_dir)
        record = json.loads((model_dir / "run.json").read_text(encoding="utf-8"))
        monitor = record["params"]["monitor"]
        val = json.loads((model_dir / "metrics_val_best_weights.json").read_text(encoding="utf-8"))
        test = json.loads((model_dir / "metrics_test_best.json").read_text(encoding="utf-8"))
    return {
        "seed": str(seed),
        f"val {monitor}": val[monitor],
        f"test {monitor}": test[monitor],
        "epochs": record["epochs"],
    }


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory with the params.json")
    parser.add_argument("--data_dir", default=None, help="the dataset; default: data_dir of the params")
    parser.add_argument("--seeds", type=int, nargs="+", default=[230, 231, 232])
    args = parser.parse_args(argv)
    data_dir = ["--data_dir", args.data_dir] if args.data_dir else []
    rows = [measure(PROJECT / args.model_dir / "params.json", seed, data_dir) for seed in args.seeds]
    means = {name: statistics.mean(row[name] for row in rows) for name in rows[0] if name != "seed"}
    print(tabulate([*rows, {"seed": "mean", **means}], headers="keys", floatfmt=".4g", tablefmt="pipe"))


if __name__ == "__main__":
    main()
