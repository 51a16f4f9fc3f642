"""Which tests need which task: each folder in model/ may be removed, and what remains is still to be tested."""

import json
from pathlib import Path

import pytest

from fiveline.tasks import DEFAULT_TASK

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = ("ner", "tabular", "text", "vision")
REMOVED = {task for task in SHIPPED if not (PROJECT / "model" / task / "params.py").exists()}


def needs(*tasks):
    """Return a mark that skips a test, a module or a parameter when the folder of one of the tasks was removed."""
    removed = sorted(REMOVED.intersection(tasks))
    return pytest.mark.skipif(bool(removed), reason=f"needs model/{removed[0]}" if removed else "")


def task_of(folder):
    """Return the task of a run directory, by its params.json."""
    return json.loads((folder / "params.json").read_text(encoding="utf-8")).get("task", DEFAULT_TASK)


def need(task):
    """Skip the test that is running when the folder of the task was removed."""
    if task in REMOVED:
        pytest.skip(f"needs model/{task}")
