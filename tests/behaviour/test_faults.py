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
import tempfile
import traceback
from pathlib import Path

import pytest
import torch

import evaluate
import export
import train
import utils
from fiveline.loader import EpochBatches, Split
from fiveline.study.trial_process import open_output
from tests.support.processes import log_of, start, wait_until
from tests.support.runs import (
    EACH_STEP,
    assert_same_bits,
    assert_same_end,
    at_log_line,
    finish,
    read_state,
    stopped,
)

resource = pytest.importorskip("resource", reason="Windows has no limits on what a process may take")


def without_seconds(state):
    return {name: value for name, value in state.items() if name not in ("seconds", "params")}


def mount(*words):
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")


@pytest.fixture
def unmount():
    """Return a list of mounted folders, which are taken away in the end."""
    folders = []
    yield folders
    utils.set_logger(None)  # a file system with open files cannot be taken away
    for folder in reversed(folders):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def on_small_disk(make_run, tmp_path, unmount):
    """Return a function that writes a run directory on a file system of 1 MB."""

    def write(**params):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", disk)
        unmount.append(disk)
        run = make_run("moved", **params)
        return shutil.copytree(run, disk / "run")

    return write


# --- disks


@pytest.mark.parametrize("free", [0, 16384])
def test_a_full_disk_is_reported_and_after_making_room_the_run_ends_in_the_same_bits(make_run, on_small_disk, free):
    whole = finish(make_run("whole"))
    folder = finish(on_small_disk(), "num_epochs=1")
    before = {path: path.read_bytes() for path in folder.glob("*.pth.tar")}
    filler = folder.parent / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - free)

    message = stopped(folder)
    assert str(folder) in message and "No space left on device" in message
    assert re.search(r"; [\d,]+ bytes are needed, [\d,]+ are free on the disk", message)
    if free:  # room enough to say so
        record = utils.read_json(folder / "run.json")
        assert (record["status"], record["reason"]) == ("failed", message)
        assert message.startswith(f"{folder}/") and "the same command" in message
    assert {path: path.read_bytes() for path in folder.glob("*.pth.tar")} == before
    assert not list(folder.glob(".*.tmp"))

    filler.unlink()
    assert_same_end(whole, finish(folder))


def test_a_limit_on_the_size_of_files_is_reported_and_nothing_is_lost(make_run):
    whole, folder = finish(make_run("whole")), make_run("run")
    finish(folder, "num_epochs=1")
    before = {path: path.read_bytes() for path in folder.glob("*.pth.tar")}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(map(len, before.values())) // 2, hard))
    try:
        message = stopped(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message.startswith(f"{folder}/") and "File too large" in message and "bytes are needed" in message
    assert utils.read_json(folder / "run.json")["status"] == "failed"
    assert {path: path.read_bytes() for path in folder.glob("*.pth.tar")} == before
    assert_same_end(whole, finish(folder))


def test_a_disk_that_is_full_for_a_moment_is_not_felt(make_run):
    """As the appended history sees it; no checkpoint is due then, and the log waits."""
    whole, folder = finish(make_run("whole", num_epochs=6)), make_run("run", num_epochs=6)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / "history.jsonl").stat().st_size + 100, limits[1]))

    with (
        at_log_line("Epoch 3/", fill),
        at_log_line("Epoch 5/", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)),
    ):
        finish(folder)
    assert_same_end(whole, folder)
    assert "train.log: cannot be written ([Errno 27] File too large); the log may lack lines" in log_of(folder)
    assert log_of(folder).count("Epoch ") == 6


def test_a_run_whose_history_ends_in_half_a_line_continues(make_run):
    whole, folder = finish(make_run("whole", num_epochs=3)), make_run("run", num_epochs=3)
    finish(folder, "num_epochs=1")
    line = (whole / "history.jsonl").read_bytes().splitlines(keepends=True)[2]
    with (folder / "history.jsonl").open("ab") as file:  # what no checkpoint holds
        file.write(line + line[:50])
    assert_same_end(whole, finish(folder))


def test_a_history_that_cannot_be_read_says_what_to_do(make_run):
    folder = finish(make_run("run", num_epochs=3), "num_epochs=2")
    whole = finish(make_run("whole", num_epochs=3))
    path = folder / "history.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"epoch": 1', b'"epoch" 1'))
    message = stopped(folder, exit_code=2)
    assert f"{path}, line 1: not valid JSON" in message
    assert "move history.jsonl away, then rerun the same command" in message
    path.rename(folder / "history.damaged")
    finish(folder)
    assert_same_bits(*(without_seconds(read_state(each)) for each in (whole, folder)))


