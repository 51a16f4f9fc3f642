"""Gather every run below a folder into one table.

    python synthesize_results.py --parent_dir experiments
    python synthesize_results.py --parent_dir experiments --filter "learning_rate < 0.01 and accuracy > 0.9" --top 5
    python synthesize_results.py --parent_dir experiments --columns learning_rate,accuracy --sort loss
    python synthesize_results.py --parent_dir experiments --compare NAME NAME
    python synthesize_results.py --parent_dir experiments --watch

Prints the table and writes it as `results.md`, `results.csv` and `results.tex` into --parent_dir, with --html as the
page `results.html`, too. Columns: the hyperparameters in which the runs differ, status, epochs, time, the metrics of
the best weights on val, and on test where `evaluate.py` has been run. Runs that differ only in their seed are one row,
mean ± standard deviation (number). Runs of other tasks or data cannot be compared: each has its own part of the table.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fiveline.record.atomic import write_atomically
from fiveline.record.errors import InputError, Stop
from fiveline.record.script import run_script  # not from utils, which imports pydantic: runs without run.json need none
from fiveline.report.columns import Column, all_columns, find_column, hyperparameters_that_differ, sort_column
from fiveline.report.export import to_csv, to_latex
from fiveline.report.filter import parse_filter
from fiveline.report.groups import by_data, sort_groups
from fiveline.report.runs import Run, read_runs
from fiveline.report.seeds import group_by_seed
from fiveline.report.table import Table, default_columns, make_table
from fiveline.report.text import text_of, to_markdown, to_terminal


def select_runs(runs: Sequence[Run], text: str, columns: dict[str, Column]) -> list[Run]:
    """Return the runs that --filter lets through, and say which it could not judge.

    Raises:
        InputError: the filter is none, or lets no run through
    """
    is_wanted = parse_filter(text, columns)
    verdicts = [is_wanted(run) for run in runs]
    unknown = [run.name for run, verdict in zip(runs, verdicts, strict=True) if verdict is None]
    if unknown:
        told = ", ".join(map(text_of, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
        print(f"--filter: {len(unknown)} of {len(runs)} runs lack a value that it asks for ({told})", file=sys.stderr)
    chosen = [run for run, verdict in zip(runs, verdicts, strict=True) if verdict]
    if not chosen:
        raise InputError(f"--filter {text!r}: none of {len(runs)} runs is so")
    return chosen


def make_selected_table(runs: Sequence[Run], args: argparse.Namespace) -> tuple[Table, list[int], list[Run]]:
    """Return the table that was asked for, the positions of its columns by importance, and the runs in it.

    Raises:
        InputError: a name in --sort, --columns or --filter is none
    """
    by_name = all_columns(runs)
    given = sort_column(runs, args.sort) if args.sort else None
    if args.filter:
        runs = select_runs(runs, args.filter, by_name)
    differ = hyperparameters_that_differ(runs)
    groups: list[Sequence[Run]] = []
    sorted_by = []
    for part in by_data(runs):
        sorted_by.append(given or sort_column(part, None))
        repeated = [[run] for run in part] if args.each else group_by_seed(part, differ)
        groups += sort_groups(repeated, sorted_by[-1])[: args.top]
    shown = [run for group in groups for run in group]
    if args.columns:
        names = [name.strip() for name in args.columns.split(",") if name.strip()]
        first = ["run", "data"] if len(sorted_by) > 1 else ["run"]
        columns = [find_column(name, by_name, "--columns") for name in dict.fromkeys([*first, *names])]
        return make_table(groups, columns), list(range(len(columns))), shown
    if len(shown) < len(runs):
        differ = hyperparameters_that_differ(shown)
    columns = default_columns(by_name.values(), differ, shown)
    order = sorted(range(len(columns)), key=lambda i: _importance(columns[i], sorted_by))
    return make_table(groups, columns), order, shown


def _importance(column: Column, sorted_by: Sequence[Column]) -> int:
    """Return how late a column gets room on a terminal: the lower, the sooner."""
    if column in sorted_by:
        return 2
    if column.kind == "test" and any(column.key == each.key for each in sorted_by):
        return 4
    return {"run": 0, "data": 1, "param": 3, "status": 5, "val": 6, "test": 7, "epochs": 8, "time": 9}[column.kind]


def show(runs: Sequence[Run], args: argparse.Namespace) -> list[str]:
    """Print the table that was asked for, write its files, and return a line for each file that could not be read.

    Raises:
        InputError: a name in --sort, --columns or --filter is none
        Stop: a file could not be written
    """
    table, order, shown = make_selected_table(runs, args)
    markdown = to_markdown(table)
    if sys.stdout.isatty():
        text, left_out = to_terminal(table, shutil.get_terminal_size().columns, order)
        print(text, end="")
        if left_out:
            names = ", ".join(map(text_of, left_out))
            print(f"No room for {names}: --columns chooses, results.md and results.csv have them all")
    else:
        print(markdown, end="")
    folder = Path(args.parent_dir)
    texts = {"results.md": markdown, "results.csv": to_csv(table), "results.tex": to_latex(table)}
    try:
        for name, text in texts.items():
            write_atomically(folder / name, text.encode("utf-8", "backslashreplace"))
        if args.html:
            from fiveline.report.page import write_page

            problems = write_page(shown, folder / "results.html", folder)
            print(f"- wrote {text_of(str(folder / 'results.html'))}", file=sys.stderr)
            return problems
    except OSError as error:
        raise Stop(f"{error.filename}: could not be written ({error.strerror})") from error
    return []


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--parent_dir", default="experiments", help="directory with runs in it, at any depth")
    parser.add_argument("--sort", default=None, metavar="NAME", help="column to sort by, a hyperparameter for one")
    parser.add_argument("--columns", default=None, metavar="NAME,NAME", help="what to show, in place of what differs")
    parser.add_argument(
        "--filter", default=None, metavar="TEXT", help="which runs: accuracy > 0.9 and optimizer == 'sgd'"
    )
    parser.add_argument("--top", default=None, type=_positive, metavar="N", help="show the first N of each data only")
    parser.add_argument("--each", action="store_true", help="a row for each run, also where only the seed differs")
    parser.add_argument("--html", action="store_true", help="write the page results.html, too")
    parser.add_argument("--compare", nargs=2, metavar="RUN", help="two runs, side by side, in place of the table")
    parser.add_argument(
        "--watch", nargs="?", const=5.0, type=_seconds, metavar="SECONDS", help="show the table again as runs change it"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, found {text!r}")
    return value


def main(argv: list[str] | None = None) -> None:
    """Run the script.

    Raises:
        Stop: for a reason that is told in its message
    """
    args = make_parser().parse_args(argv)
    parent_dir = Path(args.parent_dir)
    if args.watch:
        from fiveline.report.watch import watch

        watch(parent_dir, args.watch, lambda runs: show(runs, args))
        return
    runs, problems = read_runs(parent_dir)
    if args.compare:
        from fiveline.report.compare import compare

        problems += compare(runs, *args.compare)
    elif runs:
        problems += show(runs, args)
    for line in problems:
        print(f"skipped: {text_of(line)}", file=sys.stderr)
    if not runs:
        raise InputError(f"{parent_dir}: no runs in it yet; train.py --model_dir {parent_dir}/NAME makes one")
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
