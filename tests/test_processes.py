"""Several processes: the weights of one, exact metrics, one log; and every way in which they can end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import processes
import utils
from tests.test_faults import photos  # noqa: F401
from tests.test_resume import log_of, wait_until, write_run
from tests.test_train import read_state, without_times
from training.parallel import _in_buckets
from training.selftest import differences

PROJECT = Path(__file__).resolve().parent.parent
TABULAR = {"task": "tabular", "net": "two_layer", "batch_size": 32, "num_epochs": 1, "optimizer": "sgd"}
NER = {"task": "ner", "batch_size": 16, "num_epochs": 1, "dropout_rate": 0.0, "word_dropout_rate": 0.0,
       "lstm_hidden_dim": 16, "embedding_dim": 16, "clip_grad_norm": 1.0}  # fmt: skip
LONG = {**TABULAR, "net": "mlp", "hidden_sizes": [32], "dropout_rate": 0.5, "num_epochs": 40, "optimizer": "adam",
        "checkpoint_minutes": 1e-3, "save_summary_steps": 10}  # fmt: skip


def start_job(num_processes, folder, *words, **env):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(num_processes)]
    command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    return subprocess.Popen(
        [*command, "train.py", "--model_dir", str(folder), *words],
        cwd=PROJECT, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def job(num_processes, folder, *words, **env):
    """Run a job to its end; return its exit code and what it said."""
    process = start_job(num_processes, folder, *words, **env)
    try:
        text = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    return process.returncode, text


def alone(folder, *words):
    result = subprocess.run(
        [sys.executable, "train.py", "--model_dir", str(folder), *words], cwd=PROJECT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return folder


def together(num_processes, folder, *words):
    code, text = job(num_processes, folder, *words)
    assert code == 0, text
    return folder


def metrics_of(folder):
    [*rows] = without_times(utils.read_lines(folder / "history.jsonl"))
    return [{split: row[split] for split in ("train", "val")} for row in rows]


def assert_same_within_rounding(first, second):
    states = [read_state(folder)["state_dict"] for folder in (first, second)]
    assert states[0].keys() == states[1].keys()
    for name, weights in states[0].items():
        scale = float(weights.abs().max())
        torch.testing.assert_close(states[1][name], weights, rtol=1e-5, atol=1e-5 * scale, msg=name)
    for ours, theirs in zip(metrics_of(first), metrics_of(second), strict=True):
        for split in ("train", "val"):
            losses = ours[split].pop("loss"), theirs[split].pop("loss")
            assert losses[0] == pytest.approx(losses[1], rel=1e-5)
            assert ours[split] == theirs[split]  # counts: exactly


def children(process):
    """The pids of a job's processes, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            entries = dict(entry.partition("=")[::2] for entry in path.read_text(errors="replace").split("\0"))
            parent = (path.parent / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == process.pid and "RANK" in entries:
            found[int(entries["RANK"])] = int(path.parent.name)
    return found


# --- shares


@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
@pytest.mark.parametrize(("num_examples", "batch_size"), [(1, 1), (2, 2), (5, 32), (17, 32), (32, 32), (7, 4)])
def test_each_example_of_a_batch_is_in_one_share(monkeypatch, num_processes, num_examples, batch_size):
    monkeypatch.setenv("WORLD_SIZE", str(num_processes))
    shares = []
    for rank in range(num_processes):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(processes.share(1, list(range(num_examples)), batch_size))
    counted = [share[1] for share in shares if not isinstance(share, processes.StandIn)]
    assert [index for indices in counted for index in indices] == list(range(num_examples))
    assert all(indices for _, indices in shares)  # a stand-in has something to compute as well
    assert max(map(len, counted)) - min(map(len, counted)) <= 1
    if batch_size >= 2 * num_processes and num_examples > 1:
        assert min(len(indices) for _, indices in shares) > 1  # for batch norm


def test_a_process_that_was_started_alone_is_the_first_of_one(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert (processes.rank(), processes.world_size(), processes.local_rank()) == (0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")  # a batch system's leftover
    assert (processes.rank(), processes.world_size()) == (0, 1)


def test_gradients_are_sent_in_buckets_of_one_type():
    tensors = [torch.zeros(3), torch.zeros(2**23), torch.zeros(1), torch.zeros(1, dtype=torch.float64)]
    assert [len(bucket) for bucket in _in_buckets(tensors)] == [1, 1, 1, 1]
    assert [len(bucket) for bucket in _in_buckets([tensors[0], tensors[2], tensors[3]])] == [2, 1]


# --- the same as one process


def test_two_processes_end_where_one_does(tmp_path):
    first = alone(write_run(tmp_path / "one", **TABULAR))
    second = together(2, write_run(tmp_path / "two", **TABULAR))
    assert_same_within_rounding(first, second)
    log = log_of(second)
    assert log.count("Starting training for 1 epoch(s) on cpu in 2 processes") == 1
    assert log.count("Epoch 1/1") == 1 and log.count("- Eval metrics") == 1 and log.count("Loading the datasets") == 1
    assert utils.read_json(second / "run.json")["status"] == "finished"
    assert utils.read_json(second / "run.json")["machine"]["processes"] == 2
    assert len(utils.read_lines(second / "history.jsonl")) == 1
    code, text = job(2, second)  # again
    assert code == 0 and text.count("is finished: 1 epochs") == 1
    assert log_of(second) == log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_processes", "params"),
    [
        (2, NER),
        (3, TABULAR),  # 32 is no multiple of 3
        (3, {**TABULAR, "batch_size": 7, "optimizer": "adam"}),
        (2, {**TABULAR, "batch_size": 1, "num_epochs": 1, "learning_rate": 1e-3}),  # one process has nothing to do
        (3, {**TABULAR, "microbatch_size": 4}),  # shares of 10 and 11: not as many pieces
        (2, {**NER, "microbatch_size": 3}),
    ],
    ids=["ner", "three", "seven", "single", "pieces", "ner pieces"],
)
def test_any_number_of_processes_ends_where_one_does(tmp_path, num_processes, params):
    first = alone(write_run(tmp_path / "one", **params))
    assert_same_within_rounding(first, together(num_processes, write_run(tmp_path / "many", **params)))


@pytest.mark.slow
def test_batch_norm_is_the_same_in_all_processes(make_run):
    folder = make_run(batch_size=6, num_epochs=3)  # 40 examples: 4 are left for the last batch, one process has none
    state = read_state(together(3, folder))
    assert all(bool(tensor.isfinite().all()) for tensor in state["state_dict"].values())
    scored = subprocess.run(
        [sys.executable, "evaluate.py", "--model_dir", str(folder), "--split", "val", "--restore_file", "last"],
        cwd=PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    values = utils.read_json(folder / "metrics_val_last.json")
    expected = utils.read_json(folder / "metrics_val_last_weights.json")
    assert values["accuracy"] == expected["accuracy"]
    assert values["loss"] == pytest.approx(expected["loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        {**TABULAR, "optimizer": "adamw", "weight_decay": 0.01, "clip_grad_norm": 1.0, "batch_size": 7},
        {**TABULAR, "batch_size": 2, "learning_rate": 1e-2},
        {**TABULAR, "optimizer": "rmsprop", "learning_rate": 1e-4},
        NER,
    ],
    ids=["tabular", "small", "rmsprop", "ner"],
)
def test_weights_that_are_spread_are_the_same(tmp_path, params):
    first = alone(write_run(tmp_path / "one", **params))
    second = together(2, write_run(tmp_path / "two", **params, fsdp=True))
    assert_same_within_rounding(first, second)
    states = [read_state(folder)["optim_dict"] for folder in (first, second)]
    assert_close_moments(*states)
    result = subprocess.run(
        [sys.executable, "evaluate.py", "--model_dir", str(second), "--split", "val", "--restore_file", "last"],
        cwd=PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    expected = utils.read_json(second / "metrics_val_last_weights.json")
    for name, value in utils.read_json(second / "metrics_val_last.json").items():
        if name in expected:
            assert value == pytest.approx(expected[name], rel=1e-6)


def assert_close_moments(first, second):
    groups = [[{**group, "fused": None} for group in state["param_groups"]] for state in (first, second)]
    assert groups[0] == groups[1]
    assert first["state"].keys() == second["state"].keys()
    for number, entries in first["state"].items():
        for name, tensor in entries.items():
            scale = float(tensor.abs().max()) if isinstance(tensor, torch.Tensor) else 1.0
            torch.testing.assert_close(second["state"][number][name], tensor, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_spread_and_whole_weights_continue_each_other(tmp_path, optimizer):
    params = {**TABULAR, "optimizer": optimizer, "num_epochs": 3}
    whole = alone(write_run(tmp_path / "whole", **params))
    folder = alone(write_run(tmp_path / "run", **params), "num_epochs=1")
    together(2, folder, "num_epochs=2", "fsdp=true")
    alone(folder, "num_epochs=3")
    assert_same_within_rounding(whole, folder)


@pytest.mark.slow
def test_spread_weights_refuse_what_does_not_go_with_them(tmp_path):
    code, text = job(2, write_run(tmp_path / "run", **TABULAR, fsdp=True, microbatch_size=4))
    assert code != 0 and text.count("error: fsdp: does not go with microbatch_size") == 1


# --- how they end


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return together(2, write_run(tmp_path_factory.mktemp("whole") / "run", **LONG))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_job_and_the_same_command_continues_to_the_same_bits(tmp_path, undisturbed, rank):
    folder = write_run(tmp_path / "run", **LONG)
    process = start_job(2, folder)
    wait_until(lambda: "Epoch 3/" in log_of(folder), process)
    time.sleep(0.05)
    os.kill(children(process)[rank], signal.SIGKILL)
    text = process.communicate(timeout=25)[0]  # before torchrun would kill the others
    assert process.returncode != 0
    if rank == 1:
        assert text.count("error: another process of the job has died") == 1
        record = utils.read_json(folder / "run.json")
        assert record["status"] == "failed" and "has died" in record["reason"]
    assert "Signal 9 (SIGKILL)" in text
    state = read_state(folder)
    assert state["epoch"] >= 1
    together(2, folder)
    assert differences(undisturbed, folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_job_saves_once_and_it_continues_to_the_same_bits(tmp_path, undisturbed, number):
    folder = write_run(tmp_path / "run", **{**LONG, "checkpoint_minutes": 10})
    process = start_job(2, folder)
    wait_until(lambda: "Epoch 3/" in log_of(folder), process)
    process.send_signal(number)
    text = process.communicate(timeout=25)[0]
    assert process.returncode != 0
    assert text.count(f"error: stopped by signal {number.value} in epoch") == 1
    assert log_of(folder).count("error: stopped by signal") == 1
    assert utils.read_json(folder / "run.json")["status"] == "interrupted"
    stopped = read_state(folder)
    assert len(stopped.get("others", [])) == (1 if stopped["step"] else 0)
    together(2, folder, f"checkpoint_minutes={LONG['checkpoint_minutes']}")
    assert differences(undisturbed, folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(2, 1), (1, 3), (3, 2)])
def test_a_checkpoint_amid_an_epoch_is_continued_by_any_number_of_processes(tmp_path, counts):
    params = {**TABULAR, "num_epochs": 3, "batch_size": 8, "checkpoint_minutes": 1e-5}
    whole = alone(write_run(tmp_path / "whole", **params))
    folder = write_run(tmp_path / "run", **params)
    process = start_job(counts[0], folder)
    wait_until(lambda: "Epoch 2/" in log_of(folder), process)
    os.kill(children(process)[0], signal.SIGTERM)  # one of them alone: they stop together
    text = process.communicate(timeout=25)[0]
    assert "error: stopped by signal 15" in text, text
    code, text = job(counts[1], folder)
    assert code == 0 and f"processes: {counts[0]} -> {counts[1]}" in text
    assert_same_within_rounding(whole, folder)


def test_a_mistake_is_said_once(tmp_path):
    folder = write_run(tmp_path / "run", **TABULAR)
    code, text = job(2, folder, "learning_rat=1")
    assert code != 0 and text.count("did you mean 'learning_rate'?") == 1 and "exitcode  : 2" in text
    assert text.count("Traceback") <= 1  # torchrun's own


@pytest.mark.slow
def test_mistakes_in_the_data_or_the_directory_are_said_once(tmp_path):
    folder = write_run(tmp_path / "run", **TABULAR)
    code, text = job(3, folder, "--data_dir", str(tmp_path / "nowhere"))
    assert code != 0 and text.count("error: ") == 1 and "nowhere" in text
    assert utils.read_json(folder / "run.json")["status"] == "failed"
    with utils.RunDirectory(folder):
        begin = time.monotonic()
        code, text = job(2, folder)
        assert code != 0 and text.count("in use by") == 1 and "exitcode  : 4" in text
        assert time.monotonic() - begin < 25  # the other one does not wait for the group


@pytest.mark.slow
def test_a_broken_example_is_named_though_only_one_process_has_read_it(make_run, photos):  # noqa: F811
    (photos / "train/b/31.png").write_bytes(b"no image at all")
    folder = make_run(data_dir=str(photos), image_channels=3, cache="none", batch_size=4)
    code, text = job(2, folder)
    assert code != 0 and text.count("error: ") == 1 and "exitcode  : 2" in text
    assert "31.png" in text and log_of(folder).count("error: ") == 1
    record = utils.read_json(folder / "run.json")
    assert record["status"] == "failed" and "31.png" in record["reason"]


@pytest.mark.slow
def test_divergence_stops_all_of_them_at_the_same_step(tmp_path):
    folder = write_run(tmp_path / "run", **{**TABULAR, "learning_rate": 1e30, "num_epochs": 5})
    code, text = job(2, folder)
    assert code != 0 and text.count("error: diverged") == 1 and "exitcode  : 3" in text
    assert utils.read_json(folder / "run.json")["status"] == "diverged"


@pytest.mark.slow
def test_evaluate_is_for_one_process(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "evaluate.py"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0 and "start it with python, not with torchrun" in result.stderr
