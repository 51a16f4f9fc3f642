"""`--compare A B`: two runs side by side, with intervals, paired tests, and the examples on which they disagree."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fiveline.record.errors import InputError
from fiveline.report.intervals import compare_paired, interval
from fiveline.report.predictions import PREDICTIONS, Rows, is_quantity, is_tagged, read_predictions
from fiveline.report.runs import TEST_FILE, Run
from fiveline.report.shares import Shares, read_npz
from fiveline.report.table import shortened, text_of, to_markdown

ENTRIES = ["a", "a_interval", "b", "b_interval", "difference", "difference_interval", "p"]  # in --json
HEAD = ["metric", "A", "A's 95% interval", "B", "B's 95% interval", "B - A", "its 95% interval", "p"]
LEGEND = """
p: how often a difference at least this large appears if A and B are swapped at random for each example. The interval
is B - A plus and minus a bound that 95% of these differences stay below. Other seeds are not taken into account.
"""
SHARES = "shares_test_best.npz"
TOLERANCE = 1e-4  # between a value that is added up over batches and over examples, in float32
MOST_SHOWN = 10


def compare(runs: Sequence[Run], names: Sequence[str], problems: list[str]) -> dict[str, Any]:
    """Print and return a comparison of two runs, given by name or path; add unreadable files to `problems`."""
    a, b = (find_run(runs, name) for name in names)
    print(f"A is {text_of(a.name)}, B is {text_of(b.name)}\n")
    differ = sorted(name for name in {**a.params, **b.params} if a.params.get(name) != b.params.get(name))
    params = [[name, a.params.get(name), b.params.get(name)] for name in differ]
    print(_table(["hyperparameter", "A", "B"], params) if params else "They have the same hyperparameters.\n")
    first, second = (read_predictions(run, problems) for run in (a, b))
    for run in [run for run, found in ((a, first), (b, second)) if not found]:
        print(f"No tests: no predictions in {text_of(str(run.path))}; evaluate.py --model_dir ... writes them\n")
    of_a, of_b = ({**run.val, **{f"test {name}": value for name, value in run.test.items()}} for run in (a, b))
    rows = {name: _row(of_a.get(name), of_b.get(name)) for name in {**of_a, **of_b}}
    are_paired = bool(first) and [(r["id"], r["label"]) for r in first] == [(r["id"], r["label"]) for r in second]
    if are_paired:
        print(f"Both were evaluated on the same {len(first):,} examples of test.\n")
        ours, theirs = (_read_shares(run, len(first), problems) for run in (a, b))
        rows |= {f"test {name}": _tested_row(ours[name], theirs[name]) for name in ours if name in theirs}
    elif first and second:
        counts = f"{len(first):,} and {len(second):,}"
        print(f"No tests: A and B were evaluated on different examples ({counts}), or in a different order\n")
    shown = [[f"{c[0]:.4g} to {c[1]:.4g}" if isinstance(c, tuple) else c for c in row] for row in rows.values()]
    print(_table(HEAD, [[name, *row] for name, row in zip(rows, shown, strict=True)]), end=LEGEND if are_paired else "")
    if are_paired and not is_quantity(first):
        print_disagreements(first, second)
    entries = [{"metric": name, **dict(zip(ENTRIES, row, strict=True))} for name, row in rows.items()]
    return {"a": vars(a), "b": vars(b), "num_examples": len(first) if are_paired else None, "metrics": entries}


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return to_markdown({name: [row[i] for row in rows] for i, name in enumerate(head)})


def find_run(runs: Sequence[Run], name: str) -> Run:
    """Return the run with that name or directory."""
    place = Path(name)
    found = [run for run in runs if run.name == name.rstrip("/")]
    found = found or [run for run in runs if place.is_dir() and run.path.samefile(place)]
    if found:
        return found[0]
    names = [run.name for run in runs]
    close = ", ".join(map(text_of, difflib.get_close_matches(name, names, n=5, cutoff=0.3) or names[:5]))
    raise InputError(f"--compare {name}: there is no such run below --parent_dir; there are {close}, ...")


def _row(a: float | None, b: float | None) -> list[Any]:
    return [a, None, b, None, None if a is None or b is None else b - a, None, None]


def _tested_row(a: Shares, b: Shares) -> list[Any]:
    return [a.value(), interval(a), b.value(), interval(b), b.value() - a.value(), *compare_paired(a, b)]


def _read_shares(run: Run, num_examples: int, problems: list[str]) -> dict[str, Shares]:
    """Return the shares that give the metrics of test in the run's directory; print why others are left out."""
    path, found, notes = run.path / SHARES, {}, []
    try:
        for name, shares in read_npz(path).items():
            if (number := len(shares.numerators)) != num_examples:
                raise ValueError(f"of {number:,} examples, expected {num_examples:,} as in {PREDICTIONS}")
            value, written = shares.value(), run.test.get(name, math.nan)
            if math.isclose(value, written, rel_tol=TOLERANCE, abs_tol=TOLERANCE / 100):
                found[name] = shares
            elif name in run.test:
                notes.append(f"No test of {name}: {path} gives {value:.6g}, and {TEST_FILE} has {written:.6g}")
    except FileNotFoundError:
        notes = [f"No tests: no {SHARES} in {run.path}"]
    except (OSError, ValueError) as error:
        problems.append(f"{path}: not used ({getattr(error, 'strerror', None) or error})")
    for note in notes:
        print(f"{text_of(note)}; evaluate.py --model_dir ... writes it again\n")
    return found


def print_disagreements(first: Rows, second: Rows) -> None:
    """Print how many examples two runs predict differently, and a table of the first ones."""
    cells = [(a["id"], a["label"], a["prediction"], b["prediction"]) for a, b in zip(first, second, strict=True)]
    rows = [row for row in cells if row[2] != row[3]]
    only_a, only_b = (sum(row[i] == row[1] for row in rows) for i in (2, 3))
    print(
        f"\nThey disagree on {len(rows):,} of {len(first):,} examples: only A is right on {only_a:,}, only B on "
        f"{only_b:,}, neither on {len(rows) - only_a - only_b:,}."
    )
    short = [[shortened(cell) for cell in row] for row in rows[:MOST_SHOWN]]
    if short and not is_tagged(first):
        print(f"The first {len(short)}:\n\n{_table(['example', 'label', 'A', 'B'], short)}")
