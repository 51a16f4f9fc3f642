"""A run directory: one writer at a time, a status that is true, a history without doubles, a record of its origin."""

import contextlib
import os
import socket
import subprocess
import sys

import pytest

import utils
from fiveline.record import origin
from fiveline.record.directory import is_held
from model.vision.params import Params

HOLD = """
import pathlib, sys, utils
with utils.RunDirectory(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold(project):
    """Return a function that lets another process take a directory."""
    with contextlib.ExitStack() as stack:

        def start(path):
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            command = [sys.executable, "-c", HOLD, str(path)]
            process = stack.enter_context(subprocess.Popen(command, cwd=project, text=True, **pipes))
            stack.callback(process.kill)
            assert process.stdout.readline() == "held\n"
            return process

        yield start


def make_params(**values):
    return Params.from_values(values, source="a test")


def test_a_directory_in_use_is_refused_until_its_process_ends(tmp_path, hold):
    process = hold(tmp_path)
    for _ in range(2):  # the refused process takes nothing from the holder
        with pytest.raises(utils.InUseError) as caught, utils.RunDirectory(tmp_path):
            pass
        holder = f"{tmp_path}: in use by process {process.pid} on {socket.gethostname()} since 2"
        assert caught.value.exit_code == 4 and str(caught.value).startswith(holder)
    process.kill()
    process.wait()
    with utils.RunDirectory(tmp_path):
        assert utils.read_json(tmp_path / ".lock.json")["process"] == os.getpid()
    assert not (tmp_path / ".lock.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no file that is open")
def test_a_process_whose_lock_was_removed_writes_no_more(tmp_path, hold):
    with utils.RunDirectory(tmp_path) as run:
        assert is_held(tmp_path)
        (tmp_path / ".lock").unlink()
        process = hold(tmp_path)
        run.append_history({"epoch": 1})
        for write in (run.check_lock, run.write_history):
            with pytest.raises(utils.Stop, match="moved, removed or replaced"):
                write()
        assert not (tmp_path / "history.jsonl").exists()
    assert is_held(tmp_path)
    process.communicate("")
    assert not is_held(tmp_path)


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_directory_that_is_moved_away_is_not_written_to(tmp_path, is_made_again):
    path = tmp_path / "run"
    path.mkdir()
    stopped = pytest.raises(utils.Stop, match="moved, removed or replaced")
    with stopped, utils.RunDirectory(path) as run, run.recorded(make_params()):
        path.rename(tmp_path / "elsewhere")
        if is_made_again:
            path.mkdir()
        run.append_history({"epoch": 1})
        run.check_lock()
    assert path.exists() == is_made_again and not (is_made_again and list(path.iterdir()))


def test_the_record_holds_what_the_run_was_given(tmp_path):
    params = make_params(learning_rate=0.3).with_facts({"classes": ["a"]})
    run = utils.RunDirectory(tmp_path)
    run.update_record(status="failed", reason="of an earlier try")
    with run.recorded(params, restore_file="best"):
        run.update_record(epochs=1)
    record = utils.read_json(tmp_path / "run.json")
    given = {"params": params.model_dump(mode="json"), "hash": params.hash(), "restore_file": "best", "epochs": 1}
    assert record.items() >= {**given, "status": "finished", "reason": None}.items()
    assert record["start"] <= record["end"]
    assert record["versions"].keys() >= {"python", "torch", "numpy"} and all(record["versions"].values())
    assert record["host"] == socket.gethostname() and record["command"]


def test_the_record_says_which_code_it_was_and_whether_it_was_changed(tmp_path, monkeypatch):
    code = tmp_path / "code.py"
    code.write_text("# as committed\n")
    monkeypatch.setattr(origin, "__file__", str(code))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-C", str(tmp_path)]
    assert origin.provenance()["git"] is None
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"], ["tag", "v1"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    (tmp_path / "note.txt").write_text("an untracked file changes no code")
    assert origin.provenance()["git"] == {"commit": commit, "dirty": False}
    code.write_text("# changed\n")
    assert origin.provenance()["git"] == {"commit": commit, "dirty": True}


def test_history_has_each_epoch_once(tmp_path):
    run = utils.RunDirectory(tmp_path)
    assert run.history() == []
    for epoch in (1, 2, 3):
        run.append_history({"epoch": epoch, "seconds": float("nan")})
    run.update_record(epochs=2)
    with pytest.raises(utils.InputError, match="holds a run of 2 epochs; this run has 1 so far and would replace it"):
        run.check_nothing_is_lost(1)
    run.check_nothing_is_lost(2)  # the third one began, but its checkpoint was not saved
    run.cut_history(2)
    run.append_history({"epoch": 3})
    assert run.history() == [{"epoch": 1, "seconds": None}, {"epoch": 2, "seconds": None}, {"epoch": 3}]


def test_other_data_than_before_is_reported_when_a_run_continues(tmp_path, caplog):
    run, data_dir = utils.RunDirectory(tmp_path), tmp_path / "data"
    data_dir.mkdir()
    photo = data_dir / "0_photo.jpg"
    run.append_history({"epoch": 1})
    photo.write_bytes(b"1234")
    run.record_conditions("data", origin.fingerprint(data_dir))

    def is_warned_of():
        caplog.clear()
        run.record_conditions("data", origin.fingerprint(data_dir))
        return "the data changed since this run last started (fingerprint: " in caplog.text

    os.utime(photo, (1, 1))
    photo.write_bytes(b"4321")
    (data_dir / ".DS_Store").write_bytes(b"of the operating system")
    assert not is_warned_of()
    photo.write_bytes(b"12345")
    assert is_warned_of() and not is_warned_of()
    photo.rename(data_dir / "1_photo.jpg")
    assert is_warned_of() and run.record()["data"]["num_files"] == 1
