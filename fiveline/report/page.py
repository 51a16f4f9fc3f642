"""The page: `results.html`, one file that needs no network, with all that people ask of a study.

Python reads, and writes what it found as JSON into the page; the scripts in `report/web/` draw it in the browser. Names
of runs are never made into HTML: the scripts set text, and the page's own policy refuses any other script, and any
request.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fiveline.record.atomic import open_atomically
from fiveline.record.files import files_below, to_json
from fiveline.record.origin import now
from fiveline.report.columns import Column, all_columns, hyperparameters_that_differ, is_better_high, sort_column
from fiveline.report.details import read_history
from fiveline.report.groups import by_data, sort_runs
from fiveline.report.page_details import read_details
from fiveline.report.page_importance import importance
from fiveline.report.runs import Run, is_number

WEB = Path(__file__).parent / "web"
SCRIPTS = ("study", "filter", "table", "charts", "parallel", "each", "predictions", "run", "start")  # as one
MOST_RUNS = 5000  # that a browser can draw; of more, the best
MOST_NUMBERS = 1_000_000  # of all learning curves together; long ones are thinned out
FEWEST_POINTS = 10  # of a curve that is thinned out


def write_page(runs: Sequence[Run], path: Path, parent_dir: Path) -> list[str]:
    """Write the page, readable only by users who may read the examples that it shows.

    Args:
        runs: at least one
        path: of the page
        parent_dir: the folder that the runs are below

    Returns:
        a line for each file that could not be read
    """
    problems: list[str] = []
    sources: set[Path] = set()
    study = describe_study(runs, parent_dir, problems, sources)
    mode = 0o666 if _is_public(sources, path.parent) else 0o600
    with open_atomically(path, mode=mode) as file:
        file.write(render(study).encode("utf-8", "backslashreplace"))
    return problems


def _is_public(sources: Iterable[Path], folder: Path) -> bool:
    """Return whether whoever can get to a folder may read all the sources: files, and those below folders."""
    above = {folder.resolve(), *folder.resolve().parents}  # closed ones of these protect the page, too
    try:
        for source in sources:
            for path in [source / name for name in files_below(source)] if source.is_dir() else [source]:
                place = path.resolve()
                if not place.stat().st_mode & stat.S_IROTH:
                    return False
                for parent in place.parents:
                    if parent in above:
                        break
                    if not parent.stat().st_mode & stat.S_IXOTH:
                        return False
                    above.add(parent)  # its own parents follow
    except OSError:
        return False
    return True


def describe_study(
    runs: Sequence[Run], parent_dir: Path, problems: list[str], sources: set[Path] | None = None
) -> dict[str, Any]:
    """Return all that the page shows, as plain values.

    Args:
        runs: at least one
        parent_dir: the folder that the runs are below
        problems: gets a line for each file that could not be read
        sources: gets the files that examples were taken from, or the folder that these are in
    """
    num_runs, runs = len(runs), sort_runs(runs)[:MOST_RUNS]
    differ, by_name, groups = hyperparameters_that_differ(runs), all_columns(runs), by_data(runs)
    numbers_of_groups = {group[0].data: number for number, group in enumerate(groups)}
    left_out = ("run", "data") if len(groups) == 1 else ("run",)
    columns = [
        column
        for column in by_name.values()
        if column.kind not in left_out and (column.kind != "param" or column.key in differ)
    ]
    metrics = [column for column in columns if column.kind in ("val", "test")]
    shared, numbers = _shared_params(runs, differ)
    return {
        "title": parent_dir.resolve().name or str(parent_dir),
        "written": now(),
        "left_out": num_runs - len(runs),
        "columns": [
            {"name": column.name, "kind": column.kind, "higher": is_better_high(column, runs)} for column in columns
        ],
        "groups": [
            {
                "name": group[0].data,
                "monitor": sort_column(group, None).name,
                "importance": {column.name: _importance(group, differ, column) for column in metrics},
            }
            for group in groups
        ],
        "runs": [
            {
                "name": run.name,
                "group": numbers_of_groups[run.data],
                "values": [_plain(column.value(run)) for column in columns],
                "best_epoch": run.best_epoch,
                "shared": number,
            }
            for run, number in zip(runs, numbers, strict=True)
        ],
        "shared": shared,
        "curves": _read_curves(runs, problems),
        "details": read_details(runs, problems, set() if sources is None else sources),
        "problems": problems,
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; NaN and infinities stay what they are, as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _shared_params(runs: Sequence[Run], differ: Sequence[str]) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the hyperparameters that do not differ, one dict for each kind of run, and the kind of each run."""
    kinds: dict[frozenset[str], int] = {}
    shared: list[dict[str, Any]] = []
    numbers = []
    for run in runs:
        names = frozenset(run.params).difference(differ)
        if names not in kinds:
            kinds[names] = len(shared)
            shared.append({name: _plain(run.params[name]) for name in sorted(names)})
        numbers.append(kinds[names])
    return shared, numbers


