"""Several processes: the weights of one, exact metrics, one log; and every way in which they can end."""

import contextlib
import copy
import functools
import importlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import evaluate
import train
import utils
from fiveline import jobs
from fiveline.sanity.selftest import differences
from tests.support.processes import PATIENCE, log_of, wait_until
from tests.support.ranks import run_ranks
from tests.support.runs import PROJECT, read_state, without_times, write_params

pytest.importorskip("resource", reason="Windows has neither these signals nor these limits")

TABULAR = {"task": "tabular", "net": "two_layer", "batch_size": 32, "num_epochs": 1, "optimizer": "sgd"}
SPREAD = {**TABULAR, "fsdp": True}
NER = {"task": "ner", "batch_size": 16, "num_epochs": 1, "dropout_rate": 0.0, "word_dropout_rate": 0.0,
       "lstm_hidden_dim": 16, "embedding_dim": 16, "clip_grad_norm": 1.0}  # fmt: skip
TEXT = {"task": "text", "context_length": 32, "num_layers": 2, "num_heads": 2, "width": 32, "clip_grad_norm": 1.0,
        "optimizer": "sgd", "learning_rate": 0.1}  # fmt: skip
NEXT = {**TEXT, "batch_size": 12, "num_steps": 60, "evaluate_every_steps": 30}
LABELS = {**TEXT, "target": "label", "data_dir": str(PROJECT / "data/python_indent"), "batch_size": 101,
          "num_epochs": 1}  # fmt: skip
RESNET = {"net": "resnet18", "image_size": 16, "image_channels": 3, "num_epochs": 1, "batch_size": 2000, "shift": 0,
          "optimizer": "sgd", "channels_last": False}  # fmt: skip
LONG = {**TABULAR, "net": "mlp", "hidden_sizes": [32], "dropout_rate": 0.5, "num_epochs": 15, "optimizer": "adam",
        "checkpoint_minutes": 1e-3, "save_summary_steps": 10, "ema_decay": 0.9}  # fmt: skip
OF_LOSSES = {"loss", "bits_per_byte", "perplexity"}  # metrics whose sums are rounded


def start_job(num_processes, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(num_processes)]
    command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=PROJECT, env=environment, text=True, **output)


def job(num_processes, *words):
    """Run a job to its end; return its exit code and what it said."""
    process = start_job(num_processes, *words)
    try:
        text = process.communicate(timeout=PATIENCE)[0]
    finally:
        process.kill()
    return process.returncode, text


def alone(folder, *words):
    train.main(["--model_dir", str(folder), *words])
    return folder


def together(num_processes, folder, *words):
    run_ranks(num_processes, train.main, ["--model_dir", str(folder), *words])
    return folder


