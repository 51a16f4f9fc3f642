"""train.py in a process of its own: started, struck by a fault at a known moment, and compared by what it left."""

import os
import subprocess
import sys
import time

from tests.support.tasks import PROJECT

PATIENCE = 600  # seconds after which something hangs: far more than it takes, because other work slows a machine down
TRIGGER = """
import logging, os, signal

class Trigger(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith({line!r}):
            logging.getLogger().removeHandler(self)
            {action}

logging.getLogger().addHandler(Trigger())
"""


def acting_at(line, action, folder):
    """Return the variables of processes that run a statement when they log a line that begins with some text.

    A test that watches the log from outside may look too late: the run has then gone on, or has ended.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(TRIGGER.format(line=line, action=action))  # Python imports it at its start
    return {"PYTHONPATH": str(folder)}


def start(folder, *words, at=None, action="", before=()):
    """Start train.py in a session of its own; at a line of its log, it runs the statement `action`."""
    command = [*before, sys.executable, "train.py", "--model_dir", str(folder), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if at:
        environment |= acting_at(at, action, folder.with_name(f"{folder.name}_site"))
    return subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_until(condition, process=None):
    """Wait until a condition holds; fail if the process ends before that."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def log_of(folder):
    return (folder / "train.log").read_text() if (folder / "train.log").exists() else ""