def _importance(runs: Sequence[Run], differ: Sequence[str], metric: Column) -> dict[str, Any]:
    """Return the share of each hyperparameter, and how many runs it was computed from."""
    scored = [(run, metric.value(run)) for run in runs]
    known = [(run, value) for run, value in scored if is_number(value) and math.isfinite(value)]
    params = [{name: run.params.get(name) for name in differ} for run, _ in known]
    values = [float(value) for _, value in known]
    return {"runs": len(known), "shares": importance(params, values, not is_better_high(metric, runs))}


def _read_curves(runs: Sequence[Run], problems: list[str]) -> list[dict[str, Any] | None]:
    """Return the learning curves of each run: `epochs`, and name -> values; `accuracy` is of val, `train accuracy` not.

    Long curves are thinned out where all of them together would be too much for a browser.
    """
    curves: list[dict[str, Any] | None] = []
    most = max(FEWEST_POINTS, MOST_NUMBERS // (10 * len(runs)))
    for run in runs:
        history = read_history(run, problems)
        if len(history) > most:
            chosen = {round(i * (len(history) - 1) / (most - 1)) for i in range(most)}
            history = [row for i, row in enumerate(history) if i in chosen]
        rows = [_flat_epoch(row) for row in history]
        names = dict.fromkeys(name for row in rows for name in row)
        series = {name: [_rounded(row.get(name)) for row in rows] for name in names}
        curves.append({"epochs": [row["epoch"] for row in history], "series": series} if history else None)
    return curves


def _flat_epoch(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for split, prefix in (("val", ""), ("train", "train ")):
        values = row.get(split)
        flat |= {f"{prefix}{name}": value for name, value in values.items()} if isinstance(values, dict) else {}
    return flat | {name: row[name] for name in ("learning_rate",) if name in row}


def _rounded(value: Any) -> float | None:
    """Return a number with the digits that a curve can show; a gap is None."""
    return float(f"{value:.5g}") if is_number(value) and math.isfinite(value) else None


def render(study: dict[str, Any]) -> str:
    """Return the page's HTML.

    Args:
        study: of `describe_study`
    """
    from plotly.offline import get_plotlyjs  # here, because only the page needs it

    plotly = get_plotlyjs()
    script = "\n".join((WEB / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    allowed = " ".join(_fingerprint(text) for text in (plotly, script))
    parts = {
        "policy": f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:",
        "title": html.escape(study["title"]),
        "style": (WEB / "page.css").read_text(encoding="utf-8"),
        "study": to_json(study, indent=None).replace("<", "\\u003c"),  # nothing in it can end the script element
        "plotly": plotly,
        "script": script,
    }
    page = (WEB / "page.html").read_text(encoding="utf-8")
    before, *rest = page.split("{{")  # one pass: what is filled in is not looked at again
    pieces = [before]
    for part in rest:
        name, _, after = part.partition("}}")
        pieces += [parts[name], after]
    return "".join(pieces)


def _fingerprint(script: str) -> str:
    """Return how the page's policy names a script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
