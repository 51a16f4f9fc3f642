"""Signals and kills at the worst moments, two processes in one directory, checkpoints that rotted: nothing is lost."""

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch

import evaluate
import train
import utils
from fiveline.loading import pictures
from fiveline.record.atomic import temporary_path
from tests.support.processes import log_of, start, wait_until
from tests.support.runs import (
    DIGITS,
    EACH_STEP,
    PROJECT,
    assert_same_end,
    at_log_line,
    finish,
    read_state,
    stopped,
    write_params,
)

pytest.importorskip("resource", reason="Windows has neither these signals nor these limits")


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def stopped_script(model_dir, *words):
    """Return the exit code of train.py's own way to run, in this process; the handlers of signals are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    try:
        with pytest.raises(SystemExit) as caught:
            utils.run_script(lambda: train.main(["--model_dir", str(model_dir), *words]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return caught.value.code


# --- signals


def test_sigterm_during_validation_saves_and_continues_to_the_same_bits(make_run):
    whole, folder = finish(make_run("whole")), make_run("run")
    with at_log_line("- Train metrics", terminate):
        message = stopped(folder, exit_code=143)
    assert "in epoch 1, step 5; saved" in message  # of 5: the steps are not done again
    state = read_state(folder)
    assert (state["epoch"], state["step"]) == (0, 5)
    assert utils.read_json(folder / "run.json")["status"] == "interrupted"
    assert_same_end(whole, finish(folder))


@pytest.mark.parametrize("line", ["Loading the datasets", "- done.", "Starting training"])
def test_sigterm_before_the_first_step_is_no_failure(make_run, line):
    whole, folder = finish(make_run("whole")), make_run("run")
    with at_log_line(line, terminate):
        assert stopped_script(folder) == 143
    assert utils.read_json(folder / "run.json")["status"] == "interrupted"
    assert "error: interrupted by SIGTERM; rerun the same command to continue" in log_of(folder)
    assert_same_end(whole, finish(folder))


def test_sigterm_while_a_file_is_read_is_not_taken_for_a_broken_file(make_run, photos, monkeypatch):
    torch.set_num_threads(1)  # files are read in the main thread

    def read_slowly(*_):
        terminate()
        time.sleep(60)  # a network file system that does not answer
        raise AssertionError

    monkeypatch.setattr(pictures, "open_picture", read_slowly)
    folder = make_run(data_dir=str(photos), image_channels=3)
    assert stopped_script(folder) == 143
    assert utils.read_json(folder / "run.json")["reason"].startswith("interrupted by SIGTERM")


def test_sigterm_during_saving_lets_the_save_finish(make_run):
    settings = {"checkpoint_minutes": 1e-6, "num_channels": 32, "image_size": 32, "num_epochs": 3}  # saves at each step
    whole, folder = finish(make_run("whole", **settings)), make_run("run", **settings)
    seen = []

    def terminate_while_there_is_a_temporary_file():
        while not seen and threading.main_thread().is_alive():
            seen.extend(folder.glob(".last.pth.tar.*.tmp"))
        terminate()

    watcher = threading.Thread(target=terminate_while_there_is_a_temporary_file, daemon=True)
    with at_log_line("Epoch 2/", watcher.start):
        assert "saved" in stopped(folder, exit_code=143)
    assert seen and not list(folder.glob(".*.tmp"))
    assert_same_end(whole, finish(folder))


@pytest.mark.slow
def test_a_batch_systems_sigterm_to_the_whole_group_leaves_time_to_spare(tmp_path):
    settings = {**DIGITS, "num_workers": 2, "cache": "none", "save_summary_steps": 5, "num_epochs": 50}
    folder = write_params(tmp_path / "run", **settings)
    command = [sys.executable, "train.py", "--model_dir", str(folder)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: "- step 10/" in log_of(folder), process)
    os.killpg(process.pid, signal.SIGTERM)
    try:
        stderr = process.communicate(timeout=30)[1]  # then the batch system would kill
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 143 and "Traceback" not in stderr
    assert read_state(folder)["step"] > 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nohup") is None, reason="there is no nohup here")
def test_nohup_keeps_a_run_alive_when_the_terminal_closes(tmp_path):
    folder = write_params(tmp_path / "run", **DIGITS)
    command = ["nohup", sys.executable, "train.py", "--model_dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: "Epoch 1/" in log_of(folder), process)
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=60)[0] is not None and process.returncode == 0
    assert utils.read_json(folder / "run.json")["status"] == "finished"


@pytest.mark.slow
def test_a_script_that_is_done_says_nothing_more(tmp_path):
    folder = write_params(tmp_path / "run", **{**DIGITS, "num_epochs": 1})
    output = start(folder).communicate(timeout=60)[0]
    last = output.splitlines()[-1]  # libraries that find something left at exit say so after that
    assert last.startswith("- Found new best") and log_of(folder).splitlines()[-1].endswith(last)


def test_python_looks_for_garbage_again_after_a_quick_import():
    utils.import_quickly("torch", "json")  # are there
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError):
        utils.import_quickly("no_such_module")
    assert gc.isenabled()


@pytest.mark.slow
def test_dynamo_waits_until_something_is_compiled():
    code = """
