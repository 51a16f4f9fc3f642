"""Signals at the worst moments, scripts that must end, checkpoints that were damaged: nothing is lost."""

import contextlib
import os
import signal
import time

import pytest
import torch

import evaluate
import train
import utils
from fiveline.loading import pictures
from tests.support.processes import PATIENCE, log_of
from tests.support.runs import EACH_STEP, assert_same_end, at_log_line, finish, read_state, stopped

pytest.importorskip("resource", reason="Windows has neither these signals nor these limits")


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def stopped_script(model_dir):
    """Return the exit code of train.py's own way to run, in this process; the handlers of signals are put back."""
    with contextlib.ExitStack() as stack, pytest.raises(SystemExit) as caught:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            stack.callback(signal.signal, number, signal.getsignal(number))
        utils.run_script(lambda: train.main(["--model_dir", str(model_dir)]))
    return caught.value.code


def test_sigterm_before_the_first_step_is_no_failure(make_run):
    whole, folder = finish(make_run("whole")), make_run("run")
    for number, line in enumerate(("Loading the datasets", "- done.", "Starting training"), start=1):
        with at_log_line(line, terminate):
            assert stopped_script(folder) == 143
        assert utils.read_json(folder / "run.json")["status"] == "interrupted"
        assert log_of(folder).count("error: interrupted by SIGTERM; rerun the same command to continue") == number
    assert_same_end(whole, finish(folder))


def test_sigterm_between_two_epochs_leaves_the_best_checkpoint_as_it_was_at_the_end_of_its_epoch(make_run):
    folder = make_run(schedule="one_cycle", num_epochs=3)  # so short an epoch is not saved at its end
    with at_log_line("Epoch 2/", terminate):
        assert "epoch 2, step 0" in stopped(folder, exit_code=143)
    (row,), best = utils.read_lines(folder / "history.jsonl"), read_state(folder, "best")
    assert best["epoch"] == 1 and best["optim_dict"]["param_groups"][0]["lr"] == row["learning_rate"]


def test_sigterm_while_a_file_is_read_is_not_taken_for_a_broken_file(make_run, photos, monkeypatch):
    torch.set_num_threads(1)  # files are read in the main thread

    def read_slowly(*_):
        terminate()
        time.sleep(PATIENCE)  # a network file system that does not answer

    monkeypatch.setattr(pictures, "open_picture", read_slowly)
    folder = make_run(data_dir=str(photos), image_channels=3)
    assert stopped_script(folder) == 143
    assert utils.read_json(folder / "run.json")["reason"].startswith("interrupted by SIGTERM")


def test_sigterm_during_saving_lets_the_save_finish(make_run, monkeypatch):
    whole, folder = finish(make_run("whole", **EACH_STEP)), make_run("run", **EACH_STEP)
    sync, seen = os.fsync, []

    def terminate_in_the_middle(descriptor):
        if not seen and list(folder.glob(".last.pth.tar.*.tmp")):
            seen.append(descriptor)
            terminate()
        sync(descriptor)

    with at_log_line("Epoch 2/", lambda: monkeypatch.setattr(os, "fsync", terminate_in_the_middle)):
        assert "saved" in stopped(folder, exit_code=143)
    assert seen and not list(folder.glob(".*.tmp"))
    assert_same_end(whole, finish(folder))


@pytest.mark.slow
def test_a_script_of_ones_own_that_trains_with_loading_processes_ends(make_run, photos, run_script):
    folder = make_run(data_dir=str(photos), num_epochs=1, cache="none", num_workers=2)
    for is_faulty in (False, True):
        done = run_script("-c", f"import train; train.main(['--model_dir', {str(folder)!r}, '--restart'])")
        assert done.returncode == is_faulty and ("train/b/3.png: " in done.stderr) == is_faulty, done.stderr
        (photos / "train/b/3.png").write_bytes(b"no image")


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("loss", ["damaged", "vanished"])
def test_a_damaged_last_falls_back_to_the_one_before_and_says_so(make_run, loss):
    whole, folder = finish(make_run("whole", **EACH_STEP)), make_run("run", **EACH_STEP)
    finish(folder, "num_epochs=1")
    last, previous = folder / "last.pth.tar", folder / "last.previous.pth.tar"
    damage(last) if loss == "damaged" else last.unlink()
    kept = previous.read_bytes()

    with at_log_line("Epoch 1/", terminate):  # even if the next process dies at once: what it came from is there
        stopped(folder, exit_code=143)
    words = "damaged (its checksum" if loss == "damaged" else "there is no such checkpoint"
    assert f"WARNING: {last}: {words}" in log_of(folder)
    assert f"Continuing from the one before it, {previous}" in log_of(folder)
    assert (folder / "last.damaged.pth.tar").exists() == (loss == "damaged")
    assert previous.read_bytes() == kept
    assert_same_end(whole, finish(folder))
    finish(folder, "--restart", "num_epochs=1")
    assert not (folder / "last.damaged.pth.tar").exists()


def test_damaged_checkpoints_are_refused_with_what_to_type_and_left_alone(make_run):
    folder = finish(make_run(num_epochs=1, **EACH_STEP))
    for name in ("last", "last.previous"):
        damage(folder / f"{name}.pth.tar")
    before = {path: path.read_bytes() for path in folder.glob("*.pth.tar")}
    message = stopped(folder, exit_code=2)
    for text in ("last.pth.tar: damaged", "last.previous.pth.tar: damaged", "--restore_file best --restart"):
        assert text in message
    assert {path: path.read_bytes() for path in folder.glob("*.pth.tar")} == before
    finish(folder, "--restore_file", "best", "--restart")  # as it says
    damage(folder / "best.pth.tar")
    assert stopped(folder, exit_code=2, main=evaluate.main).startswith(f"{folder / 'best.pth.tar'}: damaged")
    assert not list(folder.glob("*_test_best*"))