def test_too_many_open_files_at_a_save_are_reported_and_nothing_is_lost(make_run):
    whole, folder = finish(make_run("whole", **EACH_STEP)), make_run("run", **EACH_STEP)
    limits, files = resource.getrlimit(resource.RLIMIT_NOFILE), []

    def open_many():
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                files.append(open(os.devnull))  # noqa: SIM115, PTH123

    try:
        with at_log_line("Epoch 2/", open_many):
            message = stopped(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in files:
            file.close()
    assert message.startswith(f"{folder}/") and "Too many open files" in message
    assert_same_end(whole, finish(folder))


def test_errors_of_files_without_a_name_say_so():
    for number in (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EDQUOT):
        message = str(utils.explain(OSError(number, os.strerror(number))))
        assert os.strerror(number) in message and "None" not in message
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", None)
        patch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
        with pytest.raises(FileNotFoundError) as caught:
            tempfile.gettempdir()
    assert "set TMPDIR to a folder with room" in str(utils.explain(caught.value))


def test_the_output_of_a_trial_goes_on_behind_half_a_line_and_follows_no_link(tmp_path):
    path = tmp_path / "output.txt"
    path.write_text("whole\nhalf")
    for text in (b"error: 1\n", b"error: 2\n"):
        output = open_output(str(path))
        os.write(output, text)
        os.close(output)
    assert path.read_text() == "whole\nhalf\nerror: 1\nerror: 2\n"
    path.rename(tmp_path / "victim")
    path.symlink_to(tmp_path / "victim")
    with pytest.raises(utils.Stop, match=r"output\.txt: cannot be written .*symbolic link"):
        open_output(str(path))


def test_an_export_onto_a_full_disk_is_reported(make_run):
    """torch's own writing of TorchScript ends the process there."""
    folder = finish(make_run(num_epochs=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        message = stopped(folder, "--format", "torchscript", main=export.main)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "best.torchscript: could not be written (File too large; " in message


def make_read_only(folder, unmount):
    mount("--bind", folder, folder)
    unmount.append(folder)
    mount("-o", "remount,ro,bind", folder)


def test_a_read_only_directory_is_refused(make_run, unmount):
    folder = make_run()
    make_read_only(folder, unmount)
    message = stopped(folder, exit_code=2)
    assert message == f"{folder}: cannot be written (Read-only file system)"


def test_a_directory_that_becomes_read_only_is_reported_and_nothing_is_lost(make_run, unmount):
    whole, folder = finish(make_run("whole", **EACH_STEP)), make_run("run", **EACH_STEP)
    with at_log_line("Epoch 2/", lambda: make_read_only(folder, unmount)):
        message = stopped(folder)
    assert message.startswith(f"{folder}/") and "Read-only file system" in message
    subprocess.run(["umount", str(unmount.pop())], check=True)
    assert utils.read_json(folder / "run.json")["status"] == "running"  # it could not be written
    assert_same_end(whole, finish(folder))


def test_an_evaluation_onto_a_full_disk_is_reported(on_small_disk):
    folder = finish(on_small_disk(num_epochs=1))
    with contextlib.suppress(OSError), (folder.parent / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    message = stopped(folder, main=evaluate.main)
    assert message.startswith(f"{folder}/") and "bytes are needed, 0 are free" in message


# --- data


FROM_FILES = {"cache": "none", "batch_size": 4, "num_epochs": 3, **EACH_STEP}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("fault", ["vanished", "broken"])
def test_a_file_that_vanishes_or_breaks_during_a_run_is_named(make_run, photos, num_workers, fault):
    settings = {**FROM_FILES, "num_workers": num_workers, "data_dir": str(photos)}
    whole, folder = finish(make_run("whole", **settings)), make_run("run", **settings)
    path = photos / "train/b/3.png"
    content = path.read_bytes()

    def spoil():
        path.unlink() if fault == "vanished" else path.write_bytes(random.Random(230).randbytes(300))

    with at_log_line("Epoch 2/", spoil):  # the file is read in each epoch
        message = stopped(folder, exit_code=2)
    assert message.startswith(f"{path}: ") and len(message.splitlines()) == 1
    record = utils.read_json(folder / "run.json")
    assert (record["status"], record["reason"]) == ("failed", message)
    path.write_bytes(content)
    assert_same_end(whole, finish(folder))


class Faulty(torch.utils.data.Dataset):
    """Ten examples, one of which the task's code stumbles over."""

    ids = [f"row {i}" for i in range(10)]

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.zeros(1), {i: i for i in range(10) if i != 7}[index]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_error_in_loading_names_the_example(num_workers):
    batches = EpochBatches(10, 5, seed=None)
    whole = Split(Faulty(), torch.utils.data.default_collate, seed=1)
    loader = torch.utils.data.DataLoader(
        whole, batch_sampler=batches, collate_fn=lambda batch: batch, num_workers=num_workers
    )
    with pytest.raises(RuntimeError, match=r"example 7 \(row 7\) could not be loaded: KeyError\(7\)") as caught:
        list(loader)
    assert utils.explain(caught.value) is None  # a bug: with its traceback
    traceback.clear_frames(caught.tb)


def test_an_error_that_only_the_whole_batch_has_names_the_batch():
    def collate(examples):
        raise ValueError("cannot be stacked") if len(examples) > 1 else examples

    class Whole(Faulty):
        def __getitem__(self, index):
            return index

    whole = Split(Whole(), lambda examples: collate(examples) if len(examples) > 1 else 0, seed=1)
    with pytest.raises(RuntimeError, match=r"a batch of 3, from example 2 \(row 2\) to example 4 \(row 4\), could not"):
        whole.__getitems__([2, 3, 4])


# --- processes and memory


def test_a_killed_loading_process_is_reported_and_the_run_saved(make_run, photos):
    settings = {**FROM_FILES, "num_workers": 2, "data_dir": str(photos), "save_summary_steps": 1}
    whole, folder = finish(make_run("whole", **settings)), make_run("run", **settings)

    def kill_a_worker():
        for process in multiprocessing.active_children():
            process.kill()

    with at_log_line("- step 2/", kill_a_worker):
        message = stopped(folder)
    assert (
        message.startswith("a data loading process died (") and "Saved; rerun the same command to continue" in message
    )
    assert utils.read_json(folder / "run.json")["status"] == "failed"
    assert_same_end(whole, finish(folder))


@pytest.mark.slow
def test_out_of_memory_is_reported_and_the_run_continues(make_run):
    settings = {"image_size": 256, "num_channels": 4, "batch_size": 40}  # activations of 42 MB
    whole, folder = finish(make_run("whole", **settings)), make_run("run", **settings)
    finish(folder, "num_epochs=1")
    process = start(folder)
    wait_until(lambda: log_of(folder).count("Starting training") == 2, process)
    num_bytes = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(process.pid, resource.RLIMIT_AS, (num_bytes + 20 * 2**20,) * 2)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "Traceback" not in output, output
    assert "error: out of memory (" in output and "lower microbatch_size or num_workers" in output
    record = utils.read_json(folder / "run.json")
    assert record["status"] == "failed" and record["epochs"] == 1 and record["reason"].startswith("out of memory (")
    assert_same_end(whole, finish(folder))


def test_a_gpu_out_of_memory_is_recognised_by_its_type():
    stop = utils.explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore"))
    assert stop.exit_code == 1 and "Tried to allocate 20.00 GiB.); lower microbatch_size" in str(stop)
    assert utils.explain(RuntimeError("a bug")) is None


def test_a_place_that_is_not_the_users_is_recognised_by_its_name():
    stop = utils.explain(PermissionError(errno.EACCES, "Permission denied", "shared/run/best.pt2"))
    assert stop.exit_code == 1 and str(stop).startswith("shared/run/best.pt2: no permission to read or write it")
    assert utils.explain(PermissionError(errno.EPERM, "Operation not permitted")) is None  # no file: perhaps a bug


def test_detect_anomaly_names_the_operation_and_is_off_again(make_run):
    seen = []
    folder = make_run(optimizer="sgd", detect_anomaly=True)
    with at_log_line("Epoch 1/", lambda: seen.append(torch.is_anomaly_enabled())), pytest.warns(UserWarning):
        message = stopped(folder, "learning_rate=1e30", exit_code=3)
    assert "Backward0' returned nan values" in message and "epoch 1, step 2, at" in message and seen == [True]
    assert utils.read_json(folder / "run.json")["status"] == "diverged"
    assert not torch.is_anomaly_enabled()


def test_a_run_that_stumbles_before_its_first_save_leaves_its_best_weights(make_run, monkeypatch):
    folder, vision = make_run(num_epochs=5, learning_rate=0.01), importlib.import_module("model.vision.net")
    plain, num_calls = vision.loss_fn, 0

    def exploding(outputs, labels):
        nonlocal num_calls
        num_calls += outputs.requires_grad
        return plain(outputs, labels) * (float("nan") if num_calls > 3 * 5 + 1 else 1.0)

    monkeypatch.setattr(vision, "loss_fn", exploding)
    monkeypatch.setattr(vision, "train_loss_fn", lambda params: exploding)
    with pytest.raises(utils.DivergedError, match="epoch 4, step 5 "):
        train.main(["--model_dir", str(folder)])
    best = utils.read_checkpoint(folder / "best.pth.tar")
    assert 1 <= best["epoch"] <= 3 and not (folder / "last.pth.tar").exists()
    assert utils.read_json(folder / "metrics_val_best_weights.json")[best["params"]["monitor"]] == best["best"]
    evaluate.main(["--model_dir", str(folder)])