def assert_close(first, second, tolerance):
    """Compare nested tensors, relative to the largest number of each, and plain values."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            assert_close(first[name], second[name], tolerance)
    elif isinstance(first, torch.Tensor):
        atol = tolerance * float(first.abs().max())
        torch.testing.assert_close(second, first, rtol=tolerance, atol=atol)
    else:
        assert first == second


def assert_same_within_rounding(first, second, tolerance=1e-5):
    """Compare weights, what they were averaged from, and metrics: those that count are the same exactly."""
    states = [read_state(folder) for folder in (first, second)]
    for name in ("state_dict", "average", "scaler"):  # the scaler: no step is left out
        assert_close(*(state[name] for state in states), tolerance)
    if tolerance > 1e-5:
        return
    histories = [without_times(utils.read_lines(folder / "history.jsonl")) for folder in (first, second)]
    for ours, theirs in zip(*histories, strict=True):
        for split in ("train", "val"):
            for name in OF_LOSSES & ours[split].keys():
                assert ours[split].pop(name) == pytest.approx(theirs[split].pop(name), rel=tolerance)
            assert ours[split] == theirs[split]


def assert_scored_alike_in_one_process(folder):
    """Let one process evaluate the last checkpoint: it finds what the job has found."""
    evaluate.main(["--model_dir", str(folder), "--split", "val", "--restore_file", "last"])
    values = utils.read_json(folder / "metrics_val_last.json")
    expected = utils.read_json(folder / "metrics_val_last_weights.json")
    for name in OF_LOSSES & expected.keys():
        assert values[name] == pytest.approx(expected.pop(name), rel=1e-6)
    assert {name: values[name] for name in expected} == expected


def pid_of(process, rank):
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended by now
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == process.pid and f"\0RANK={rank}\0" in (path / "environ").read_text(errors="replace"):
                return int(path.name)
    raise AssertionError(f"there is no process {rank}")


def test_a_process_that_was_started_alone_is_the_first_of_one(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert (jobs.rank(), jobs.world_size()) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")  # a batch system's leftover
    assert (jobs.rank(), jobs.world_size()) == (0, 1)


@pytest.mark.parametrize("script", ["evaluate", "predict", "export", "sanity_check", "search_hyperparams"])
def test_other_scripts_are_for_one_process(monkeypatch, script):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    words = {"predict": ["--input", "x"], "export": ["--format", "pt2"], "search_hyperparams": ["--parent_dir", "x"]}
    with pytest.raises(utils.InputError, match=rf"{script}.py runs in one process; start it with python"):
        importlib.import_module(script).main(words.get(script, []))


@pytest.mark.parametrize("other", [{"microbatch_size": 4}, {"ema_decay": 0.9}, {"precision": "fp16"}], ids=str)
def test_spread_weights_refuse_what_does_not_go_with_them(other):
    with pytest.raises(utils.InputError, match=f"^test: fsdp: does not go with .*{next(iter(other))}[^\n]*$"):
        utils.Params.from_values({"fsdp": True, **other}, "test")


# --- the same as one process

ADAMW = {"optimizer": "adamw", "weight_decay": 0.01, "clip_grad_norm": 1.0, "batch_size": 7}
SLOW, THOROUGH = {"marks": pytest.mark.slow}, {"marks": pytest.mark.thorough}


@pytest.mark.parametrize(
    ("num_processes", "params"),
    [
        pytest.param(2, TABULAR, id="tabular", **SLOW),
        pytest.param(2, NER, id="ner", **SLOW),
        pytest.param(2, NEXT, id="text", **SLOW),
        pytest.param(2, LABELS, id="text labels", **SLOW),
        pytest.param(3, {**TABULAR, "num_epochs": 2, "ema_decay": 0.9}, id="averaged", **SLOW),  # 32 is no multiple
        pytest.param(2, {**SPREAD, **ADAMW}, id="spread", **SLOW),
        pytest.param(3, {**TABULAR, "microbatch_size": 4}, id="pieces", **THOROUGH),  # shares of 10 and 11
        pytest.param(2, {**SPREAD, "precision": "bf16"}, id="spread bf16", **THOROUGH),
        pytest.param(2, {**TABULAR, "precision": "fp16", "batch_size": 128}, id="fp16", **THOROUGH),
        pytest.param(2, {**SPREAD, "compile": True}, id="spread compiled", **THOROUGH),
    ],
)
def test_any_number_of_processes_ends_where_one_does(tmp_path, num_processes, params):
    first = alone(write_params(tmp_path / "one", **params))
    second = together(num_processes, write_params(tmp_path / "many", **params))
    is_exact = "precision" not in params  # else a share's gradient has 8 bits
    assert_same_within_rounding(first, second, 1e-5 if is_exact else 1e-3)
    states = [read_state(folder) for folder in (first, second)]
    if is_exact:
        assert_close(*(state["optim_dict"]["state"] for state in states), 1e-4)
    groups = [[{**group, "fused": None} for group in state["optim_dict"]["param_groups"]] for state in states]
    assert groups[0] == groups[1] and ("ema_decay" in params) == bool(states[0]["average"])
    assert_scored_alike_in_one_process(second)
    record, log = utils.read_json(second / "run.json"), log_of(second)
    assert (record["status"], record["machine"]["processes"]) == ("finished", num_processes)
    assert record["machine"]["precision"] == params.get("precision", "fp32")
    assert record["machine"]["compiled"] == ("compile" in params)
    for line in (f"on cpu in {num_processes} processes", "Epoch 1/", "Loading the datasets"):
        assert log.count(line) == 1
    assert log.count("- Eval metrics") == len(utils.read_lines(second / "history.jsonl"))
    again = run_ranks(num_processes, train.main, ["--model_dir", str(second)])
    assert "".join(again).count("is finished: ") == 1 and log_of(second).startswith(log)


@pytest.mark.slow
def test_batch_norm_is_the_same_in_all_processes(make_run):
    # shares of 2 and 3; the averaged net, which is scored, takes the statistics of the net that is trained
    folder = together(3, make_run(batch_size=7, num_epochs=2, ema_decay=0.8))
    assert all(bool(tensor.isfinite().all()) for tensor in read_state(folder)["state_dict"].values())
    assert_scored_alike_in_one_process(folder)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists the names of threads")
def test_no_thread_of_the_job_is_left_when_it_is_done(tmp_path):
    """One that needs Python when that has gone aborts the process: a job failed now and then when its work was done."""
    (tmp_path / "script.py").write_text("""
