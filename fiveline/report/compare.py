"""`--compare A B`: two runs side by side, with intervals, paired tests, and the examples on which they disagree."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fiveline.record.errors import InputError
from fiveline.report.details import PREDICTIONS, read_predictions
from fiveline.report.disagreements import Prediction, disagreements
from fiveline.report.intervals import Interval, interval
from fiveline.report.resampling import compare_paired
from fiveline.report.runs import TEST_FILE, Run
from fiveline.report.shares import Shares, read_npz
from fiveline.report.table import Table
from fiveline.report.text import text_of, to_markdown

Predictions = dict[str, Prediction]  # by id


def compare(runs: Sequence[Run], first_name: str, second_name: str) -> list[str]:
    """Print how two runs differ, and return a line for each file that could not be read.

    Args:
        runs: all that there are
        first_name: a run's name, its path, or how its name begins
        second_name: the same

    Raises:
        InputError: there is no such run, or there are several
    """
    first, second = find_run(runs, first_name), find_run(runs, second_name)
    problems: list[str] = []
    print(f"A is {text_of(first.name)}, B is {text_of(second.name)}\n")
    names = sorted(
        name for name in {**first.params, **second.params} if first.params.get(name) != second.params.get(name)
    )
    if names:
        rows = [[name, first.params.get(name), second.params.get(name)] for name in names]
        print(to_markdown(Table.of_rows(["hyperparameter", "A", "B"], rows)))
    else:
        print("They have the same hyperparameters.\n")
    tested, pairs = _tested_rows(first, second, problems)
    val = [_plain_row(name, first.val.get(name), second.val.get(name)) for name in {**first.val, **second.val}]
    print(to_markdown(Table.of_rows(HEAD, [*val, *tested])))
    if pairs:
        print(f"{LEGEND}\n\n{disagreements(pairs)}")
    return problems


HEAD = ["metric", "A", "A's 95% interval", "B", "B's 95% interval", "B - A", "its 95% interval", "p", "test"]
LEGEND = """\
p: how often a difference at least as large comes about by chance. McNemar: the exact test with mid-p, where examples
are right or wrong; the interval of B - A is Bonett and Price's. swaps: A and B are swapped per example, at random; the
interval of B - A reaches as far as 95% of the swaps. Tests and intervals know these examples only, not other seeds."""
SHARES = "shares_test_best.npz"
TOLERANCE = 1e-4  # between a value that is added up over batches and over examples, in float32


def find_run(runs: Sequence[Run], name: str) -> Run:
    """Return the run of that name, in that directory, or whose name alone begins so.

    Raises:
        InputError: there is no such run, or there are several
    """
    for run in runs:
        if run.name == name.rstrip("/"):
            return run
    place = Path(name)
    if place.is_dir():
        for run in runs:
            if run.path.samefile(place):
                return run
    found = [run for run in runs if run.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    names = [run.name for run in found or runs]
    close = names if found else difflib.get_close_matches(name, names, n=5) or names
    told = ", ".join(map(text_of, close[:5])) + (", ..." if len(close) > 5 else "")
    raise InputError(
        f"--compare {name}: {len(found)} runs begin so, {told}"
        if found
        else f"--compare {name}: there is no such run below --parent_dir; there are {told}"
    )


def _tested_rows(
    first: Run, second: Run, problems: list[str]
) -> tuple[list[list[Any]], list[tuple[Prediction, Prediction]]]:
    """Return a row for each metric of test, with a test where there are shares, and the predictions in pairs.

    Args:
        first: a run
        second: another
        problems: gets a line for a file that could not be read
    """
    names = list({**first.test, **second.test})
    plain = {name: _plain_row(f"test {name}", first.test.get(name), second.test.get(name)) for name in names}
    by_id = [_read_by_id(run, problems) for run in (first, second)]
    common = _common(by_id)
    if not common:
        return list(plain.values()), []
    is_all = len(common) == len(by_id[0]) == len(by_id[1])
    places = [{key: i for i, key in enumerate(predictions)} for predictions in by_id]
    positions = [[place[key] for key in common] for place in places]
    shares = [_read_shares(run, len(place), problems) for run, place in zip((first, second), places, strict=True)]
    tested = []
    for name in names:
        if all(name in each for each in shares):
            tested.append(_tested_row(name, shares[0][name], shares[1][name], positions))
        elif is_all:
            tested.append(plain[name])  # else it would be about other examples than the rest
    return tested, [(by_id[0][key], by_id[1][key]) for key in common]


def _read_shares(run: Run, num_examples: int, problems: list[str]) -> dict[str, Shares]:
    """Return the shares of the metrics that evaluate.py has written, and print or note why there are none."""
    path = run.path / SHARES
    try:
        shares = read_npz(path)
    except FileNotFoundError:
        print(f"No tests: no {SHARES} in {text_of(str(run.path))}; evaluate.py --model_dir ... writes it\n")
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"{path}: not a file of evaluate.py ({getattr(error, 'strerror', None) or error}); not used")
        return {}
    number = max((len(each.numerators) for each in shares.values()), default=num_examples)
    if number != num_examples:
        problems.append(f"{path}: of {number:,} examples, and the predictions of {num_examples:,}; not used")
        return {}
    return {name: each for name, each in shares.items() if _is_value(each.value(), name, run)}


def _is_value(value: float, name: str, run: Run) -> bool:
    """Return whether shares give the metric that evaluate.py has written, and print where they do not."""
    written = run.test.get(name)
    if written is None:  # the table has no value either
        return False
    is_close = math.isclose(value, written, rel_tol=TOLERANCE, abs_tol=TOLERANCE / 100)
    if not is_close:
        told = text_of(f"{name}: {run.path / SHARES} gives {value:.6g}, and {TEST_FILE} says {written:.6g}")
        print(f"No test of {told}; evaluate.py --model_dir ... writes both again\n")
    return is_close


def _plain_row(name: str, a: float | None, b: float | None) -> list[Any]:
    return [name, a, None, b, None, b - a if a is not None and b is not None else None, None, None, None]


def _tested_row(name: str, first: Shares, second: Shares, positions: Sequence[Sequence[int]]) -> list[Any]:
    a, b = first.of(positions[0]), second.of(positions[1])
    found = compare_paired(a, b)
    # in the order of evaluate.py, which the resamples depend on: so the intervals are the ones that it prints
    ends = [interval(each.of(sorted(chosen))) for each, chosen in zip((first, second), positions, strict=True)]
    cells = [a.value(), _text(ends[0]), b.value(), _text(ends[1]), b.value() - a.value(), _text(found.interval)]
    return [f"test {name}", *cells, found.p, found.test]


def _text(ends: Interval | None) -> str | None:
    return f"{ends[0]:.4g} to {ends[1]:.4g}" if ends else None


def _read_by_id(run: Run, problems: list[str]) -> Predictions:
    """Return the predictions, and print, and note where it is a problem, why there are none."""
    found: list[str] = []
    rows = read_predictions(run, found)
    by_id = {row["id"]: row for row in rows}
    path = run.path / PREDICTIONS
    if len(by_id) < len(rows):
        found.append(f"{path}: {len(rows) - len(by_id)} rows have an id that another has; not used")
    elif rows and not {"label", "prediction"} <= rows[0].keys():
        found.append(f"{path}: no column of labels, or none of predictions; not used")
    problems += found
    if rows and not found:
        return by_id
    reasons = found or [f"no predictions in {run.path}; evaluate.py --model_dir ... writes them"]
    print(f"No tests: {text_of('; '.join(reasons))}\n")
    return {}


def _common(by_id: Sequence[Predictions]) -> list[str]:
    """Return the ids of the examples that both predictions are about, and say which are not."""
    if not all(by_id):
        return []
    first, second = by_id
    both = [key for key in first if key in second]
    common = [key for key in both if first[key]["label"] == second[key]["label"]]
    if len(common) == len(first) == len(second):
        print(f"Both were evaluated on the same {len(common):,} examples of test.\n")
    else:
        other = f", {len(both) - len(common):,} of them with another label" if len(common) < len(both) else ""
        print(
            f"A was evaluated on {len(first):,} examples of test, B on {len(second):,}; {len(both):,} in both{other}."
        )
        print(f"What is said of test below is about the {len(common):,} that are the same.\n")
    return common
