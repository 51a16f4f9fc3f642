"""Which tests need which task: each folder in model/ may be removed, and what remains is still to be tested."""

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
REMOVED = {path.name for path in PROJECT.glob("tests/model/*") if not (PROJECT / "model" / path.name).is_dir()}


def needs(*tasks):
    """Return a mark that skips a test, a module or a parameter when the folder of one of the tasks was removed."""
    removed = sorted(REMOVED.intersection(tasks))
    return pytest.mark.skipif(bool(removed), reason=f"needs model/{removed[0]}" if removed else "")


def need(task):
    """Skip the test that is running when the folder of the task was removed."""
    if task in REMOVED:
        pytest.skip(f"needs model/{task}")
