"""`--watch` keeps up with runs that write, and is broken by nothing."""

import json
import signal
import subprocess
import sys
import time

import pytest

from fiveline.report.runs import read_runs

VAL = "metrics_val_best_weights.json"


def write_run(folder, accuracy, **record):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "params": {"lr": 0.1}, **record}))
    (folder / VAL).write_text(json.dumps({"accuracy": accuracy}))


def test_a_run_that_dies_becomes_stale_although_none_of_its_files_change(tmp_path, monkeypatch):
    write_run(tmp_path / "run", 0.5, status="running")
    for is_held, status in ((True, "running"), (False, "stale")):
        monkeypatch.setattr("fiveline.record.held.is_held", lambda _, is_held=is_held: is_held)
        assert [run.status for run in read_runs(tmp_path)[0]] == [status]


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_table_follows_the_runs_and_ctrl_c_ends_it(tmp_path, project, number):
    (tmp_path / "runs").mkdir()
    output = tmp_path / "output"
    script = str(project / "synthesize_results.py")
    words = ["--parent_dir", str(tmp_path / "runs"), "--watch", "1", "--sort", "accuracy"]
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, script, *words], stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "no runs in it yet" in output.read_text(), process)
        (tmp_path / "runs/a").mkdir()
        (tmp_path / "runs/a/run.json").write_text('{"sta')
        wait_for(lambda: "run.json: not valid JSON" in output.read_text(), process)
        assert "no run has it" in output.read_text()  # accuracy, so far
        write_run(tmp_path / "runs/a", 0.25)
        table = tmp_path / "runs/results.md"
        wait_for(lambda: table.exists() and "0.25 " in table.read_text(), process)
        write_run(tmp_path / "runs/b", 0.75)
        wait_for(lambda: "0.75 " in table.read_text(), process)
        for path in (tmp_path / "runs/a").iterdir():
            path.unlink()
        wait_for(lambda: "0.25 " not in table.read_text(), process)
        time.sleep(1.5)
        length = output.stat().st_size
        time.sleep(1.5)
        assert output.stat().st_size == length  # nothing has changed, so nothing is said
        process.send_signal(number)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in output.read_text() and "error" not in output.read_text()


def test_a_folder_that_vanishes_ends_it_with_a_message(tmp_path, run_script):
    result = run_script("synthesize_results.py", "--parent_dir", tmp_path / "nowhere", "--watch")
    assert result.returncode == 2 and "there is no such directory" in result.stderr
