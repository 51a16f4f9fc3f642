"""A run directory: one writer at a time, a status that is true, a history without doubles, a record of its origin."""

import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import utils
from fiveline.record.atomic import temporary_path
from fiveline.record.held import is_held
from fiveline.record.origin import fingerprint
from model.vision.params import Params

HOLD = """
import pathlib, sys, utils
with utils.RunDirectory(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
WRITE = """
import pathlib, sys, utils
with utils.open_atomically(pathlib.Path(sys.argv[1], "metrics_test_best.json")) as file:
    print("held", flush=True)
    file.write(sys.stdin.read().encode())
"""
OUT_OF_MEMORY = (
    "out of memory (MemoryError); lower microbatch_size or num_workers, or else batch_size or the size of the net"
)


@pytest.fixture
def hold(project):
    """Return a function that lets another process take a directory, or do something else there."""
    processes = []

    def start(path, code=HOLD):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def make_params(**values):
    return Params.from_values(values, source="a test")


def status_after(path, error):
    """Return the record of a run that ended with an error, or without one."""
    run = utils.RunDirectory(path)
    try:
        with run.recorded(make_params()):
            assert run.record()["status"] == "running"
            if error is not None:
                raise error
    except type(error):
        pass
    return utils.read_json(path / "run.json")


def test_a_directory_in_use_is_refused_with_who_uses_it(tmp_path, hold):
    process = hold(tmp_path)
    with pytest.raises(utils.InUseError) as caught, utils.RunDirectory(tmp_path):
        pass
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert str(tmp_path) in message and f"process {process.pid} on {socket.gethostname()} since 2" in message


def test_a_directory_is_free_again_after_its_process(tmp_path, hold):
    process = hold(tmp_path)
    process.communicate("")
    with utils.RunDirectory(tmp_path):
        pass


def test_a_killed_process_leaves_the_directory_free(tmp_path, hold):
    process = hold(tmp_path)
    process.kill()
    process.wait()
    with utils.RunDirectory(tmp_path):
        holder = utils.read_json(tmp_path / ".lock.json")
        assert holder["process"] == os.getpid()
    assert not (tmp_path / ".lock.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no file that is open")
def test_a_process_whose_lock_was_removed_writes_no_more(tmp_path, hold):
    with utils.RunDirectory(tmp_path) as run:
        run.check_place()
        assert is_held(tmp_path)
        (tmp_path / ".lock").unlink()
        process = hold(tmp_path)
        with pytest.raises(utils.Stop, match="moved, removed or replaced"):
            run.check_place()
        run.show_epoch({"epoch": 1})
        assert not (tmp_path / "history.jsonl").exists()
    assert is_held(tmp_path)
    process.communicate("")
    assert not is_held(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the child in /proc")
def test_a_lock_ends_with_its_process_although_children_live_on(tmp_path, hold):
    child = "import os, time\nwith utils.RunDirectory(pathlib.Path(sys.argv[1])):\n    if os.fork() == 0:\n"
    child += (
        "        print('held', flush=True)  # once it has closed its copy\n    time.sleep(60)\n    sys.stdin.read()\n"
    )
    process = hold(tmp_path, "import pathlib, sys, utils\n" + child)
    [left] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    try:
        with utils.RunDirectory(tmp_path):
            pass
    finally:
        os.kill(int(left), 9)


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_directory_that_is_moved_away_is_not_written_to(tmp_path, is_made_again):
    path = tmp_path / "run"
    path.mkdir()
    with pytest.raises(utils.Stop, match="moved, removed or replaced"), utils.RunDirectory(path) as run:
        run.check_place()
        with run.recorded(make_params()):
            path.rename(tmp_path / "elsewhere")
            if is_made_again:
                path.mkdir()
            run.show_epoch({"epoch": 1})
            run.check_place()
    assert path.exists() == is_made_again and not (is_made_again and list(path.iterdir()))


def test_what_another_process_is_writing_is_left_alone(tmp_path, hold):
    """evaluate.py in the directory of a run that is started, or restarted, just then."""
    writer = hold(tmp_path, WRITE)
    with utils.RunDirectory(tmp_path) as run:
        run.clear()
    writer.communicate("{}")
    assert writer.returncode == 0 and utils.read_json(tmp_path / "metrics_test_best.json") == {}


def test_what_a_process_without_the_lock_is_writing_is_left_for_a_day(tmp_path, hold):
    """Also on a disk that machines share, where no one can tell whether the writer lives."""
    writer = hold(tmp_path, WRITE)
    temporary_path(tmp_path / "last.pth.tar").touch()  # a checkpoint: its writer had the lock, which we have now
    old = temporary_path(tmp_path / "predictions_test_best.csv")
    old.touch()
    os.utime(old, (time.time() - 25 * 60 * 60,) * 2)
    with utils.RunDirectory(tmp_path):
        left = [path.name for path in tmp_path.glob(".*.tmp")]
    assert len(left) == 1 and re.fullmatch(r"\.metrics_test_best\.json\.\w+\.tmp", left[0])
    writer.communicate("{}")
    assert writer.returncode == 0 and utils.read_json(tmp_path / "metrics_test_best.json") == {}


def test_a_refused_process_takes_nothing_from_the_holder(tmp_path):
    with utils.RunDirectory(tmp_path):
        for _ in range(2):
            with pytest.raises(utils.InUseError, match=f"process {os.getpid()} "), utils.RunDirectory(tmp_path):
                pass
        assert (tmp_path / ".lock.json").exists()


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "finished", None),
        (utils.InputError("no data"), "failed", "no data"),
        (ZeroDivisionError("division by zero"), "failed", "division by zero"),
        (MemoryError(), "failed", OUT_OF_MEMORY),
        (utils.DivergedError("the loss is nan"), "diverged", "the loss is nan"),
        (utils.InterruptedRun("stopped by SIGTERM", 15), "interrupted", "stopped by SIGTERM"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_the_status_says_how_a_run_ended(tmp_path, error, status, reason):
    record = status_after(tmp_path, error)
    assert (record["status"], record["reason"]) == (status, reason)
    assert record["start"] <= record["end"]


def test_a_second_try_forgets_the_reason_of_the_first(tmp_path):
    status_after(tmp_path, utils.InputError("no data"))
    record = status_after(tmp_path, None)
    assert (record["status"], record["reason"]) == ("finished", None)


def test_the_record_holds_what_the_run_was_given(tmp_path):
    params = make_params(learning_rate=0.3).with_facts({"classes": ["a"]})
    run = utils.RunDirectory(tmp_path)
    with run.recorded(params, restore_file="best"):
        run.update_record(epochs=1)
    record = utils.read_json(tmp_path / "run.json")
    assert record["params"] == params.model_dump(mode="json") and record["params"]["learning_rate"] == 0.3
    assert record["hash"] == params.hash()
    assert (record["restore_file"], record["epochs"]) == ("best", 1)
    assert record["versions"].keys() >= {"python", "torch", "numpy"} and all(record["versions"].values())
    assert record["host"] == socket.gethostname()
    assert record["command"]


def test_the_record_says_which_code_it_was_and_whether_it_was_changed(project, tmp_path):
    shutil.copytree(project / "fiveline", tmp_path / "fiveline", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-C", str(tmp_path)]
    command = [
        sys.executable,
        "-B",
        "-c",
        "import json; from fiveline.record.origin import provenance; print(json.dumps(provenance()))",
    ]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}

    def read():
        return json.loads(subprocess.check_output(command, cwd=tmp_path, env=environment, text=True))["git"]

    assert read() is None
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    (tmp_path / "note.txt").write_text("an untracked file changes no code", encoding="utf-8")
    assert read() == {"commit": commit, "dirty": False}
    with (tmp_path / "fiveline/record/run.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert read() == {"commit": commit, "dirty": True}


def test_history_has_each_epoch_once(tmp_path):
    run = utils.RunDirectory(tmp_path)
    assert run.history() == []
    for epoch, loss in ((1, 0.5), (2, 0.4), (3, 0.3), (2, 0.35)):  # the third began, but its checkpoint was not saved
        run.append_history([{"epoch": epoch, "loss": loss}])
    assert run.history() == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.35}]
    run.append_history([{"epoch": 3, "loss": float("nan")}, {"epoch": 4, "loss": 0.2}])
    run.cut_history(1)
    assert run.history() == [{"epoch": 1, "loss": 0.5}]


def test_clear_removes_what_a_run_writes_and_nothing_else(tmp_path):
    theirs = ["params.json", "notes.md", "metrics.txt", "my_model.pth.tar", "search.yaml", ".gitignore", "sub/run.json",
              ".notes.tmp", ".table.of.theirs.tmp"]  # fmt: skip
    ours = [
        "run.json", "history.jsonl", "train.log", "evaluate.log", "last.pth.tar", "best.pth.tar",
        "metrics_val_best_weights.json", "metrics_test_best.json", "predictions_test_best.csv",
        "per_class_test_best.csv", "scored_test_best.json", "shares_test_best.npz",
        temporary_path(tmp_path / "last.pth.tar").name, temporary_path(tmp_path / "metrics_val_best_weights.json").name,
    ]  # fmt: skip
    (tmp_path / "sub").mkdir()
    for name in theirs + ours:
        (tmp_path / name).write_text("{}", encoding="utf-8")
    run = utils.RunDirectory(tmp_path)
    run.clear()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    aside = {f".replaced/{name}" for name in ours[:-2]}
    assert left == aside | set(theirs)
    (tmp_path / "last.pth.tar").write_text("the first of the next run", encoding="utf-8")
    run.settle()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"last.pth.tar", *theirs}


def test_fingerprint_changes_with_names_and_sizes_alone(tmp_path):
    (tmp_path / "train").mkdir()
    photo = tmp_path / "train/0_photo.jpg"
    photo.write_bytes(b"1234")
    before = fingerprint(tmp_path)
    assert before["num_files"] == 1

    os.utime(photo, (1, 1))
    (tmp_path / ".DS_Store").write_bytes(b"of the operating system")
    assert fingerprint(tmp_path) == before

    photo.write_bytes(b"12345")
    assert fingerprint(tmp_path) != before
    photo.write_bytes(b"4321")
    assert fingerprint(tmp_path) == before
    photo.rename(tmp_path / "train/1_photo.jpg")
    assert fingerprint(tmp_path) != before


def test_names_that_are_no_utf8_have_a_fingerprint(tmp_path):
    try:
        (tmp_path / "photo_\udcff.jpg").write_bytes(b"1")
    except (OSError, UnicodeError):
        pytest.skip("the file system takes no such name")
    assert fingerprint(tmp_path)["num_files"] == 1
    utils.RunDirectory(tmp_path).note("data", {"data_dir": str(tmp_path / "data_\udcff")})
    assert utils.read_json(tmp_path / "run.json")["data"]["data_dir"].endswith("data_\udcff")


def test_other_data_than_before_is_said_when_a_run_continues(tmp_path, caplog):
    run, data_dir = utils.RunDirectory(tmp_path), tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "train.npz").write_bytes(b"1")
    caplog.set_level(logging.WARNING)
    run.note("data", fingerprint(data_dir))
    run.append_history([{"epoch": 1}])
    run.note("data", fingerprint(data_dir))
    assert caplog.text == ""
    (data_dir / "train.npz").write_bytes(b"12")
    run.note("data", fingerprint(data_dir))
    assert "the data changed since this run last started (fingerprint: " in caplog.text
    assert run.record()["data"]["num_files"] == 1
