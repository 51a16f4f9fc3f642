"""A study as people run it: trials that fail, hang and are killed; nothing is lost, nothing runs twice."""

import contextlib
import importlib.util
import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

import pytest

import search_hyperparams
import train
import utils
from fiveline.study import workers
from fiveline.study.trials import Trial
from fiveline.tasks import DEFAULT_TASK, list_tasks
from tests.support.data import read_csv
from tests.support.processes import PATIENCE, wait_until
from tests.support.tasks import PROJECT, REMOVED, need, task_of

QUICK = {
    "image_size": 8, "image_channels": 1, "num_channels": 2, "horizontal_flip": False, "batch_size": 200,
    "num_epochs": 2, "data_dir": str(PROJECT / "data/digits"),
}  # fmt: skip
LONG = {**QUICK, "num_epochs": 100_000, "num_channels": 4}


def make_study(folder, **params):
    need(params.get("task", DEFAULT_TASK))
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps({**QUICK, **params}))
    return folder


@pytest.fixture(autouse=True)
def keep_environment():
    """Undo the variables that the start of a fork server sets for its children."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def parent_dir(tmp_path):
    return make_study(tmp_path / "a study; $(x)")  # no shell may see it


def search(parent_dir, *words, exit_code=0):
    """Run the script in this process, whose fork server all studies share; return the printed text."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = 0
            search_hyperparams.main(["--parent_dir", str(parent_dir), *words])
        except utils.Stop as stop:
            code = stop.exit_code
            print(f"error: {stop}")
    assert code == exit_code, printed.getvalue()
    return printed.getvalue()


def start(parent_dir, *words, **variables):
    """Start the script as a process of its own."""
    command = [sys.executable, "search_hyperparams.py", "--parent_dir", str(parent_dir), *words]
    outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **variables}, **outputs)


def end_of(process):
    """Wait for a process; return its exit code and its output."""
    output = process.communicate(timeout=PATIENCE)[0]
    assert "Traceback" not in output, output
    return process.returncode, output


def processes_of(parent_dir):
    """Return the processes that name a study on their command line or have one of its files open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            opened = [str(link.readlink()) for link in (folder / "fd").iterdir()]
            if str(parent_dir) in (folder / "cmdline").read_text() or any(str(parent_dir) in each for each in opened):
                found.append(int(folder.name))
    return found


def server_of(process):
    """Return the fork server of a study's process, as its folder in /proc."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_child = int((path / "stat").read_text().rpartition(")")[2].split()[1]) == process.pid
            if is_child and b"multiprocessing.forkserver" in (path / "cmdline").read_bytes():
                return path
    raise AssertionError("no fork server")


def start_long(parent_dir, *words, num_trials=1, **variables):
    """Start a study, and wait until this many trials have trained an epoch."""
    process = start(parent_dir, *words, **variables)
    wait_until(lambda: len(list(parent_dir.glob("*/history.jsonl"))) == num_trials)
    return process


def workers_of(parent_dir, name="*"):
    """Return the processes of the trials at work, as the trials have recorded them."""
    return [int(utils.read_json(path)["process"]) for path in parent_dir.glob(f"{name}/.lock.json")]


def records(parent_dir):
    return {path.parent.name: utils.read_json(path) for path in parent_dir.glob("*/run.json")}


def statuses(parent_dir):
    return {name: record["status"] for name, record in sorted(records(parent_dir).items())}


def table(parent_dir):
    """Return the rows of results.csv without the times."""
    rows = read_csv(parent_dir / "results.csv")
    return [{name: cell for name, cell in row.items() if not name.startswith("time")} for row in rows]


def test_cs230s_study_makes_its_directories_and_its_process_loads_no_torch(tmp_path):
    parent_dir = make_study(tmp_path / "learning_rate", data_dir=None)
    words = ["--parent_dir", str(parent_dir), "--data_dir", str(PROJECT / "data/digits")]
    code = f"import sys, search_hyperparams; search_hyperparams.main({words}); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    names = ["learning_rate_0.0001", "learning_rate_0.001", "learning_rate_0.01"]
    assert statuses(parent_dir) == dict.fromkeys(names, "finished")
    assert all(name in done.stdout for name in names) and (parent_dir / "results.md").exists()
    assert "started" not in search(parent_dir, *words[2:])


def test_the_shipped_examples_are_studies(parent_dir):
    assert "expected 1 or more" in search(parent_dir, "--space", "seed=1", "--num_parallel", "0", exit_code=2)
    for path in PROJECT.glob("experiments/*/search.yaml"):
        if task_of(path.parent) not in REMOVED:
            search(path.parent, "--status")


