"""Run the job scripts of docs/clusters.md as SLURM would: its variables, its `srun`, its signal to the step."""

import os
import subprocess

import pytest

import utils
from tests.support.pages import PROJECT, listings_of, make_clone, write_listings
from tests.support.processes import acting_at
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "run"),
    [("job.sh", "experiments/base_model"), ("array.sh", "experiments/learning_rate/learning_rate_0.001")],
)
def test_a_job_whose_time_is_up_saves_and_is_queued_again(script, run, clone):
    variables = {"SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    variables |= {"PATH": f"{clone.parent / 'bin'}:{os.environ['PATH']}"}
    # in epoch 2, SLURM sends its signal to the process of the step, which is the shell that became train.py
    times_up = acting_at("Epoch 2/", "os.kill(int(open('step.pid').read()), signal.SIGTERM)", clone.parent / "site")
    for more, status, code in ((times_up, "interrupted", 143), ({}, "finished", 0)):
        environment = {**os.environ, **variables, **more}
        result = subprocess.run(["bash", script], cwd=clone, env=environment, capture_output=True, text=True)
        assert (result.returncode, (clone / "requests.txt").read_text()) == (code, "requeue 7\n"), result.stderr
        assert utils.read_json(clone / run / "run.json")["status"] == status
    assert "Continuing after epoch" in result.stdout


@pytest.mark.parametrize(("name", "script"), [entry for entry in listings_of(PAGE) if entry[0].endswith(".sh")])
def test_job_scripts_are_bash(name, script):
    result = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, ""), name
