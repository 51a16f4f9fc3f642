"""Run the job scripts of docs/clusters.md as SLURM would: its variables, its `srun`, its signal to the step."""

import os
import signal
import subprocess

import pytest

import utils
from tests.support.pages import PROJECT, listings_of, make_clone, write_listings
from tests.support.processes import log_of, wait_until
from tests.support.tasks import SHIPPED, needs

pytestmark = needs(*SHIPPED)  # the scripts are about some of them
PAGE = PROJECT / "docs/clusters.md"
SRUN = '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\necho $$ > step.pid\nexec "$@"\n'
SCONTROL = '#!/bin/sh\necho "$@" >> requests.txt\n'


@pytest.fixture
def clone(tmp_path):
    folder = make_clone(tmp_path / "fiveline")
    write_listings(PAGE, folder)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return folder


def submit(script, clone, **variables):
    environment = {
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_JOB_ID": "7",
        "PATH": f"{clone.parent / 'bin'}:{os.environ['PATH']}",
    }
    return subprocess.Popen(
        ["bash", script], cwd=clone, env={**os.environ, **environment, **variables},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def requests(clone):
    return (clone / "requests.txt").read_text() if (clone / "requests.txt").exists() else ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "run"),
    [("job.sh", "experiments/base_model"), ("array.sh", "experiments/learning_rate/learning_rate_0.001")],
)
def test_a_job_whose_time_is_up_saves_and_is_queued_again(script, run, clone):
    process = submit(script, clone, SLURM_ARRAY_TASK_ID="1")
    wait_until(lambda: "Epoch 2/" in log_of(clone / run), process)
    os.kill(int((clone / "step.pid").read_text()), signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert (process.returncode, requests(clone)) == (143, "requeue 7\n"), output
    assert utils.read_json(clone / run / "run.json")["status"] == "interrupted"

    process = submit(script, clone, SLURM_ARRAY_TASK_ID="1")
    output = process.communicate(timeout=120)[0]
    assert (process.returncode, requests(clone)) == (0, "requeue 7\n"), output
    assert "Continuing after epoch" in output
    assert utils.read_json(clone / run / "run.json")["status"] == "finished"


@pytest.mark.parametrize(("name", "script"), [entry for entry in listings_of(PAGE) if entry[0].endswith(".sh")])
def test_job_scripts_are_bash(name, script):
    result = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, ""), name
