"""The page: `results.html`, one file that needs no network.

Python writes the data as JSON into the page; the scripts in `report/web/` draw it in the browser. They insert names of
runs as text, never as HTML, and the page's own policy refuses any other script and any request.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fiveline.record.atomic import open_atomically, to_json
from fiveline.record.origin import now
from fiveline.report import columns
from fiveline.report.predictions import read_details
from fiveline.report.runs import Run, is_number, read_history

WEB = Path(__file__).parent / "web"
SCRIPTS = ("study", "filter", "table", "charts", "predictions", "run", "start")  # joined into one script
MOST_RUNS = 5000  # as many as a browser can draw: the best runs
MOST_ROWS = 100_000  # in all learning curves together; long curves are thinned out


def write_page(runs: Sequence[Run], path: Path, problems: list[str]) -> None:
    """Write the page into the folder of the runs, and add a line for each file that cannot be read to `problems`.

    The page holds examples of the data, so only its owner can read it until its permissions are changed.
    """
    study = describe_study(runs, path.parent, problems)
    mode = path.stat().st_mode & 0o777 if path.is_file() else 0o600
    with open_atomically(path, mode=mode) as file:
        file.write(render(study).encode("utf-8", "backslashreplace"))


def describe_study(runs: Sequence[Run], parent_dir: Path, problems: list[str]) -> dict[str, Any]:
    """Return everything that the page shows, as plain values."""
    num_runs = len(runs)
    placed: list[tuple[int, Sequence[Run]]] = []  # the best run of each part, then the second of each, and so on
    for part in columns.by_data(runs):
        placed += enumerate(columns.sort_groups([[run] for run in part], columns.monitored_column(part)))
    runs = [run for _, (run,) in sorted(placed, key=lambda pair: pair[0])[:MOST_RUNS]]
    differ, groups = columns.hyperparameters_that_differ(runs), columns.by_data(runs)
    names = [group[0].data for group in groups]
    hidden = {"run", "data"} if len(groups) == 1 else {"run"}
    shown = [each for each in columns.all_columns(runs).values() if each.kind not in hidden]
    shown = [each for each in shown if each.kind != "param" or each.key in differ]
    return {
        "title": parent_dir.resolve().name or str(parent_dir),
        "written": now(),
        "left_out": num_runs - len(runs),
        "columns": [
            {"name": each.name, "kind": each.kind, "higher": columns.is_better_high(each, runs)} for each in shown
        ],
        "groups": [{"name": group[0].data, "monitor": columns.monitored_column(group).name} for group in groups],
        "runs": [
            {
                "name": run.name,
                "group": names.index(run.data),
                "values": [_plain(column.value(run)) for column in shown],
                "others": {name: _plain(run.params[name]) for name in sorted(set(run.params).difference(differ))},
                "best_epoch": run.best_epoch,
            }
            for run in runs
        ],
        "curves": list(_read_curves(runs, problems)),
        "details": read_details(runs, problems),
        "problems": problems,
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; NaN and infinities become text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _read_curves(runs: Sequence[Run], problems: list[str]) -> Iterator[dict[str, Any] | None]:
    """Yield each run's learning curves: `epochs`, and name -> values; `accuracy` is val's, `train accuracy` train's.

    Long curves are thinned out if all of them together would be too much for a browser.
    """
    most = max(10, MOST_ROWS // len(runs))
    for run in runs:
        history = read_history(run, problems)
        history = history[::-1][:: math.ceil(len(history) / most) or 1][::-1]  # the last row stays
        series: dict[str, list[float | None]] = {}
        for i, row in enumerate(history):
            train = {f"train {name}": value for name, value in row.get("train", {}).items()}
            for name, value in {**row.get("val", {}), **train, "learning_rate": row.get("learning_rate")}.items():
                if is_number(value) and math.isfinite(value):
                    series.setdefault(name, [None] * len(history))[i] = float(f"{value:.5g}")
        yield {"epochs": [row["epoch"] for row in history], "series": series} if history else None


def render(study: dict[str, Any]) -> str:
    """Return the page's HTML for the result of `describe_study`."""
    from plotly.offline import get_plotlyjs

    plotly = get_plotlyjs()
    script = "\n".join((WEB / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (plotly, script))
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    parts = {
        "policy": f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:",
        "title": html.escape(study["title"]),
        "style": (WEB / "page.css").read_text(encoding="utf-8"),
        "study": to_json(study, indent=None).replace("<", "\\u003c"),  # nothing in it can end the script element
        "plotly": plotly,
        "script": script,
    }
    page = (WEB / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)  # one pass: filled-in text is not searched
