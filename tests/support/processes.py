"""train.py in a process of its own: started, watched by its log, and compared by what it left."""

import os
import subprocess
import sys
import time

from tests.support.runs import PROJECT


def start(folder, *words):
    command = [sys.executable, "train.py", "--model_dir", str(folder), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_until(condition, process=None, seconds=300.0):
    """Wait until a condition holds; fail if the process ends before that."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def log_of(folder):
    return (folder / "train.log").read_text() if (folder / "train.log").exists() else ""