import pathlib
from fiveline import jobs
with jobs.joined() as job:
    import torch
    torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])  # what training imports, while there is a group
    print([each for each in range(2) if each in job.all_gather(job.rank)])
print([path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")])
""")
    code, text = job(2, tmp_path / "script.py")
    assert code == 0 and text.count("[0, 1]") == 2 and "gloo" not in text, text


def take_steps_of_shares():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    one, batches = copy.deepcopy(model), (torch.randn(4, 3), torch.tensor([0, 1, 1, -100]))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, one)]
    train.train_step(one, optimizers[1], cross_entropy, *batches)
    parts = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("both", "second", "none")})
    before = copy.deepcopy(parts)
    with jobs.joined() as job:
        # the labels of the second process are not scored
        job.sum_gradients_before_steps(model, optimizers[0])
        inputs, labels = (batch[:3] if job.rank == 0 else batch[3:] for batch in batches)
        job.weighted_step(train.train_step)(model, optimizers[0], cross_entropy, inputs, labels)
        torch.testing.assert_close(model.state_dict(), one.state_dict())

        # only the second process uses "second", and no process "none"
        def forward(inputs):
            outputs = parts["both"](inputs)
            return parts["second"](outputs) if job.rank == 1 else outputs

        optimizer = torch.optim.SGD(parts.parameters(), lr=0.5, weight_decay=0.5)
        job.sum_gradients_before_steps(parts, optimizer)
        job.weighted_step(train.train_step)(forward, optimizer, cross_entropy, torch.ones(3, 2), torch.ones(3).long())
        assert torch.equal(parts["none"].weight, before["none"].weight)
        assert not torch.equal(parts["second"].weight, 0.75 * before["second"].weight)  # that is its decay alone
        assert all(torch.isfinite(weight).all() for weight in parts.parameters())


@pytest.mark.slow
def test_a_share_without_scored_labels_counts_for_nothing_and_an_unused_weight_does_not_decay():
    """As in one process, where the optimizer skips a weight without a gradient: a head that waits for its turn."""
    run_ranks(2, take_steps_of_shares)


def overflow_in_one_process():
    torch.manual_seed(0)
    model, inputs, labels = nn.Linear(3, 2), torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with jobs.joined() as job:
        job.sum_gradients_before_steps(model, optimizer)
        scaler = job.scaler(torch.device("cpu"))
        step = functools.partial(train.train_step_in_pieces, microbatch_size=4, scaler=scaler)
        for overflows in (True, False):
            factor, before = math.inf if overflows and job.rank == 1 else 1.0, model.weight.clone()
            loss_fn = lambda outputs, labels, factor=factor: factor * cross_entropy(outputs, labels)  # noqa: E731
            job.weighted_step(step)(model, optimizer, loss_fn, inputs, labels)
            assert torch.equal(model.weight, before) == overflows
            assert scaler.get_scale() == 2.0**15
        first, second = job.all_gather(model.weight)
        assert torch.equal(first, second) and first.isfinite().all()


@pytest.mark.slow
def test_two_processes_in_fp16_skip_a_step_together_where_one_overflows():
    run_ranks(2, overflow_in_one_process)


@pytest.mark.thorough
def test_spread_blocks_that_are_computed_again_take_the_same_steps(tmp_path):
    """A single step: rounding grows fast in a new net with so many batch norms."""
    plain = together(2, write_params(tmp_path / "plain", **RESNET))
    again = together(2, write_params(tmp_path / "again", **RESNET, fsdp=True, activation_checkpointing=True))
    assert_same_within_rounding(plain, again)


@pytest.mark.slow
def test_spread_and_whole_weights_continue_each_other(tmp_path):
    params = {**TABULAR, "optimizer": "adam", "num_epochs": 3}
    whole = alone(write_params(tmp_path / "whole", **params))
    folder = alone(write_params(tmp_path / "run", **params), "num_epochs=1")
    together(2, folder, "num_epochs=2", "fsdp=true")
    alone(folder, "num_epochs=3")
    assert_same_within_rounding(whole, folder)


# --- how they end


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return together(2, write_params(tmp_path_factory.mktemp("whole") / "run", **LONG))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1, None], ids=["first killed", "second killed", "stopped"])
def test_a_job_that_was_killed_or_stopped_continues_to_the_same_bits(tmp_path, undisturbed, rank):
    folder = write_params(tmp_path / "run", **LONG)
    # a job that is stopped saves because of the signal alone
    words = ["checkpoint_minutes=10"] if rank is None else []
    process = start_job(2, "train.py", "--model_dir", folder, *words)
    wait_until(lambda: "Epoch 3/" in log_of(folder), process)
    if rank is not None:
        wait_until(lambda: (folder / "last.pth.tar").exists() and read_state(folder)["epoch"] >= 1, process)
    if rank is None:
        process.terminate()
    else:
        os.kill(pid_of(process, rank), signal.SIGKILL)
    text = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode != 0
    record = utils.read_json(folder / "run.json")
    if rank is None:
        assert text.count("error: stopped by signal 15 in epoch") == 1
        assert log_of(folder).count("error: stopped by signal") == 1 and record["status"] == "interrupted"
        state = read_state(folder)
        assert len(state.get("others", [])) == (1 if state["step"] else 0)
    else:
        assert "Signal 9 (SIGKILL)" in text
    if rank == 1:
        assert text.count("error: another process of the job has died") == 1
        assert record["status"] == "failed" and "has died" in record["reason"]
    together(2, folder)
    assert differences(undisturbed, folder) == []


def train_until_validation(*words):
    """Train until SIGTERM arrives when validation begins."""
    importlib.import_module("fiveline.jobs.job").VOTE_SECONDS = 0  # the processes agree before each step
    score = train.evaluate

    def stopped(*args):
        signal.raise_signal(signal.SIGTERM)
        return score(*args)

    train.evaluate = stopped
    with pytest.raises(utils.InterruptedRun):
        train.main([*words])


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.thorough), 3])
def test_a_job_that_was_stopped_in_validation_continues_with_any_number_of_processes(tmp_path, num_processes):
    # saves again before its first step
    params = {**TABULAR, "batch_size": 128, "num_epochs": 2, "checkpoint_minutes": 1e-6}
    folder = write_params(tmp_path / "run", **params)
    run_ranks(2, train_until_validation, "--model_dir", str(folder))
    assert "in epoch 1, step" in utils.read_json(folder / "run.json")["reason"]
    together(num_processes, folder)
    assert_same_within_rounding(alone(write_params(tmp_path / "whole", **params)), folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "exit_code", "message"),
    [
        ({"learning_rat": 1}, 2, "did you mean 'learning_rate'?"),
        ({"learning_rate": 1e30}, 3, "error: diverged"),
        ({}, 4, "in use by"),  # the other process does not wait ten minutes for the group
    ],
    ids=["typo", "diverged", "in use"],
)
def test_a_mistake_is_reported_once(tmp_path, params, exit_code, message):
    folder = write_params(tmp_path / "run", **{**TABULAR, **params})
    with utils.RunDirectory(folder) if exit_code == 4 else contextlib.nullcontext():
        code, text = job(2, "train.py", "--model_dir", folder)
    assert code != 0 and text.count(message) == 1 and (text.count("error: ") == 1 or exit_code == 4)
    assert f"exitcode  : {exit_code}" in text and text.count("Traceback") <= 1  # torchrun's own
    assert exit_code != 3 or utils.read_json(folder / "run.json")["status"] == "diverged"


@pytest.mark.slow
def test_a_broken_example_is_named_though_only_one_process_has_read_it(make_run, photos):
    (photos / "train/b/31.png").write_bytes(b"no image at all")
    folder = make_run(data_dir=str(photos), image_channels=3, cache="none", batch_size=4)
    code, text = job(2, "train.py", "--model_dir", folder)
    assert code != 0 and text.count("error: ") == 1 and "exitcode  : 2" in text
    assert "31.png" in text and log_of(folder).count("error: ") == 1
    record = utils.read_json(folder / "run.json")
    assert record["status"] == "failed" and "31.png" in record["reason"]
