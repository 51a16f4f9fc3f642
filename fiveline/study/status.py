"""How far a study is, read from its directories alone, while it runs or long after."""

from __future__ import annotations

from tabulate import tabulate

import utils
from fiveline.report.files import is_held
from fiveline.study.plan import Plan, is_maximized, monitored
from fiveline.study.trials import Trial
from fiveline.study.view import best_of, summary


def status_of(trial: Trial) -> str:
    """Return a trial's status; `stale` if its record says running and nobody works on it."""
    status = trial.status()
    return "stale" if status == "running" and not is_held(trial.path) else status


def print_status(plan: Plan) -> None:
    """Print one line for each trial that is known, and a summary."""
    trials = plan.all_trials()
    maximize = is_maximized(plan.directories.base, trials)
    rows = []
    for trial in trials:
        history = monitored(trial)
        epochs = f"{max(history, default=0)}/{trial.params.num_epochs}"
        reason = str(trial.record().get("reason") or "")
        name, status, reason = map(utils.escaped, (trial.name, status_of(trial), reason[:60]))
        rows.append([name, status, epochs, best_of(history, maximize), reason])
    head = ["trial", "status", "epochs", f"best {plan.directories.base.monitor}", "reason"]
    if rows:
        print(tabulate(rows, head, floatfmt=".4g", missingval="-", disable_numparse=[0, 1, 2, 4]))
    print(utils.escaped_lines(f"\n{summary([status_of(trial) for trial in trials], plan.num_trials)}"))
    num_more = len(plan.directories.configurations()) - len(plan.trials)
    if num_more > 0:
        print(f"{num_more} more configurations of this space are in the folder; a larger num_trials counts them")
    if "stale" in (row[1] for row in rows):
        print("stale: its process is gone, killed perhaps; the same search command continues it from its checkpoint")
