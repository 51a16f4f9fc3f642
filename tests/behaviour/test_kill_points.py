"""A process killed after each single thing that it does to the disk: the directory can be read every time."""

import subprocess
import sys

import pytest

import utils
from tests.support.runs import PROJECT, assert_same_end, finish

pytest.importorskip("resource", reason="Windows has neither these signals nor these limits")

# What a process does to the disk is counted, and after the n-th time it kills itself, really. A write is done in two
# halves, which count as two. Forked from a process that has torch loaded, so that hundreds of deaths take seconds.
CHILD = """
import io, os, pathlib, shutil, signal, sys

sys.path.insert(0, os.getcwd())
import torch, train, utils, model.vision.net, model.vision.data_loader, fiveline.record.start
from fiveline.record import atomic
from fiveline.saving import Saver
torch.set_num_threads(1)
what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
count, limit = 0, 0

def point():
    global count
    count += 1
    if count == limit:
        os.kill(os.getpid(), signal.SIGKILL)

def counted(function):
    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        point()
        return result
    return call

class File(io.FileIO):
    def write(self, data):
        for half in (data[: len(data) // 2], data[len(data) // 2 :]):
            super().write(half)
            point()
        return len(data)
    def __exit__(self, *error):
        super().__exit__(*error)
        point()

def count_calls():
    for owner, names in ((os, "replace rename link unlink fsync"), (pathlib.Path, "replace unlink")):
        for name in names.split():
            setattr(owner, name, counted(getattr(owner, name)))
    atomic.open = counted(lambda path, mode, buffering=-1, opener=None: File(path, mode, opener=opener))

def kill_at_each(act):
    # Do something with copies of the directory, each time in a process that dies one point later; print how many.
    global limit
    status = -signal.SIGKILL
    while status == -signal.SIGKILL:
        limit += 1
        copy = folder.with_name(f"{folder.name}_{limit}")
        shutil.copytree(folder, copy)
        child = os.fork()
        if child == 0:
            sys.stderr = open(os.devnull, "w")
            count_calls()
            try:
                act(copy)
            except BaseException as error:
                os.write(1, f"{error!r}\\n".encode())
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(limit, flush=True)
    os._exit(status)

def save_in_copies(saver):
    kill_at_each(lambda copy: (setattr(saver, "run", utils.RunDirectory(copy)), original(saver)))

if what == "save":
    original, Saver.save = Saver.save, save_in_copies
    train.main(["--model_dir", str(folder)])
kill_at_each(lambda copy: train.main(["--model_dir", str(copy)]))
"""


def killed(make_run, what):
    """Return copies of a run of one epoch, killed at each point of what comes then, and what is read in each."""
    folder = finish(make_run("run"), "num_epochs=1")
    command = [sys.executable, "-c", CHILD, what, str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    copies = [folder.with_name(f"run_{i}") for i in range(1, int(done.stdout.splitlines()[-1]) + 1)]
    return {copy: read_all(copy) for copy in copies}


def read_all(folder):
    """Read whatever a reader may look at, and return the epochs of the newest checkpoint and of the one before."""
    for path in folder.iterdir():
        if path.suffix == ".json":
            utils.read_json(path)
        elif path.suffix == ".jsonl":
            utils.read_lines(path, is_growing=True)
    epochs = {path.name: utils.read_checkpoint(path)["epoch"] for path in folder.glob("*.pth.tar")}
    return epochs["last.pth.tar"], epochs.get("last.previous.pth.tar")


def test_a_save_that_is_killed_at_any_point_leaves_the_old_state_or_the_new_one(make_run):
    found = list(killed(make_run, "save").values())
    assert len(found) > 20  # files are opened, written in halves, closed, synced, replaced, and so is their folder
    assert found == sorted(found, key=lambda epochs: (epochs[0], epochs[1] or 0))
    assert set(found) == {(1, None), (1, 1), (2, 1)}


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_point_continues_to_the_same_bits(make_run):
    copies, whole = killed(make_run, "whole"), finish(make_run("whole"))
    assert len(copies) > 80
    for number, copy in enumerate(copies):
        if number % 2:  # from each second point, which takes half the time
            assert_same_end(whole, finish(copy))
            assert not list(copy.glob(".*.tmp"))