import sys, utils
utils.import_quickly("torch")
from fiveline.torch_private import put_off_dynamo
put_off_dynamo()
import torch

def step():
    optimizer.zero_grad()
    net(torch.ones(3)).sum().backward()
    optimizer.step()

calls, net = [], torch.nn.Linear(3, 2)
optimizer = torch.optim.Adam(net.parameters(), fused=True)
step()
optimizer.load_state_dict(optimizer.state_dict())
import inspect, torch.distributed.tensor  # look into all modules that there are
inspect.stack()
print("torch._dynamo.eval_frame" in sys.modules)

@torch.compiler.disable
def noted(x):
    calls.append(torch.compiler.is_compiling())
    return x

print(torch.compile(lambda x: noted(x.cos()) + 1)(torch.zeros(3)).tolist(), calls)
import torch._dynamo.config
print(sys.modules["torch._dynamo"] is torch._dynamo, type(torch._dynamo) is type(sys))
step()
torch.compile(step, backend="eager")()
print(int(optimizer.state_dict()["state"][0]["step"]))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT)
    assert process.stdout.splitlines() == ["False", "[2.0, 2.0, 2.0] [False]", "True True", "3"], process.stderr
    assert process.returncode == 0 and "leaked" not in process.stderr


# --- two processes


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_killed_one_leaves_the_directory_free(tmp_path):
    settings = {**DIGITS, "num_workers": 2, "cache": "none", "num_epochs": 3}
    folder = write_params(tmp_path / "run", **settings)
    first = start(folder)
    wait_until(lambda: "Epoch 1/" in log_of(folder), first)
    second = start(folder)
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 4 and len(output.splitlines()) == 1
    assert f"{folder}: in use by process {first.pid} on {socket.gethostname()} since 2" in output

    first.kill()
    first.wait()
    third = start(folder)  # at once: the first one's data loading processes may live for some seconds more
    output = third.communicate(timeout=120)[0]
    assert third.returncode == 0, output
    first.stdout.close()


