"""Cause faults around a run (disks, memory, files, processes): each is reported plainly, and nothing is lost."""

import contextlib
import errno
import importlib
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys

import pytest
import torch

import evaluate
import utils
from tests.support.processes import PATIENCE, start
from tests.support.runs import EACH_STEP, assert_same_end, at_log_line, finish, stopped

resource = pytest.importorskip("resource", reason="Windows has no limits on what a process may take")


def checkpoints(folder):
    return {path: path.read_bytes() for path in folder.glob("*.pth.tar")}


def mount(*words):
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """Return a folder that is a file system of 1 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", path)
    yield path
    utils.set_logger(None)  # a file system with open files cannot be taken away
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("free", [0, 16384])
def test_a_full_disk_is_reported_and_after_making_room_the_run_ends_in_the_same_bits(make_run, disk, free):
    whole = finish(make_run("whole"))
    folder = finish(shutil.copytree(make_run("moved"), disk / "run"), "num_epochs=1")
    before = checkpoints(folder)
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - free)

    message = stopped(folder)
    assert str(folder) in message and re.search(r"No space left on device.*; [\d,]+ bytes are free", message)
    if free:  # room enough to say so
        record = utils.read_json(folder / "run.json")
        assert (record["status"], record["reason"]) == ("failed", message)
        assert message.startswith(f"{folder}/") and "the same command" in message
    else:
        message = stopped(folder, main=evaluate.main)
        assert message.startswith(f"{folder}/") and "; 0 bytes are free" in message
    filler.unlink()
    utils.set_logger(None)
    mount("-o", "remount,ro", disk)
    assert stopped(folder) == f"{folder}/.lock: could not be written (Read-only file system)"
    mount("-o", "remount,rw", disk)
    assert checkpoints(folder) == before and not list(folder.glob(".*.tmp"))
    assert_same_end(whole, finish(folder))


def test_a_limit_on_the_size_of_files_is_reported_and_nothing_is_lost(make_run, monkeypatch):
    whole, folder = finish(make_run("whole")), finish(make_run("run"), "num_epochs=1")
    before, limits = checkpoints(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python would leave half a .pyc file
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(map(len, before.values())) // 2, limits[1]))
    try:
        message = stopped(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message.startswith(f"{folder}/") and "File too large" in message and "bytes are free" in message
    assert utils.read_json(folder / "run.json")["status"] == "failed" and checkpoints(folder) == before
    assert_same_end(whole, finish(folder))


def test_half_a_line_of_a_history_and_a_row_that_no_checkpoint_holds_are_passed_over(make_run):
    whole, folder = finish(make_run("whole", num_epochs=3)), finish(make_run("run", num_epochs=3), "num_epochs=1")
    line = (whole / "history.jsonl").read_bytes().splitlines(keepends=True)[2]
    with (folder / "history.jsonl").open("ab") as file:
        file.write(line + line[:50])
    assert_same_end(whole, finish(folder))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left"), "the output: could not be written (No space left"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b.pt2"), "a/b.pt2: no permission to read or write"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore"), "20.00 GiB.); lower microb"),
        (PermissionError(errno.EPERM, "Operation not permitted"), None),  # no file: perhaps a bug
        (RuntimeError("a bug"), None),
    ],
)
def test_errors_that_are_no_bugs_are_explained(error, message):
    stop = utils.explain(error)
    assert (stop is None) == (message is None)
    assert stop is None or (message in str(stop) and "None" not in str(stop) and stop.exit_code == 1)


def test_a_loading_process_that_dies_and_a_file_that_vanishes_or_breaks_are_named(make_run, photos):
    settings = {"cache": "none", "batch_size": 10, "data_dir": str(photos), "save_summary_steps": 1, **EACH_STEP}
    whole, folder = finish(make_run("whole", **settings)), make_run("run", **settings)
    path = photos / "train/b/3.png"  # is read in each epoch
    content = path.read_bytes()

    def kill_a_worker():
        for process in multiprocessing.active_children():
            process.kill()
            process.join()

    with at_log_line("- step 2/", kill_a_worker):
        message = stopped(folder, "num_workers=1")
    assert message.startswith("a data loading process died (") and "rerun the same command to continue" in message
    assert utils.read_json(folder / "run.json")["status"] == "failed"
    for num_workers, spoil in ((0, path.unlink), (1, lambda: path.write_bytes(random.Random(230).randbytes(300)))):
        with at_log_line("Epoch 2/", spoil):
            message = stopped(folder, f"num_workers={num_workers}", exit_code=2)
        assert message.startswith(f"{path}: ") and len(message.splitlines()) == 1
        record = utils.read_json(folder / "run.json")
        assert (record["status"], record["reason"]) == ("failed", message)
        path.write_bytes(content)
    assert_same_end(whole, finish(folder))


@pytest.mark.slow
def test_out_of_memory_is_reported_and_the_run_continues(make_run):
    settings = {"image_size": 256, "num_channels": 4, "batch_size": 40}  # activations of 42 MB
    whole, folder = finish(make_run("whole", **settings)), finish(make_run("run", **settings), "num_epochs=1")
    size = "int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 20 * 2**20"
    process = start(
        folder, at="Epoch 2/", action=f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({size},) * 2)"
    )
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 1 and "Traceback" not in output, output
    assert "error: out of memory (" in output and "lower microbatch_size or num_workers" in output
    record = utils.read_json(folder / "run.json")
    assert record["status"] == "failed" and record["epochs"] == 1 and record["reason"].startswith("out of memory (")
    assert_same_end(whole, finish(folder))


def test_a_run_that_stumbles_before_its_first_save_leaves_its_best_weights(make_run, monkeypatch):
    monkeypatch.setattr("fiveline.saving.FIRST_SECONDS", float("inf"))
    folder, vision = make_run(num_epochs=5, learning_rate=0.01), importlib.import_module("model.vision.net")
    plain, num_calls = vision.loss_fn, 0

    def exploding(outputs, labels):
        nonlocal num_calls
        num_calls += 1
        return plain(outputs, labels) * (float("nan") if num_calls > 3 * 5 + 1 else 1.0)

    monkeypatch.setattr(vision, "train_loss_fn", lambda params: exploding)
    assert "epoch 4, step 5 " in stopped(folder, exit_code=3)
    best = utils.read_checkpoint(folder / "best.pth.tar")
    assert 1 <= best["epoch"] <= 3 and not (folder / "last.pth.tar").exists()
    assert utils.read_json(folder / "metrics_val_best_weights.json")[best["params"]["monitor"]] == best["best"]
    evaluate.main(["--model_dir", str(folder)])
