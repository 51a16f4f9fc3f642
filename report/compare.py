"""`--compare A B`: two runs side by side, with intervals, paired tests, and the examples on which they disagree."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record.errors import InputError
from report.details import read_per_class, read_predictions
from report.disagreements import Prediction, disagreements
from report.examples import Rows, fetch_shares
from report.resampling import Shares, compare_by_bootstrap, mcnemar
from report.runs import Run
from report.table import Table
from report.text import text_of, to_markdown

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
Intervals: bootstrap over the examples. p: how often so large a difference comes about by chance; McNemar's exact test
for the accuracy of whole examples, else the paired bootstrap. Both know of these examples only, not of other seeds."""


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
    """Return a row for each metric of test, with intervals and a test where the predictions tell, and these in pairs.

    Args:
        first: a run
        second: another
        problems: gets a line for a file that could not be read
    """
    names = list({**first.test, **second.test})
    plain = {name: _plain_row(f"test {name}", first.test.get(name), second.test.get(name)) for name in names}
    by_id = [_read_by_id(run, problems) for run in (first, second)]
    common = _common(by_id, (first, second))
    if not common:
        return list(plain.values()), []
    is_all = len(common) == len(by_id[0]) == len(by_id[1])
    rows = [list(predictions.values()) for predictions in by_id]
    places = [{key: i for i, key in enumerate(predictions)} for predictions in by_id]
    positions = [[place[key] for key in common] for place in places]
    classes = _classes((first, second), rows, problems)
    tested = []
    for name in names:
        known = [
            fetch_shares(name, run.test.get(name, math.nan), each, classes)
            for run, each in zip((first, second), rows, strict=True)
        ]
        if known[0] is not None and known[1] is not None:
            tested.append(_tested_row(name, known[0].of(positions[0]), known[1].of(positions[1])))
        elif is_all:
            tested.append(plain[name])  # else it would be about other examples than the rest
    return tested, [(by_id[0][key], by_id[1][key]) for key in common]


def _plain_row(name: str, a: float | None, b: float | None) -> list[Any]:
    return [name, a, None, b, None, b - a if a is not None and b is not None else None, None, None, None]


def _tested_row(name: str, a: Shares, b: Shares) -> list[Any]:
    found = compare_by_bootstrap(a, b)
    p, test = found.p, "bootstrap"
    if name == "accuracy" and (a.denominators == 1).all():  # of whole examples, not of a sentence's tokens
        p, test = mcnemar(a.numerators[:, 0].tolist(), b.numerators[:, 0].tolist()), "McNemar"
    first, second, difference = map(_interval, (found.first_interval, found.second_interval, found.interval))
    return [f"test {name}", found.first, first, found.second, second, found.second - found.first, difference, p, test]


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.4g} to {ends[1]:.4g}"


def _read_by_id(run: Run, problems: list[str]) -> Predictions:
    rows = read_predictions(run, problems)
    by_id = {row["id"]: row for row in rows}
    path = run.path / "predictions_test_best.csv"
    if len(by_id) < len(rows):
        problems.append(f"{path}: {len(rows) - len(by_id)} rows have an id that another has; not used")
        return {}
    if rows and not {"label", "prediction"} <= rows[0].keys():
        problems.append(f"{path}: no column of labels, or none of predictions; not used")
        return {}
    return by_id


def _common(by_id: Sequence[Predictions], runs: Sequence[Run]) -> list[str]:
    """Return the ids of the examples that both predictions are about, and say which are not."""
    missing = [run for run, predictions in zip(runs, by_id, strict=True) if not predictions]
    for run in missing:
        print(f"No tests: no predictions in {text_of(str(run.path))}; evaluate.py --model_dir ... writes them\n")
    if missing:
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


def _classes(runs: Sequence[Run], rows: Sequence[Rows], problems: list[str]) -> list[str]:
    """Return the classes: all that evaluate.py has listed, and those in the predictions."""
    listed = [row["class"] for run in runs for row in read_per_class(run, problems)]
    seen = {row[key] for each in rows for row in each for key in ("label", "prediction")}
    return list(dict.fromkeys([*listed, *sorted(seen)]))
