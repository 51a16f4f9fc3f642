"""Gather every run below a folder into one table.

    python synthesize_results.py --parent_dir experiments
    python synthesize_results.py --parent_dir experiments --filter "learning_rate < 0.01 and accuracy > 0.9" --top 5
    python synthesize_results.py --parent_dir experiments --columns learning_rate,accuracy --sort loss
    python synthesize_results.py --parent_dir experiments --compare NAME NAME

Prints the table and writes it into --parent_dir as `results.md`, `results.csv` and `results.tex`, and with --html also
as the page `results.html`. Columns: the hyperparameters in which the runs differ, status, the metrics of the best
weights on val, and on test where `evaluate.py` has been run, epochs and time. Runs that differ only in their seed are
one row, mean ± standard deviation (number). Runs of different tasks or data are separate parts of the table.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fiveline.record.atomic import write_atomically
from fiveline.record.errors import InputError, Stop, with_result
from fiveline.record.log import escaped
from fiveline.record.script import new_parser, run_script
from fiveline.report import columns
from fiveline.report.filter import parse_filter
from fiveline.report.runs import Run, read_runs
from fiveline.report.table import FILES, Table, cell_of, to_terminal


def select_runs(runs: Sequence[Run], text: str, by_name: Mapping[str, columns.Column]) -> list[Run]:
    """Return the runs that a filter accepts, and print which runs lack a value that it needs."""
    verdicts = list(map(parse_filter(text, by_name), runs))
    unknown = [escaped(run.name) for run, verdict in zip(runs, verdicts, strict=True) if verdict is None]
    if unknown:
        names = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        print(f"--filter: {len(unknown)} of {len(runs)} runs lack a value that it needs ({names})", file=sys.stderr)
    if True not in verdicts:
        raise InputError(f"--filter {text!r}: no run matches (of {len(runs)})")
    return [run for run, verdict in zip(runs, verdicts, strict=True) if verdict]


def make_selected_table(runs: Sequence[Run], args: argparse.Namespace) -> tuple[Table, list[str], list[Run]]:
    """Return the table that the arguments select, the names of the columns that sort it, and the runs in it."""
    by_name = columns.all_columns(runs)
    given = columns.find_column(args.sort, by_name, "--sort") if args.sort else None
    if args.filter:
        runs = select_runs(runs, args.filter, by_name)
    differ, sorted_by = columns.hyperparameters_that_differ(runs), []
    groups: list[Sequence[Run]] = []
    for part in columns.by_data(runs):
        sorted_by.append(given or columns.monitored_column(part))
        repeated = [[run] for run in part] if args.each else columns.group_by_seed(part, differ)
        groups += columns.sort_groups(repeated, sorted_by[-1])[: args.top]
    shown = [run for group in groups for run in group]
    hidden = [] if len(sorted_by) > 1 else ["data"]  # if all runs can be compared
    if args.columns:
        names = map(str.strip, f"run,{'' if hidden else 'data'},{args.columns}".split(","))
        chosen = [columns.find_column(name, by_name, "--columns") for name in dict.fromkeys(filter(None, names))]
    else:
        hidden += ["time"] if all(run.seconds is None for run in shown) else []
        differ = differ if len(shown) == len(runs) else columns.hyperparameters_that_differ(shown)
        chosen = [each for each in by_name.values() if each.kind not in hidden]
        chosen = [each for each in chosen if each.kind != "param" or each.key in differ]
    table = {each.name: [cell_of(group, each) for group in groups] for each in chosen}
    return table, [each.name for each in sorted_by], shown


def show(runs: Sequence[Run], args: argparse.Namespace, problems: list[str]) -> dict[str, Any]:
    """Print the table, write its files, and return the runs in it; add the files that could not be read to problems."""
    table, sorted_by, shown = make_selected_table(runs, args)
    texts, width = {name: text_of(table) for name, text_of in FILES.items()}, shutil.get_terminal_size().columns
    print(to_terminal(table, width, sorted_by) if sys.stdout.isatty() else texts["md"], end="")
    folder = Path(args.parent_dir)
    files = [str(folder / f"results.{name}") for name in (*texts, *(["html"] if args.html else []))]
    try:
        for path, text in zip(files, texts.values(), strict=False):
            write_atomically(Path(path), text.encode("utf-8", "backslashreplace"))
        if args.html:
            from fiveline.report.page import write_page

            write_page(shown, folder / "results.html", problems)
            print(f"- wrote {escaped(str(folder / 'results.html'))}", file=sys.stderr)
    except OSError as error:
        raise Stop(f"{error.filename}: could not be written ({error.strerror})") from error
    return {"runs": [vars(run) for run in shown], "files": files}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--parent_dir", default="experiments", help="folder that contains the runs, at any depth")
    add("--sort", default=None, metavar="NAME", help="column to sort by: a metric, a hyperparameter, time, ...")
    add("--columns", default=None, metavar="NAME,NAME", help="columns to show; default: metrics, and what differs")
    add("--filter", default=None, metavar="TEXT", help="which runs: accuracy > 0.9 and optimizer == 'sgd'")
    add("--top", default=None, type=_positive, metavar="N", help="show the first N of each dataset only")
    add("--each", action="store_true", help="one row for each run, also where only the seed differs")
    add("--html", action="store_true", help="also write the page results.html")
    add("--compare", nargs=2, metavar="RUN", help="show two runs side by side instead of the table")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def report(args: argparse.Namespace, runs: Sequence[Run], problems: list[str]) -> dict[str, Any]:
    """Print the table or the comparison, and return it; then print the files that could not be read."""
    try:
        if not runs:
            raise InputError(
                f"{args.parent_dir}: no runs in it yet; train.py --model_dir {args.parent_dir}/NAME makes one"
            )
        if args.compare:
            from fiveline.report.compare import compare

            result = compare(runs, args.compare, problems)
        else:
            result = show(runs, args, problems)
        return {"parent_dir": args.parent_dir, **result, "problems": problems}
    finally:
        for line in problems:
            print(f"skipped: {escaped(line)}", file=sys.stderr)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script, and return the runs or the comparison."""
    args = make_parser().parse_args(argv)
    runs, problems = read_runs(Path(args.parent_dir))
    result = report(args, runs, problems)
    if problems:
        raise with_result(SystemExit(1), result)
    return result


if __name__ == "__main__":
    run_script(main)
