"""A study on a real Ray cluster of two nodes, one of which is killed; stopping it, and killing the study itself."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
import utils
from fiveline.study.ray_workers import RayWorkers
from fiveline.study.trials import Trial
from fiveline.tasks import fetch_params
from tests.support.processes import log_of, start, wait_until
from tests.support.runs import DIGITS, PROJECT, assert_same_end, write_params

SEEDS = (1, 2, 3, 4)
PARAMS = {**DIGITS, "num_epochs": 12, "checkpoint_minutes": 0.01}


def has_ray():
    with contextlib.suppress(ModuleNotFoundError):
        return bool(__import__("ray"))
    return False


needs_ray = pytest.mark.skipif(not has_ray(), reason="Ray is not installed (requirements-ray.txt)")


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one node, which pretends to have two CPUs."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    yield cluster
    with contextlib.suppress(Exception):  # some of it is dead already, perhaps
        cluster.shutdown()


@pytest.fixture
def study(tmp_path, cluster):
    """Return a function that starts the study, as a user does."""
    parent_dir = write_params(tmp_path / "a study", **PARAMS)
    processes = []

    def begin(*words):
        command = [
            *(sys.executable, "search_hyperparams.py", "--parent_dir", str(parent_dir)),
            *("--ray_address", cluster.address, "--space", f"seed={','.join(map(str, SEEDS))}", *words),
        ]
        process = subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        processes.append(process)
        return process

    begin.folders = [parent_dir / f"seed_{seed}" for seed in SEEDS]
    yield begin
    for process in processes:
        process.kill()
        process.wait()


def processes_of_trials(folders):
    """Return the processes that have one of the trials' outputs open."""
    found = set()
    names = {str(folder / "output.txt") for folder in folders}
    for path in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):
            if str(path.readlink()) in names:
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


def wait_for_all_gone(folders, seconds=60):
    end = time.monotonic() + seconds
    while processes_of_trials(folders):
        assert time.monotonic() < end, "orphans"
        time.sleep(0.2)


def is_saved(folder):
    return (folder / "last.pth.tar").exists()


@needs_ray
@pytest.mark.slow
def test_a_node_that_dies_costs_what_was_not_saved_and_the_study_ends_in_the_same_bits(cluster, study, tmp_path):
    second = cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    process = study()
    wait_until(lambda: all(map(is_saved, study.folders)), process, 120)
    victims = tree(second.all_processes["raylet"][0].process.pid)
    lost = processes_of_trials(study.folders) & set(victims)
    assert len(lost) == 2 and len(processes_of_trials(study.folders)) == 4  # both nodes are at work
    for number in (signal.SIGSTOP, signal.SIGKILL):  # as when the power fails: no one has time to react
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, number)

    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert output.count("lost with the node") == 2 and output.count("; started again") == 2
    assert all(utils.read_json(folder / "run.json")["status"] == "finished" for folder in study.folders)
    continued = [i for i, folder in enumerate(study.folders) if "Continuing after" in log_of(folder)]
    assert len(continued) == 2
    for i in continued:
        whole = write_params(tmp_path / f"whole_{i}", **PARAMS, seed=SEEDS[i])
        assert start(whole).wait() == 0
        assert_same_end(study.folders[i], whole)


@needs_ray
@pytest.mark.thorough
def test_interrupting_saves_all_trials_those_that_wait_for_a_place_end_and_the_same_command_continues(study):
    process = study("--num_workers", "3")  # there is a place for two
    wait_until(lambda: sum(map(is_saved, study.folders)) == 2, process, 120)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in output, output
    assert not processes_of_trials(study.folders)
    begun = [folder for folder in study.folders if (folder / "run.json").exists()]
    assert [utils.read_json(folder / "run.json")["status"] for folder in begun] == ["interrupted"] * 2

    process = study()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert sum("Continuing after" in log_of(folder) for folder in study.folders) == 2


@needs_ray
@pytest.mark.slow
def test_a_study_that_is_killed_leaves_no_process_and_its_trials_save(study):
    process = study()
    wait_until(lambda: sum(map(is_saved, study.folders)) == 2, process, 120)
    process.kill()
    process.wait()
    wait_for_all_gone(study.folders)
    begun = [folder for folder in study.folders if (folder / "run.json").exists()]
    # Ray may start the trials that wait before it learns of the end; they are interrupted as well
    assert len(begun) >= 2
    assert {utils.read_json(folder / "run.json")["status"] for folder in begun} == {"interrupted"}


@needs_ray
@pytest.mark.slow
def test_a_trial_larger_than_any_node_is_refused(study):
    output, _ = study("--cpus_per_trial", "3").communicate(timeout=60)
    assert "no node of the cluster has 3 CPUs and 0 GPUs for a trial" in output and "Traceback" not in output


@needs_ray
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster can be reached at 127.0.0.1:1"),
        ("ray://127.0.0.1:10001", "expected auto, or HOST:PORT"),
        ("local", "expected auto, or HOST:PORT"),
        ("auto", "no Ray runs on this machine"),
    ],
)
def test_no_cluster_is_reported_in_one_line(address, message, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(utils.InputError, match=message) as caught:
        RayWorkers(address, None, train.main, [])
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_that_ray_is_missing_is_reported_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(utils.InputError, match=r"not installed; pip install -r requirements-ray\.txt$"):
        RayWorkers("auto", None, train.main, [])


@needs_ray
@pytest.mark.slow
def test_each_trial_sees_the_gpu_that_ray_gives_it_and_no_other(cluster, study):
    node = cluster.add_node(num_cpus=4, num_gpus=2, object_store_memory=80 * 2**20)  # it only says so
    process = study()
    wait_until(lambda: sum(map(is_saved, study.folders)) == 2, process, 120)
    seen = []
    for each in processes_of_trials(study.folders):
        variables = Path(f"/proc/{each}/environ").read_text().split("\0")
        seen += [value for value in variables if value.startswith("CUDA_VISIBLE_DEVICES=")]
    assert sorted(seen) == ["CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1"]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert not processes_of_trials(study.folders)
    with contextlib.suppress(Exception):
        cluster.remove_node(node)


@needs_ray
@pytest.mark.slow
def test_a_machine_that_does_not_see_the_folder_is_named_in_the_output(cluster, tmp_path):
    folder = write_params(tmp_path / "trial", **PARAMS)
    trial = Trial(0, {}, fetch_params(folder), folder)
    (folder / "params.json").unlink()  # as on a disk that is not shared
    workers = RayWorkers(cluster.address, None, train.main, [])
    try:
        workers.start(trial)
        while not (ended := workers.poll(1.0)):
            pass
    finally:
        import ray

        ray.shutdown()
    assert [each.code for each in ended] == [1] and not workers.running
    error = (folder / "output.txt").read_text().rstrip().rpartition("\n")[2]
    assert error.startswith("error: ") and error.endswith("; Ray needs a shared file system")
