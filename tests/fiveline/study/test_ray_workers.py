"""A study on a real Ray cluster of two nodes, one of which is killed; stopping it, and killing the study itself."""

import contextlib
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train
import utils
from fiveline.study.ray_workers import RayWorkers
from fiveline.study.trials import Trial
from fiveline.tasks import fetch_params
from tests.support.data import refusal
from tests.support.processes import PATIENCE, log_of, start, wait_until
from tests.support.runs import DIGITS, PROJECT, assert_same_end, write_params

SEEDS = (1, 2, 3, 4)
PARAMS = {**DIGITS, "num_epochs": 30, "checkpoint_minutes": 0.01}  # no trial ends before the last one has saved
NODE = {"num_cpus": 2, "object_store_memory": 80 * 2**20}


# not imported here, where it would cost each test process a second
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs requirements-ray.txt")


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one node, which pretends to have two CPUs."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield cluster
    with contextlib.suppress(Exception):  # some of it is dead already, perhaps
        cluster.shutdown()


@pytest.fixture
def folders(tmp_path):
    """Return the directories of the study's trials, which the study will make."""
    return [write_params(tmp_path / "a study", **PARAMS) / f"seed_{seed}" for seed in SEEDS]


@pytest.fixture
def begin(folders, cluster):
    """Return a function that starts the study, as a user does."""
    with contextlib.ExitStack() as stack:

        def start_study(*words):
            command = [sys.executable, "search_hyperparams.py", "--parent_dir", str(folders[0].parent)]
            command += ["--ray_address", cluster.address, "--space", f"seed={','.join(map(str, SEEDS))}", *words]
            outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            process = subprocess.Popen(command, cwd=PROJECT, start_new_session=True, **outputs)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start_study


def processes_of_trials(folders):
    """Return the processes that have one of the trials' outputs open."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):
            if path.readlink() in {folder / "output.txt" for folder in folders}:
                found.add(int(path.parts[2]))
    return found


def tree(process):
    """Return a process and all that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parts[2])] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [process]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def saved(folders):
    return [folder for folder in folders if (folder / "last.pth.tar").exists()]


def statuses(folders):
    return [utils.read_json(folder / "run.json")["status"] for folder in folders if (folder / "run.json").exists()]


@needs_ray
@pytest.mark.slow
def test_a_node_that_dies_costs_what_was_not_saved_and_the_study_ends_in_the_same_bits(
    cluster, begin, folders, tmp_path
):
    second = cluster.add_node(**NODE)
    process = begin()
    wait_until(lambda: len(saved(folders)) == 4, process)
    victims = tree(second.all_processes["raylet"][0].process.pid)
    lost = set()
    for number in (signal.SIGSTOP, signal.SIGKILL):  # as when the power fails: no process has time to react
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, number)
        lost = lost or processes_of_trials(folders) & set(victims)
        assert lost, "no trial runs on the second node"

    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert output.count("lost with the node") == output.count("; started again") == len(lost)
    assert statuses(folders) == ["finished"] * 4
    continued = [i for i, folder in enumerate(folders) if "Continuing after" in log_of(folder)]
    assert len(continued) == len(lost)
    whole = write_params(tmp_path / "whole", **PARAMS, seed=SEEDS[continued[0]])
    assert start(whole).wait() == 0
    assert_same_end(folders[continued[0]], whole)


@needs_ray
@pytest.mark.slow
def test_a_study_that_is_killed_leaves_no_process_and_its_trials_save(begin, folders):
    output, _ = begin("--cpus_per_trial", "3").communicate(timeout=PATIENCE)
    assert "no node of the cluster has 3 CPUs and 0 GPUs for a trial" in output and "Traceback" not in output
    process = begin()
    wait_until(lambda: len(saved(folders)) >= 2, process)
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of_trials(folders))  # no orphan stays
    # Ray may start the trials that wait before it learns of the end; they are interrupted as well
    assert len(statuses(folders)) >= 2 and set(statuses(folders)) == {"interrupted"}


@needs_ray
@pytest.mark.slow
def test_trials_see_their_own_gpu_and_interrupting_saves_them_and_ends_those_that_wait_for_a_place(
    cluster, begin, folders
):
    node = cluster.add_node(**{**NODE, "num_cpus": 4}, num_gpus=2)  # it only says so
    process = begin("--num_parallel", "3")  # there are GPUs for two
    wait_until(lambda: len(saved(folders)) >= 2, process)
    seen = []
    for each in processes_of_trials(folders):
        variables = Path(f"/proc/{each}/environ").read_text().split("\0")
        seen += [value for value in variables if value.startswith("CUDA_VISIBLE_DEVICES=")]
    assert sorted(seen) == ["CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1"]
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "Traceback" not in output, output
    assert not processes_of_trials(folders) and statuses(folders) == ["interrupted"] * 2
    with contextlib.suppress(Exception):
        cluster.remove_node(node)


@needs_ray
@pytest.mark.slow
def test_a_machine_that_does_not_see_the_folder_is_named_in_the_output(cluster, tmp_path):
    folder = write_params(tmp_path / "trial", **PARAMS)
    trial = Trial(0, {}, fetch_params(folder), folder)
    (folder / "params.json").unlink()  # as on a disk that is not shared
    workers = RayWorkers(cluster.address, None, train.main, [], 1, None)
    workers.start(trial)
    while not (ended := workers.poll(1.0)):
        pass
    importlib.import_module("ray").shutdown()
    assert [each.code for each in ended] == [1] and not workers.running
    error = (folder / "output.txt").read_text().rstrip().rpartition("\n")[2]
    assert error.startswith("error: ") and error.endswith("; Ray needs a shared file system")


@needs_ray
def test_no_cluster_is_reported_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:10001", "auto"):
        message = refusal(RayWorkers, address, None, train.main, [], 1, None)
        assert f"--ray_address {address}: no Ray cluster can be reached (" in message and "\n" not in message
        assert "expected auto, or HOST:PORT" in message


def test_that_ray_is_missing_is_reported_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    message = refusal(RayWorkers, "auto", None, train.main, [], 1, None)
    assert message.endswith("not installed; pip install -r requirements-ray.txt")
