"""Gather every run below a folder into one table.

    python synthesize_results.py --parent_dir experiments
    python synthesize_results.py --parent_dir experiments/learning_rate --sort loss

Prints the table and writes it as `results.md` and `results.csv` into --parent_dir. Columns: the hyperparameters in
which the runs differ, the metrics of the best weights on val, and on test where `evaluate.py` has been run.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

import utils

VAL_FILE, TEST_FILE, PARAMS_FILE, RUN_FILE = (
    "metrics_val_best_weights.json", "metrics_test_best.json", "params.json", "run.json",
)  # fmt: skip


@dataclasses.dataclass
class Run:
    """What is known of one run directory.

    Args:
        name: its path below the parent folder
        params: the hyperparameters it was run with, or, before that, those in its file
        metrics: `accuracy` (val) and `test accuracy`: name -> value
        status: of run.json; `unknown` for runs of other code
        epochs: how many it has done, where known
        lower_is_better: its metrics that are errors
    """

    name: str
    params: dict[str, Any]
    metrics: dict[str, float]
    status: str
    epochs: int | None
    lower_is_better: list[str]


def find_runs(parent_dir: Path) -> tuple[list[Run], list[str]]:
    """Return every run below a folder, sorted by name, and a line for each file that could not be read.

    Raises:
        InputError: there is no such folder
    """
    if not parent_dir.is_dir():
        raise utils.InputError(f"{parent_dir}: there is no such directory; --parent_dir says where the runs are")
    runs: list[Run] = []
    problems: list[str] = []
    for folder, subfolders, files in os.walk(parent_dir):
        subfolders.sort()
        if VAL_FILE in files or RUN_FILE in files:
            runs.append(_read_run(Path(folder), parent_dir, files, problems))
    return runs, problems


def _read_run(folder: Path, parent_dir: Path, files: Sequence[str], problems: list[str]) -> Run:
    def read(name: str) -> dict[str, Any]:
        try:
            return utils.read_json(folder / name) if name in files else {}
        except utils.InputError as error:
            problems.append(str(error))
            return {}

    record = read(RUN_FILE)
    params = record.get("params") or read(PARAMS_FILE)
    metrics = {name: value for name, value in read(VAL_FILE).items() if _is_number(value)}
    metrics |= {f"test {name}": value for name, value in read(TEST_FILE).items() if _is_number(value)}
    name = folder.relative_to(parent_dir).as_posix()
    return Run(
        name if name != "." else folder.name,
        params,
        metrics,
        record.get("status", "unknown"),
        record.get("epochs"),
        record.get("lower_is_better", []),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the hyperparameters, in alphabetical order, that are not the same in all runs."""
    names = sorted({name for run in runs for name in run.params})
    return [name for name in names if len({utils.to_json(run.params.get(name), indent=None) for run in runs}) > 1]


def sort_runs(runs: Sequence[Run], by: str | None) -> list[Run]:
    """Return the runs, the best first; those without the value last.

    Args:
        runs: any
        by: a metric or a hyperparameter; None for the metric that the runs monitored

    Raises:
        InputError: no run has such a value
    """
    key = by or next((run.params["monitor"] for run in runs if "monitor" in run.params), "accuracy")
    known = sorted({name for run in runs for name in (*run.metrics, *run.params)})
    if by and by not in known:
        raise utils.InputError(f"--sort {by}: no run has it; choose one of {', '.join(known)}")
    is_metric = any(key in run.metrics for run in runs)
    errors = {"loss", *(name for run in runs for name in run.lower_is_better)}
    sign = -1 if is_metric and key.removeprefix("test ") not in errors else 1

    def order(run: Run) -> tuple[bool, float, str, str]:
        value: Any = run.metrics.get(key, run.params.get(key))
        return (value is None, sign * float(value) if _is_number(value) else 0.0, str(value), run.name)

    return sorted(runs, key=order)


def metrics_to_table(runs: Sequence[Run]) -> tuple[list[str], list[list[Any]]]:
    """Return the head and the rows of the table; the columns are the union over all runs."""
    params, metrics = differing(runs), list(dict.fromkeys(name for run in runs for name in run.metrics))
    metrics.sort(key=lambda name: name.startswith("test "))  # val before test, else as they come
    head = ["run", *params, "status", "epochs", *metrics]
    rows = [
        [
            run.name,
            *(run.params.get(name) for name in params),
            run.status,
            run.epochs,
            *(run.metrics.get(name) for name in metrics),
        ]
        for run in runs
    ]
    return head, rows


def main(argv: list[str] | None = None) -> None:
    """Run the script.

    Raises:
        Stop: for a reason that is told in its message
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--parent_dir", default="experiments", help="directory with runs in it, at any depth")
    parser.add_argument("--sort", default=None, metavar="NAME", help="metric or hyperparameter to sort by")
    args = parser.parse_args(argv)
    parent_dir = Path(args.parent_dir)
    runs, problems = find_runs(parent_dir)
    for line in problems:
        print(f"skipped: {line}", file=sys.stderr)
    if not runs:
        raise utils.InputError(f"{parent_dir}: no runs in it yet; train.py --model_dir {parent_dir}/NAME makes one")
    head, rows = metrics_to_table(sort_runs(runs, args.sort))
    print(tabulate(rows, head, tablefmt="pipe", floatfmt=".4g", missingval="-"))
    markdown = tabulate(
        [[_in_markdown(cell) for cell in row] for row in rows], head, tablefmt="pipe", floatfmt=".4g", missingval="-"
    )
    utils.write_atomically(parent_dir / "results.md", (markdown + "\n").encode("utf-8"))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    utils.write_atomically(parent_dir / "results.csv", text.getvalue().encode("utf-8"))
    if problems:
        sys.exit(1)


def _in_markdown(cell: Any) -> Any:
    return cell.replace("|", "\\|").replace("\n", " ") if isinstance(cell, str) else cell


if __name__ == "__main__":
    utils.run_script(main)
