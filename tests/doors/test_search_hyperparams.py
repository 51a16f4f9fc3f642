"""A study as people run it: real processes, which fail, hang and are killed; nothing is lost, nothing runs twice."""

import contextlib
import csv
import fcntl
import importlib.util
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

import numpy as np
import pytest
from PIL import Image

import search_hyperparams
import train
import utils
from fiveline.study import workers
from fiveline.study.trials import Trial
from fiveline.tasks import DEFAULT_TASK, list_tasks
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


@pytest.fixture
def parent_dir(tmp_path):
    return make_study(tmp_path / "a study; $(x)")  # no shell may see it


def command(parent_dir, *words):
    return [sys.executable, "search_hyperparams.py", "--parent_dir", str(parent_dir), *words]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}  # of small nets, threads that wait for each other slow down others


def search(parent_dir, *words, exit_code=0):
    done = subprocess.run(
        command(parent_dir, *words), cwd=PROJECT, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def start(parent_dir, *words, env=None):
    return subprocess.Popen(
        command(parent_dir, *words), cwd=PROJECT, env=env or environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def processes_of(parent_dir):
    """Return the processes that name a study on their command line or have one of its files open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            opened = [str(link.readlink()) for link in (folder / "fd").iterdir()]
            if str(parent_dir) in (folder / "cmdline").read_text() or any(str(parent_dir) in each for each in opened):
                found.append(int(folder.name))
    return found


def wait_until(condition, seconds=300.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def records(parent_dir):
    return {path.parent.name: utils.read_json(path) for path in parent_dir.glob("*/run.json")}


def table(parent_dir):
    """Return the rows of results.csv without the times."""
    with (parent_dir / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    places = [i for i, name in enumerate(rows[0]) if not name.startswith("time")]
    assert len(places) < len(rows[0])
    return [[row[i] for i in places] for row in rows]


def test_cs230s_command_line_makes_its_directories(tmp_path):
    """`python search_hyperparams.py --data_dir D --parent_dir experiments/learning_rate`, as CS230 documents it."""
    parent_dir = make_study(tmp_path / "learning_rate", data_dir=None)
    (parent_dir / "search.yaml").write_bytes((PROJECT / "experiments/learning_rate/search.yaml").read_bytes())
    done = search(parent_dir, "--data_dir", str(PROJECT / "data/digits"))
    names = ["learning_rate_0.0001", "learning_rate_0.001", "learning_rate_0.01"]
    assert sorted(records(parent_dir)) == names
    assert {record["status"] for record in records(parent_dir).values()} == {"finished"}
    assert all(name in done.stdout for name in names) and (parent_dir / "results.md").exists()
    again = search(parent_dir, "--data_dir", str(PROJECT / "data/digits"))
    assert "started" not in again.stdout


def test_the_shipped_examples_are_studies(tmp_path):
    for path in sorted(PROJECT.glob("experiments/*/search.yaml")):
        if task_of(path.parent) not in REMOVED:
            search(path.parent, "--status")


def test_a_trial_that_fails_costs_itself_alone(parent_dir):
    done = search(parent_dir, "--space", "net=resnet81,cs230", exit_code=1)
    assert "1 of 2 trials failed; the same command tries them again" in done.stderr
    assert "did you mean resnet18" in done.stderr and "net_resnet81: failed" in done.stdout
    assert records(parent_dir)["net_cs230"]["status"] == "finished"
    assert records(parent_dir)["net_resnet81"]["status"] == "failed"


@pytest.mark.slow
def test_a_trial_that_diverges_is_not_tried_again(parent_dir):
    words = ("--space", "learning_rate=1e-3,1e38", "--space", "optimizer=sgd")
    done = search(parent_dir, *words)
    assert "diverged" in done.stdout
    before = (parent_dir / "learning_rate_1e+38__optimizer_sgd/run.json").stat().st_mtime_ns
    search(parent_dir, *words)
    assert (parent_dir / "learning_rate_1e+38__optimizer_sgd/run.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_weird_values_reach_no_shell_and_stay_in_the_folder(parent_dir):
    weird = ["a b; touch pwned", "$(touch pwned)", "'\"`touch pwned`", "../../escape", "日本", "x" * 300]
    (parent_dir / "search.yaml").write_text(json.dumps({"space": {"net": weird}}))  # JSON is YAML
    search(parent_dir, exit_code=1)  # there are no such nets
    assert not list(parent_dir.parent.glob("*escape*")) and not (PROJECT / "pwned").exists()
    assert not (parent_dir / "pwned").exists()
    assert [json.loads(p.read_text())["net"] in weird for p in parent_dir.glob("*/params.json")] == [True] * len(weird)


@pytest.mark.slow
def test_interrupting_saves_every_trial_and_the_same_command_continues(tmp_path):
    parent_dir = make_study(tmp_path / "study", **LONG)
    process = start(parent_dir, "--space", "seed=1,2,3", "--num_workers", "2")
    wait_until(lambda: len(list(parent_dir.glob("*/history.jsonl"))) == 2)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 130 and "the same command to continue" in output, output
    assert not processes_of(parent_dir)
    epochs = {name: record["epochs"] for name, record in records(parent_dir).items()}
    assert {record["status"] for record in records(parent_dir).values()} == {"interrupted"} and len(epochs) == 2
    assert all((parent_dir / name / "last.pth.tar").exists() for name in epochs)
    most = max(epochs.values()) + 3
    (parent_dir / "params.json").write_text(json.dumps({**LONG, "num_epochs": most}))
    search(parent_dir, "--space", "seed=1,2,3", "--num_workers", "2")
    assert {record["epochs"] for record in records(parent_dir).values()} == {most} and len(records(parent_dir)) == 3
    for name, epoch in epochs.items():
        assert f"Continuing after epoch {epoch}" in (parent_dir / name / "train.log").read_text()


@pytest.mark.slow
def test_a_second_interrupt_does_not_wait(tmp_path):
    parent_dir = make_study(tmp_path / "study", **LONG)
    process = start(parent_dir, "--space", "seed=1", "--num_workers", "1")
    wait_until(lambda: list(parent_dir.glob("*/history.jsonl")))
    (trial,) = (int(utils.read_json(path)["process"]) for path in parent_dir.glob("*/.lock.json"))
    os.kill(trial, signal.SIGSTOP)  # it hangs: it can not save
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(1.5)
    process.communicate(timeout=300)
    assert process.returncode == 130 and not processes_of(parent_dir)


@pytest.mark.slow
def test_killed_trials_are_started_again_so_often_and_no_more(tmp_path):
    parent_dir = make_study(tmp_path / "study", **LONG)
    process = start(parent_dir, "--space", "seed=1", "--num_workers", "1", "max_retries=1")
    killed = set()
    for _ in range(2):
        wait_until(
            lambda: any(int(utils.read_json(p)["process"]) not in killed for p in parent_dir.glob("*/.lock.json"))
        )
        (trial,) = (int(utils.read_json(path)["process"]) for path in parent_dir.glob("*/.lock.json"))
        killed.add(trial)
        os.kill(trial, signal.SIGKILL)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and output.count("started again") == 1, output
    assert "killed by SIGKILL (out of memory, perhaps)" in output
    assert records(parent_dir)["seed_1"]["status"] == "failed"


@pytest.mark.slow
def test_a_trial_that_hangs_is_stopped_by_its_timeout(tmp_path):
    parent_dir = make_study(tmp_path / "study", **LONG)
    done = search(parent_dir, "--space", "seed=1", "timeout_minutes=0.1", exit_code=1)
    assert "stopped after 0.1 minutes (timeout_minutes)" in done.stderr
    assert records(parent_dir)["seed_1"]["status"] == "failed" and (parent_dir / "seed_1/last.pth.tar").exists()


@pytest.mark.slow
def test_the_time_budget_stops_the_study_in_good_order(tmp_path):
    parent_dir = make_study(tmp_path / "study", **LONG)
    done = search(parent_dir, "--space", "seed=1", "max_hours=0.005")
    assert "Reached max_hours (0.005). Run the same command again to continue." in done.stdout
    assert records(parent_dir)["seed_1"]["status"] == "interrupted"


@pytest.mark.slow
def test_the_disk_budget_takes_checkpoints_of_losers_and_no_metrics(tmp_path):
    parent_dir = make_study(tmp_path / "study", num_epochs=6)
    done = search(parent_dir, "--space", "learning_rate=1e-6,1e-2,1e-7", "max_gigabytes=0.00001", "--num_workers", "1")
    kept = [path.parent.name for path in parent_dir.glob("*/best.pth.tar")]
    assert kept == ["learning_rate_0.01"] and done.stdout.count("gave up its checkpoints") == 2
    assert len(list(parent_dir.glob("*/metrics_val_best_weights.json"))) == 3
    assert "started" not in search(parent_dir, "--space", "learning_rate=1e-6,1e-2,1e-7").stdout


@pytest.mark.slow
def test_pruned_trials_stop_early_and_stay_pruned(tmp_path):
    """Trials whose learning rate is far too small, after four good ones."""
    parent_dir = make_study(tmp_path / "study", num_epochs=40)
    (parent_dir / "search.yaml").write_text(
        "space: {learning_rate: [0.01, 0.011, 0.012, 0.013, 1.0e-7]}\npruner: median\nmin_epochs: 2\n"
    )
    done = search(parent_dir, "--num_workers", "1")
    record = records(parent_dir)["learning_rate_1e-07"]
    assert record["status"] == "pruned" and 2 <= record["pruned_epoch"] <= record["epochs"] < 40, done.stdout
    assert f"epochs: after epoch {record['pruned_epoch']} (median)" in done.stdout
    assert "started" not in search(parent_dir, "--num_workers", "1").stdout


@pytest.mark.slow
def test_a_trial_with_broken_files_does_not_stop_the_others(parent_dir):
    search(parent_dir, "--space", "seed=1,2", "--num_workers", "1")
    (parent_dir / "params.json").write_text(json.dumps({**QUICK, "num_epochs": QUICK["num_epochs"] + 1}))
    (parent_dir / "seed_1/run.json").write_text("{torn")
    (parent_dir / "seed_2/params.json").write_text("{torn")
    assert "all waiting" in search(parent_dir, "--space", "seed=1,2", "--status").stdout  # they have begun
    done = search(parent_dir, "--space", "seed=1,2", "--num_workers", "1", exit_code=1)
    assert "1 of 2 trials failed" in done.stderr and "seed_1/run.json: not valid JSON" in done.stderr
    assert "remove it, then rerun the same command to continue from the last checkpoint" in done.stderr
    assert utils.read_json(parent_dir / "seed_2/run.json")["epochs"] == QUICK["num_epochs"] + 1
    (parent_dir / "notes").mkdir()
    (parent_dir / "notes/run.json").write_text("[]")  # not a trial: all that the study has to do is done, and said
    (parent_dir / "seed_1/run.json").unlink()
    done = search(parent_dir, "--space", "seed=1,2", "--num_workers", "1")
    assert "seed_1: finished" in done.stdout and "skipped" in done.stderr and "trials failed" not in done.stderr
    assert utils.read_json(parent_dir / "seed_1/run.json")["epochs"] == QUICK["num_epochs"] + 1


@pytest.mark.slow
def test_two_commands_do_not_run_one_study_at_once(tmp_path):
    parent_dir = make_study(tmp_path / "study", **LONG)
    process = start(parent_dir, "--space", "seed=1")
    wait_until(lambda: list(parent_dir.glob("*/history.jsonl")))
    assert "in use by process" in search(parent_dir, "--space", "seed=1", exit_code=4).stderr
    shown = search(parent_dir, "--space", "seed=1,2", "--status").stdout
    assert "1 running" in shown and "seed_2" in shown and "waiting" in shown
    process.kill()
    wait_until(lambda: not processes_of(parent_dir))
    process.communicate()
    utils.save_dict_to_json({**records(parent_dir)["seed_1"], "status": "running"}, parent_dir / "seed_1/run.json")
    shown = search(parent_dir, "--space", "seed=1", "--status").stdout
    assert "1 stale" in shown and "the same search command continues it" in shown


@pytest.mark.slow
def test_dry_run_tells_what_it_will_cost_and_runs_nothing(parent_dir):
    done = search(parent_dir, "--space", "seed=1,2,3", "--dry_run", "--num_workers", "2")
    assert "seed_1  waiting" in done.stdout and "3 of 3 trials to run, 2 epochs each, 2 at once" in done.stdout
    assert "GB of checkpoints" in done.stdout
    assert [path.name for path in parent_dir.iterdir()] == ["params.json"]


@pytest.mark.slow
def test_a_job_array_runs_the_trials_one_by_one(parent_dir):
    words = ("--space", "learning_rate={low: 1e-3, high: 1e-1, log: true}", "sampler=random", "num_trials=2")
    listed = search(parent_dir, *words, "--array")
    command = shlex.split(listed.stderr.partition("sbatch ")[2])
    assert command[:2] == ["--array=0-1", "--wrap"]
    given = shlex.split(command[2])  # with what varies, and where: else each job would run another study
    assert all(word in given for word in words) and given[-2:] == ["--index", "$SLURM_ARRAY_TASK_ID"]
    names = [line.split(" ", 1)[1] for line in listed.stdout.splitlines()]
    for index in (1, 0):  # in any order, each knowing nothing of the other
        search(parent_dir, *words, "--index", str(index))
    assert sorted(records(parent_dir)) == sorted(names)
    assert "trials 0 to 1; --array lists them" in search(parent_dir, *words, "--index", "2", exit_code=2).stderr
    (parent_dir / "other").mkdir()
    (parent_dir / "other/run.json").write_text("{")
    again = search(parent_dir, *words)
    assert "started" not in again.stdout and "skipped" in again.stderr  # what else lies there says nothing of the study
    assert "known in advance" in search(parent_dir, *words, "sampler=tpe", "--array", exit_code=2).stderr


def run_at_once(parent_dir, *many_words):
    """Start several commands of one study at the same moment; return their exit codes and what they printed."""
    running = [start(parent_dir, "--space", "seed=1,2,3", *words) for words in many_words]
    outputs = [process.communicate(timeout=600)[0] for process in running]
    assert not any("Traceback" in output for output in outputs), outputs
    assert not [path for path in parent_dir.iterdir() if path.name.startswith(".") and path.name != ".lock"]
    return [process.returncode for process in running], outputs


@pytest.mark.slow
def test_one_index_can_be_started_many_times_at_once(parent_dir):
    codes, outputs = run_at_once(parent_dir, *[("--index", "2")] * 4)
    assert codes.count(0) >= 1 and set(codes) <= {0, 4}, outputs  # one runs it; the others find it in use, or finished
    assert all(code == 0 or "in use by" in output for code, output in zip(codes, outputs, strict=True))
    assert {name: record["status"] for name, record in records(parent_dir).items()} == {"seed_3": "finished"}


@pytest.mark.slow
def test_a_study_and_the_jobs_of_its_array_share_the_trials(parent_dir):
    jobs = [("--index", str(i)) for i in range(3)]
    codes, outputs = run_at_once(parent_dir, ("--num_workers", "2"), *jobs)
    assert codes[0] == 0 and set(codes) <= {0, 4}, outputs
    assert "failed" not in outputs[0] and not any("remove" in output for output in outputs)
    assert [record["status"] for record in records(parent_dir).values()] == ["finished"] * 3


@pytest.mark.slow
def test_a_trial_that_runs_elsewhere_all_the_time_is_no_failure(tmp_path, monkeypatch, capsys):
    parent_dir = make_study(tmp_path / "study")
    words = ["--parent_dir", str(parent_dir), "--space", "seed=1,2"]
    for name in ("IN_USE_PAUSE", "IN_USE_ATTEMPTS"):
        monkeypatch.setattr(f"fiveline.study.driver.{name}", 0.01 if name == "IN_USE_PAUSE" else 3)
    (parent_dir / "seed_1").mkdir()
    with (
        utils.RunDirectory(parent_dir / "seed_1"),
        pytest.raises(utils.InUseError, match=r"1 of 2 trials still run elsewhere \(seed_1\); when they have ended"),
    ):
        search_hyperparams.main(words)
    assert capsys.readouterr().out.count("seed_1: runs elsewhere") == 1
    search_hyperparams.main(words)
    assert [record["status"] for record in records(parent_dir).values()] == ["finished", "finished"]


@pytest.mark.slow
def test_threads_are_shared_out_and_the_server_has_one_when_it_forks(parent_dir):
    words = ("--space", "seed=1,2", "--num_workers", "2")
    plain = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    process = start(make_study(parent_dir.parent / "long", **LONG), *words, env=plain)
    folder = parent_dir.parent / "long"
    wait_until(lambda: len(list(folder.glob("*/history.jsonl"))) == 2)
    servers = [
        p
        for p in Path("/proc").glob("[0-9]*")
        if b"multiprocessing.forkserver" in _cmdline(p) and _parent(p) == process.pid
    ]
    assert [len(list((server / "task").iterdir())) for server in servers] == [1]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 143
    threads = {record["machine"]["threads"] for record in records(folder).values()}
    assert threads == {max(1, len(os.sched_getaffinity(0)) // 2)}


def _cmdline(folder):
    try:
        return (folder / "cmdline").read_bytes()
    except OSError:
        return b""


def _parent(folder):
    return int((folder / "stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_the_script_loads_no_torch(parent_dir):
    code = (
        "import sys, search_hyperparams; "
        f"search_hyperparams.main(['--parent_dir', {str(parent_dir)!r}, '--space', 'seed=1']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_mistakes_are_reported_before_anything_starts(parent_dir):
    done = search(parent_dir, "--space", "batch_size=0,200", "--space", "optimizer=adam,adamm", exit_code=2)
    assert "batch_size" in done.stderr and "adamm" in done.stderr
    assert (
        "--num_workers 0: expected 1 or more"
        in search(parent_dir, "--space", "seed=1", "--num_workers", "0", exit_code=2).stderr
    )
    assert [path.name for path in parent_dir.iterdir()] == ["params.json"]
    assert search_hyperparams.make_parser().parse_args([]).parent_dir == "experiments/learning_rate"


@pytest.mark.slow
def test_data_dir_of_the_command_line_is_handed_on(parent_dir, tmp_path):
    done = search(parent_dir, "--data_dir", str(tmp_path / "no data; here"), "--space", "seed=1", exit_code=1)
    assert f"{tmp_path}/no data; here: there is no such data directory" in done.stderr


@pytest.mark.thorough
def test_a_study_killed_at_ten_moments_ends_as_one_that_was_not(tmp_path):
    params = {"num_epochs": 60, "num_channels": 4, "batch_size": 40, "dropout_rate": 0.2}
    words = (
        "--space",
        "learning_rate=1e-4,1e-3,1e-2",
        "--space",
        "batch_size=40,80",
        "--space",
        "seed=1,2",
        "--num_workers",
        "2",
    )
    whole = make_study(tmp_path / "whole", **params)
    search(whole, *words)
    parts = make_study(tmp_path / "parts", **params)
    chance = random.Random(230)
    ended = {}
    for kill in range(10):
        process = start(parts, *words)
        wait_until(lambda process=process: list(parts.glob("*/.lock.json")) or process.poll() is not None)
        assert process.poll() is None, "the study is too short for ten kills"
        time.sleep(chance.uniform(0, 2.5))
        if kill % 2:  # a single trial, then the driver
            with contextlib.suppress(OSError, ProcessLookupError, utils.InputError):
                os.kill(utils.read_json(next(parts.glob("*/.lock.json")))["process"], signal.SIGKILL)
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


@pytest.mark.parametrize("task", list_tasks())
def test_what_the_fork_server_loads_can_be_imported(task):
    """It passes over a module that is not there, and each trial would import all of it again."""
    modules = workers.LocalWorkers(1, task, train.main, []).modules
    assert {"torch", "train", f"model.{task}.net"} <= set(modules)
    assert all(importlib.util.find_spec(name) for name in modules if name != "__main__")


@pytest.mark.slow
def test_a_dead_server_costs_its_trials_nothing_but_time(tmp_path):
    parent_dir = make_study(tmp_path / "study", num_epochs=40)
    process = start(parent_dir, "--space", "seed=1", "--num_workers", "1")
    wait_until(lambda: list(parent_dir.glob("*/history.jsonl")))
    for folder in Path("/proc").glob("[0-9]*"):
        if b"multiprocessing.forkserver" in _cmdline(folder) and _parent(folder) == process.pid:
            os.kill(int(folder.name), signal.SIGKILL)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert records(parent_dir)["seed_1"]["status"] == "finished"
    assert "Continuing after epoch" in (parent_dir / "seed_1/train.log").read_text()


def test_a_finished_trial_is_as_old_as_its_epochs_say(parent_dir):
    """Its record may have the params of a command that asked for more and failed."""
    utils.save_dict_to_json({"status": "finished", "epochs": 2, "params": {"num_epochs": 4}}, parent_dir / "run.json")
    statuses = [Trial(0, {}, utils.Params(num_epochs=number), parent_dir).status() for number in (2, 4)]
    assert statuses == ["finished", "waiting"]


def take_lease(file):
    """Let whoever opens the file wait; not while another process has it open."""
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="files have leases on Linux only")
def test_a_trial_that_hangs_when_its_server_dies_is_killed(tmp_path, monkeypatch):
    """It reads an image from a disk that does not answer: signals wait for the end of a step that does not come."""
    monkeypatch.setattr(workers, "GRACE_SECONDS", 5.0)
    for i, split in enumerate(["train"] * 8 + ["val"] * 4):
        path = tmp_path / "data" / split / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(path)
    values = {**LONG, "data_dir": str(tmp_path / "data"), "cache": "none", "num_workers": 0}
    folder = make_study(tmp_path / "trial", **values)
    trial = Trial(0, {}, utils.Params(), folder)
    local = workers.LocalWorkers(1, "vision", train.main, [])
    local.start(trial)
    wait_until(lambda: not local.poll(0.1) and (folder / "history.jsonl").exists())
    waiting = []
    signal.signal(signal.SIGIO, lambda *_: waiting.append(True))  # another process opens the file, and waits
    file = path.open("r+b")
    wait_until(lambda: take_lease(file))
    wait_until(lambda: waiting)
    hanging = utils.read_json(folder / ".lock.json")["process"]
    try:
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        time.sleep(1.5)
        assert not local.poll(0.1) and processes_of(folder) == [hanging]  # it was asked to stop, and has its time
        ended = []
        wait_until(lambda: ended.extend(local.poll(0.1)) or ended, seconds=20)
        assert [each.trial for each in ended] == [trial] and "has ended" in ended[0].reason
        assert not processes_of(folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(hanging, signal.SIGKILL)
