"""Run the code cells of the notebook in order, as Jupyter does: in the folder of the notebook, in one namespace."""

import json
import subprocess
import sys

import pytest

from tests.support.pages import PROJECT, make_clone, read
from tests.support.tasks import needs

CELLS = json.loads(read(PROJECT / "docs/quick_start.ipynb"))["cells"]


@pytest.mark.slow
@needs("vision")
def test_quick_start_runs_from_the_first_cell_to_the_last(tmp_path):
    folder = make_clone(tmp_path / "fiveline")
    code = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code")
    result = subprocess.run([sys.executable, "-c", code], cwd=folder / "docs", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(text in result.stdout for text in ("conv1", "160,330 weights", "lower_rate"))
    rows = [line.split() for line in result.stdout.splitlines()]
    right = [row[0] == row[1] for row in rows if len(row) == 3 and row[0].isdecimal() and row[1].isdecimal()]
    assert len(right) == 5 and sum(right) >= 4