def test_a_trial_that_fails_costs_itself_alone_and_no_value_reaches_a_shell_or_another_folder(parent_dir):
    monitors = ["a b; touch pwned `touch pwned` $(touch pwned)", "../../escape", "acuracy", "loss"]
    (parent_dir / "search.yaml").write_text(json.dumps({"space": {"monitor": monitors}}))  # JSON is YAML
    printed = search(parent_dir, exit_code=1)
    assert "3 of 4 trials failed; rerun the same command to retry them" in printed
    assert "monitor 'acuracy'" in printed and "monitor_acuracy: failed" in printed
    found = {record["params"]["monitor"]: record["status"] for record in records(parent_dir).values()}
    assert found == {**dict.fromkeys(monitors, "failed"), "loss": "finished"}
    assert not list(parent_dir.parent.glob("*escape*")) and not list(parent_dir.glob("**/pwned"))
    assert not (PROJECT / "pwned").exists()


def test_what_the_fork_server_loads_can_be_imported():
    """It passes over a module that is not there, and each trial would import all of it again."""
    modules = workers.LocalWorkers(1, list_tasks()[0], train.main, []).modules
    assert all(importlib.util.find_spec(name) for name in modules if name != "__main__")


@pytest.mark.slow
def test_a_stopped_study_saves_every_trial_and_the_same_command_continues(tmp_path):
    parent_dir, words = make_study(tmp_path / "study", **LONG), ("--space", "seed=1,2,3", "--num_parallel", "2")
    process = start_long(parent_dir, *words, num_trials=2, OMP_NUM_THREADS="")
    assert len(list((server_of(process) / "task").iterdir())) == 1  # a process with more threads cannot fork safely
    process.send_signal(signal.SIGTERM)
    code, output = end_of(process)
    assert code == 143 and "rerun the same command to continue" in output, output
    assert not processes_of(parent_dir)
    epochs = {name: record["epochs"] for name, record in records(parent_dir).items()}
    assert set(statuses(parent_dir).values()) == {"interrupted"} and len(epochs) == 2
    threads = {record["machine"]["threads"] for record in records(parent_dir).values()}
    assert threads == {max(1, workers.num_cores() // 2)}
    most = max(epochs.values()) + 3
    (parent_dir / "params.json").write_text(json.dumps({**LONG, "num_epochs": most}))
    search(parent_dir, *words)
    assert [record["epochs"] for record in records(parent_dir).values()] == [most] * 3
    for name, epoch in epochs.items():
        assert f"Continuing after epoch {epoch}" in (parent_dir / name / "train.log").read_text()


@pytest.mark.slow
def test_a_second_interrupt_does_not_wait(tmp_path):
    parent_dir = make_study(tmp_path / "study", **LONG)
    process = start_long(parent_dir, "--space", "seed=1", "--num_parallel", "1")
    os.kill(*workers_of(parent_dir), signal.SIGSTOP)  # it hangs: it can not save
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(1.5)
    assert end_of(process)[0] == 130 and not processes_of(parent_dir)


@pytest.mark.slow
def test_a_killed_trial_starts_again_max_retries_times_and_time_limits_stop_a_trial_or_the_study(tmp_path):
    parent_dir = make_study(tmp_path / "study", **LONG)
    process, killed = start(parent_dir, "--space", "seed=1", "max_retries=1"), []
    for _ in range(2):
        wait_until(lambda killed=killed: workers_of(parent_dir) not in ([], killed), process)
        killed = workers_of(parent_dir)
        os.kill(*killed, signal.SIGKILL)
    code, output = end_of(process)
    assert code == 1 and output.count("started again") == 1, output
    assert "seed_1: killed by SIGKILL (out of memory, perhaps)" in output
    printed = search(parent_dir, "--space", "seed=2", "timeout_minutes=0.05", exit_code=1)
    assert "seed_2: stopped after 0.05 minutes (timeout_minutes)" in printed
    assert statuses(parent_dir) == {"seed_1": "failed", "seed_2": "failed"}
    printed = search(parent_dir, "--space", "seed=3", "max_hours=0.001")
    assert "Reached max_hours (0.001). Rerun the same command to continue." in printed
    assert statuses(parent_dir).get("seed_3", "interrupted") == "interrupted"  # it may not have begun


@pytest.mark.slow
def test_the_disk_budget_takes_checkpoints_of_losers_and_a_diverged_trial_is_not_tried_again(tmp_path):
    parent_dir = make_study(tmp_path / "study", num_epochs=6, optimizer="sgd")
    words = ("--space", "learning_rate=1e-6,1e-1,1e-7,1e38", "--num_parallel", "1", "max_gigabytes=0.00001")
    printed = search(parent_dir, *words)
    assert [path.parent.name for path in parent_dir.glob("*/best.pth.tar")] == ["learning_rate_0.1"]
    assert printed.count("gave up its checkpoints") == 2
    assert len(list(parent_dir.glob("*/metrics_val_best_weights.json"))) == 3
    assert statuses(parent_dir)["learning_rate_1e+38"] == "diverged"
    before = records(parent_dir)
    assert "started" not in search(parent_dir, *words) and records(parent_dir) == before


@pytest.mark.slow
def test_pruned_trials_stop_early_and_stay_pruned(tmp_path):
    """Trials whose learning rate is far too small, after four good ones."""
    parent_dir = make_study(tmp_path / "study", num_epochs=40)
    space = "{learning_rate: [0.01, 0.011, 0.012, 0.013, 1.0e-7]}"
    (parent_dir / "search.yaml").write_text(f"space: {space}\npruner: median\nmin_epochs: 2\n")
    printed = search(parent_dir, "--num_parallel", "1")
    record = records(parent_dir)["learning_rate_1e-07"]
    assert record["status"] == "pruned" and 2 <= record["pruned_epoch"] <= record["epochs"] < 40, printed
    assert f"epochs: after epoch {record['pruned_epoch']} (median)" in printed
    assert "started" not in search(parent_dir, "--num_parallel", "1")


@pytest.mark.slow
def test_a_trial_with_broken_files_does_not_stop_the_others(parent_dir):
    words = ("--space", "seed=1,2", "--num_parallel", "1")
    search(parent_dir, *words)
    (parent_dir / "params.json").write_text(json.dumps({**QUICK, "num_epochs": 3}))
    (parent_dir / "seed_1/run.json").write_text("{torn")
    (parent_dir / "seed_2/params.json").write_text("{torn")
    assert "all waiting" in search(parent_dir, *words, "--status")  # they have begun
    printed = search(parent_dir, *words, exit_code=1)
    assert "1 of 2 trials failed" in printed and "seed_1/run.json: not valid JSON" in printed
    assert "remove it, then rerun the same command to continue from the last checkpoint" in printed
    assert utils.read_json(parent_dir / "seed_2/run.json")["epochs"] == 3
    (parent_dir / "seed_1/run.json").unlink()
    assert "seed_1: finished" in search(parent_dir, *words)
    assert utils.read_json(parent_dir / "seed_1/run.json")["epochs"] == 3


@pytest.mark.slow
def test_two_commands_do_not_run_one_study_at_once(tmp_path):
    parent_dir = make_study(tmp_path / "study", **LONG)
    process = start_long(parent_dir, "--space", "seed=1")
    assert "in use by process" in search(parent_dir, "--space", "seed=1", exit_code=4)
    shown = search(parent_dir, "--space", "seed=1,2", "--status")
    assert "1 running" in shown and "seed_2" in shown and "waiting" in shown
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_of(parent_dir))
    utils.save_dict_to_json({**records(parent_dir)["seed_1"], "status": "running"}, parent_dir / "seed_1/run.json")
    shown = search(parent_dir, "--space", "seed=1", "--status")
    assert "1 stale" in shown and "rerun the same command to continue" in shown


@pytest.mark.slow
def test_the_jobs_of_an_array_and_a_study_share_the_trials(parent_dir, capfd):
    words = ("--space", "learning_rate={low: 1e-3, high: 1e-1, log: true}", "sampler=random", "num_trials=2")
    listed, _, advice = search(parent_dir, *words, "--array").partition("for SLURM: sbatch ")
    command = shlex.split(advice)
    assert command[:2] == ["--array=0-1", "--wrap"]
    given = shlex.split(command[2])  # with what varies, and where: else each job would run another study
    assert all(word in given for word in words) and given[-2:] == ["--index", "$SLURM_ARRAY_TASK_ID"]
    jobs = [start(parent_dir, *words, "--index", index) for index in "011"]  # each knows nothing of the others
    code, output = end_of(start(parent_dir, *words, "--num_parallel", "2"))
    assert code == 0 and "failed" not in output, output
    assert {end_of(job)[0] for job in jobs} <= {0, 4}  # finished, or in use
    names = [line.split(" ", 1)[1] for line in listed.splitlines()]
    assert statuses(parent_dir) == dict.fromkeys(sorted(names), "finished")
    assert not [path for path in parent_dir.iterdir() if path.name.startswith(".") and path.name != ".lock"]
    assert "trials 0 to 1; --array lists them" in search(parent_dir, *words, "--index", "2", exit_code=2)
    assert "known in advance" in search(parent_dir, *words, "sampler=tpe", "--array", exit_code=2)


@pytest.mark.slow
def test_a_trial_that_runs_elsewhere_all_the_time_is_no_failure(parent_dir, monkeypatch):
    monkeypatch.setattr("fiveline.study.driver.IN_USE_PAUSE", 0.01)
    monkeypatch.setattr("fiveline.study.driver.IN_USE_ATTEMPTS", 3)
    (parent_dir / "seed_1").mkdir()
    with utils.RunDirectory(parent_dir / "seed_1"):
        printed = search(parent_dir, "--space", "seed=1,2", exit_code=4)
    assert "1 of 2 trials still run elsewhere (seed_1); rerun the same command when they have ended" in printed
    assert printed.count("seed_1: runs elsewhere") == 1
    search(parent_dir, "--space", "seed=1,2")
    assert statuses(parent_dir) == {"seed_1": "finished", "seed_2": "finished"}


@pytest.mark.thorough
def test_a_study_killed_at_ten_moments_ends_as_one_that_was_not(tmp_path):
    params = {"num_epochs": 60, "num_channels": 4, "batch_size": 40, "dropout_rate": 0.2}
    spaces = ("learning_rate=1e-4,1e-3,1e-2", "batch_size=40,80", "seed=1,2")
    words = (*(f"--space={space}" for space in spaces), "--num_parallel", "2")
    whole, parts = (make_study(tmp_path / name, **params) for name in ("whole", "parts"))
    search(whole, *words)
    chance, ended = random.Random(230), {}

    def num_epochs():
        return sum(len(utils.read_lines(path, is_growing=True)) for path in parts.glob("*/history.jsonl"))

    for kill in range(10):
        process, epochs = start(parts, *words), num_epochs() + chance.randint(0, 80)
        wait_until(lambda: list(parts.glob("*/.lock.json")), process)
        wait_until(lambda epochs=epochs: num_epochs() >= epochs, process)
        time.sleep(chance.uniform(0, 0.5))
        if kill % 2:  # a single trial, then the driver
            with contextlib.suppress(OSError, ProcessLookupError, utils.InputError):
                os.kill(workers_of(parts)[0], signal.SIGKILL)
            time.sleep(chance.uniform(0, 1))
        process.kill()
        process.communicate()
        wait_until(lambda: not processes_of(parts))  # no orphan stays
        for path in parts.glob("*/run.json"):
            if path in ended:
                assert path.stat().st_mtime_ns == ended[path], f"{path} ran twice"
            elif utils.read_json(path)["status"] == "finished":
                ended[path] = path.stat().st_mtime_ns
    assert 0 < len(ended) < 12
    search(parts, *words)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in ended.items())
    assert table(parts) == table(whole) and len(records(whole)) == 12
    for folder in whole.glob("*/"):
        first, second = (utils.read_checkpoint(path / "last.pth.tar") for path in (folder, parts / folder.name))
        assert all(first["state_dict"][key].equal(second["state_dict"][key]) for key in first["state_dict"])