@pytest.mark.slow
def test_an_error_in_a_loading_process_ends_the_script(project, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".*", "tests", "__pycache__"))
    source = (copy / "model/vision/data_loader.py").read_text()
    reads = "        positions, params = positions_on(self.device, indices), self.params\n"
    assert source.count(reads) == 1
    faulty = source.replace(reads, "        assert 7 not in indices\n" + reads)
    (copy / "model/vision/data_loader.py").write_text(faulty)
    folder = write_params(tmp_path / "run", **DIGITS, cache="none", num_workers=2)
    command = [sys.executable, "train.py", "--model_dir", str(folder)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "example 7 (train[7]) could not be loaded: AssertionError()" in done.stderr
    record = utils.read_json(folder / "run.json")
    assert record["status"] == "failed" and "example 7 (train[7])" in record["reason"]


@pytest.mark.slow
def test_a_script_of_ones_own_that_trains_ends(tmp_path):
    folder = write_params(tmp_path / "run", **{**DIGITS, "num_epochs": 1}, cache="none", num_workers=2)
    code = f"import train; train.main(['--model_dir', {str(folder)!r}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr
    assert utils.read_json(folder / "run.json")["status"] == "finished"


# --- what a directory may look like afterwards


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_stale_temporary_files_are_cleaned(make_run):
    folder = make_run()
    for name in ("last.pth.tar", "best.pth.tar", "run.json", "history.jsonl", ".lock.json"):
        temporary_path(folder / name).write_bytes(b"half")
    (folder / ".last.pth.tar.0123456789ab.n7_lab-123.tmp").write_bytes(b"half")  # as older versions called it
    finish(folder)
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("loss", ["damaged", "vanished"])
def test_a_damaged_last_falls_back_to_the_one_before_and_says_so(make_run, loss):
    whole, folder = finish(make_run("whole", num_epochs=3, **EACH_STEP)), make_run("run", num_epochs=3, **EACH_STEP)
    finish(folder, "num_epochs=2")
    last, previous = folder / "last.pth.tar", folder / "last.previous.pth.tar"
    damage(last) if loss == "damaged" else last.unlink()
    kept = previous.read_bytes()

    with at_log_line("Epoch 2/", terminate):  # even if the next process dies at once: what it came from is there
        stopped(folder, exit_code=143)
    words = "damaged (its checksum" if loss == "damaged" else "there is no such checkpoint"
    assert f"WARNING: {last}: {words}" in log_of(folder)
    assert f"Continuing from the one before it, {previous}" in log_of(folder)
    assert (folder / "last.damaged.pth.tar").exists() == (loss == "damaged")
    assert previous.read_bytes() == kept
    assert_same_end(whole, finish(folder))
    train.main(["--model_dir", str(folder), "--restart"])
    assert not (folder / "last.damaged.pth.tar").exists()


def test_no_whole_checkpoint_is_refused_with_what_to_type(make_run):
    folder = finish(make_run(**EACH_STEP))
    for name in ("last", "last.previous"):
        damage(folder / f"{name}.pth.tar")
    before = {path: path.read_bytes() for path in folder.glob("*.pth.tar")}
    message = stopped(folder, exit_code=2)
    for text in ("last.pth.tar: damaged", "last.previous.pth.tar: damaged", "--restore_file best --restart"):
        assert text in message
    assert {path: path.read_bytes() for path in folder.glob("*.pth.tar")} == before
    finish(folder, "--restore_file", "best", "--restart")  # as it says


def test_evaluate_refuses_a_damaged_best_and_falls_back_to_nothing(make_run):
    folder = finish(make_run())
    damage(folder / "best.pth.tar")
    message = stopped(folder, exit_code=2, main=evaluate.main)
    assert message.startswith(f"{folder / 'best.pth.tar'}: damaged")
    assert not list(folder.glob("*_test_best*"))


def test_a_process_killed_right_before_it_could_say_so_is_finished(make_run, capsys):
    folder = finish(make_run())
    utils.RunDirectory(folder).update_record(status="running", end=None)
    finish(folder)
    record = utils.read_json(folder / "run.json")
    assert "is finished: 2 epochs" in capsys.readouterr().out
    assert record["status"] == "finished" and record["end"] >= record["start"]


def test_a_continuation_that_failed_is_forgotten_by_the_record_of_a_finished_run(make_run):
    folder = finish(make_run())
    before = utils.read_json(folder / "run.json")
    with pytest.raises(utils.InputError, match="nowhere"):
        train.main(["--model_dir", str(folder), "--data_dir", str(folder / "nowhere"), "num_epochs=9"])
    assert utils.read_json(folder / "run.json")["params"]["num_epochs"] == 9
    finish(folder)
    after = utils.read_json(folder / "run.json")
    assert [after[name] for name in ("status", "params", "hash")] == [
        before[name] for name in ("status", "params", "hash")
    ]
