"""`--watch` keeps up with runs that write, reads only what changed, and is broken by nothing."""

import json
import signal
import subprocess
import sys
import time

import pytest

from fiveline.report import files
from fiveline.report.runs import read_runs

VAL = "metrics_val_best_weights.json"


def write_run(folder, accuracy, **record):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "params": {"lr": 0.1}, **record}))
    (folder / VAL).write_text(json.dumps({"accuracy": accuracy}))


@pytest.fixture
def opened(monkeypatch):
    """The files that were opened, in order."""
    seen = []
    read = files._read_bytes

    def note(path):
        seen.append(path)
        return read(path)

    monkeypatch.setattr(files, "_read_bytes", note)
    return seen


def look(parent_dir, before):
    runs, problems = read_runs(parent_dir, before)
    return {run.name: run for run in runs}, problems


def test_only_what_changed_is_read_again(tmp_path, opened):
    for i in range(50):
        write_run(tmp_path / f"run_{i:02}", i / 100)
    before, _ = look(tmp_path, {})
    assert len(opened) == 100
    opened.clear()
    before, _ = look(tmp_path, before)
    assert opened == []
    write_run(tmp_path / "run_07", 0.99)  # written in place, as other code does
    replaced = tmp_path / "run_08/new"
    replaced.write_text('{"accuracy": 0.98}')
    replaced.replace(tmp_path / "run_08" / VAL)  # atomically, as ours does
    write_run(tmp_path / "run_50", 0.5)
    (tmp_path / "run_09" / VAL).unlink()
    (tmp_path / "run_10/train.log").write_text("of no interest")
    after, _ = look(tmp_path, before)
    assert {path.split("/")[-2] for path in opened} == {"run_07", "run_08", "run_09", "run_50"}
    assert (after["run_07"].val["accuracy"], after["run_08"].val["accuracy"]) == (0.99, 0.98)
    assert after["run_09"].val == {} and len(after) == 51


def test_a_torn_file_stays_named_until_it_is_whole(tmp_path, opened):
    write_run(tmp_path / "run", 0.5)
    (tmp_path / "run" / VAL).write_text('{"accuracy": 0.')
    before, problems = look(tmp_path, {})
    opened.clear()
    before, again = look(tmp_path, before)
    assert problems == again and len(problems) == 1 and opened == []
    (tmp_path / "run" / VAL).write_text('{"accuracy": 0.75}')
    after, problems = look(tmp_path, before)
    assert problems == [] and after["run"].val == {"accuracy": 0.75}


def test_a_run_that_dies_becomes_stale_although_none_of_its_files_change(tmp_path, monkeypatch):
    write_run(tmp_path / "run", 0.5, status="running")
    monkeypatch.setattr("fiveline.report.runs.is_held", lambda _: True)
    before, _ = look(tmp_path, {})
    assert before["run"].status == "running"
    monkeypatch.setattr("fiveline.report.runs.is_held", lambda _: False)
    assert look(tmp_path, before)[0]["run"].status == "stale"


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
    words = ["--parent_dir", str(tmp_path / "runs"), "--watch", "0.05", "--sort", "accuracy"]
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, script, *words], stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "no runs yet" in output.read_text(), process)
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
        time.sleep(0.3)
        length = output.stat().st_size
        time.sleep(0.3)
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


def test_files_that_cannot_be_written_are_told(tmp_path, run_script):
    write_run(tmp_path / "run", 0.5)
    (tmp_path / "results.md").mkdir()
    (tmp_path / "results.md/x").touch()
    result = run_script("synthesize_results.py", "--parent_dir", tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"error: {tmp_path / 'results.md'}: could not be written (Is a directory)\n"