@pytest.mark.slow
def test_a_dead_server_costs_its_trials_nothing_but_time(tmp_path):
    parent_dir = make_study(tmp_path / "study", num_epochs=40)
    process = start_long(parent_dir, "--space", "seed=1", "--num_parallel", "1")
    os.kill(int(server_of(process).name), signal.SIGKILL)
    wait_until(lambda: "Continuing after epoch" in (parent_dir / "seed_1/train.log").read_text(), process)
    process.send_signal(signal.SIGTERM)
    assert end_of(process)[0] == 143 and statuses(parent_dir) == {"seed_1": "interrupted"}


def hang():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(sys.argv[2], "hangs").touch()  # it has the arguments of train.py: --model_dir comes first
    time.sleep(600)


@pytest.mark.slow
def test_a_trial_that_hangs_when_its_server_dies_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "GRACE_SECONDS", 1.0)
    folder = make_study(tmp_path / "trial")
    trial = Trial(0, {}, utils.Params(), folder)
    local = workers.LocalWorkers(1, DEFAULT_TASK, hang, [])
    local.start(trial)
    wait_until(lambda: (folder / "hangs").exists())
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    ended = []
    wait_until(lambda: ended.extend(local.poll(0.1)) or ended)
    assert [each.trial for each in ended] == [trial] and "has ended" in ended[0].reason
    assert not processes_of(folder)
