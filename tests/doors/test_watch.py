"""`--watch` follows runs that write, and no file stops it."""

import signal
import subprocess
import sys
import time

import pytest

from tests.support.processes import wait_until
from tests.support.results import write_run


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_table_follows_the_runs_and_ctrl_c_ends_it(tmp_path, project, number):
    (tmp_path / "runs").mkdir()
    output, table = tmp_path / "output", tmp_path / "runs/results.md"
    script = str(project / "synthesize_results.py")
    words = ["--parent_dir", str(tmp_path / "runs"), "--watch", "1", "--sort", "accuracy"]
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, script, *words], stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "no runs in it yet" in output.read_text(), process)
        (tmp_path / "runs/a").mkdir()
        (tmp_path / "runs/a/run.json").write_text('{"sta')
        wait_until(lambda: "run.json: not valid JSON" in output.read_text(), process)
        wait_until(lambda: "no run has it" in output.read_text(), process)  # accuracy, so far
        write_run(tmp_path / "runs/a", {"lr": 0.1}, {"accuracy": 0.25}, status="running")
        # its process is gone, which no file shows
        wait_until(lambda: table.exists() and "0.25" in table.read_text() and "stale" in table.read_text(), process)
        for path in (tmp_path / "runs/a").iterdir():
            path.unlink()
        write_run(tmp_path / "runs/b", {"lr": 0.1}, {"accuracy": 0.75})
        wait_until(lambda: "0.75" in table.read_text() and "0.25" not in table.read_text(), process)
        wait_until(lambda: "0.75" in output.read_text() and output.read_text().endswith("ends this.\n"), process)
        length = output.stat().st_size
        time.sleep(1.2)
        assert output.stat().st_size == length  # nothing has changed, so nothing is printed
        process.send_signal(number)
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in output.read_text() and "error" not in output.read_text()
