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
from tests.support.processes import log_of, wait_until
from tests.support.ranks import run_ranks
from tests.support.runs import PROJECT, assert_same_bits, read_state, without_times, write_params

pytest.importorskip("resource", reason="Windows has neither these signals nor these limits")

TABULAR = {"task": "tabular", "net": "two_layer", "batch_size": 32, "num_epochs": 1, "optimizer": "sgd"}
NER = {"task": "ner", "batch_size": 16, "num_epochs": 1, "dropout_rate": 0.0, "word_dropout_rate": 0.0,
       "lstm_hidden_dim": 16, "embedding_dim": 16, "clip_grad_norm": 1.0}  # fmt: skip
TEXT = {"task": "text", "context_length": 32, "num_layers": 2, "num_heads": 2, "width": 32, "clip_grad_norm": 1.0,
        "optimizer": "sgd", "learning_rate": 0.1}  # fmt: skip
NEXT = {**TEXT, "batch_size": 12, "num_steps": 60, "evaluate_every_steps": 30}
LABELS = {
    **TEXT,
    "target": "label",
    "data_dir": str(PROJECT / "data/python_indent"),
    "batch_size": 101,
    "num_epochs": 1,
}
RESNET = {"net": "resnet18", "image_size": 16, "image_channels": 3, "num_epochs": 1, "batch_size": 2000, "shift": 0,
          "optimizer": "sgd", "channels_last": False}  # fmt: skip
LONG = {**TABULAR, "net": "mlp", "hidden_sizes": [32], "dropout_rate": 0.5, "num_epochs": 15, "optimizer": "adam",
        "checkpoint_minutes": 1e-3, "save_summary_steps": 10}  # fmt: skip
AVERAGED = {**LONG, "ema_decay": 0.9, "precision": "bf16"}
OF_LOSSES = {"loss", "bits_per_byte", "perplexity"}  # metrics whose sums are rounded


def start_job(num_processes, folder, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(num_processes)]
    command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    return subprocess.Popen(
        [*command, "train.py", "--model_dir", str(folder), *words],
        cwd=PROJECT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def job(num_processes, folder, *words):
    """Run a job to its end; return its exit code and what it said."""
    process = start_job(num_processes, folder, *words)
    try:
        text = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    return process.returncode, text


def alone(folder, *words):
    train.main(["--model_dir", str(folder), *words])
    return folder


def together(num_processes, folder, *words):
    run_ranks(num_processes, train.main, ["--model_dir", str(folder), *words])
    return folder


def metrics_of(folder):
    [*rows] = without_times(utils.read_lines(folder / "history.jsonl"))
    return [{split: row[split] for split in ("train", "val")} for row in rows]


def assert_close_weights(first, second, tolerance=1e-5):
    """Compare weights, and what they were averaged from, relative to the largest of each tensor."""
    states = [read_state(folder) for folder in (first, second)]
    pairs = [[state["state_dict"], state["average"].get("trained_weights", {})] for state in states]
    for ours, theirs in zip(*pairs, strict=True):
        assert ours.keys() == theirs.keys()
        for name, weights in ours.items():
            atol = tolerance * float(weights.abs().max())
            torch.testing.assert_close(theirs[name], weights, rtol=tolerance, atol=atol, msg=name)


def assert_same_within_rounding(first, second):
    assert_close_weights(first, second)
    for ours, theirs in zip(metrics_of(first), metrics_of(second), strict=True):
        for split in ("train", "val"):
            for name in OF_LOSSES & ours[split].keys():
                assert ours[split].pop(name) == pytest.approx(theirs[split].pop(name), rel=1e-5)
            assert ours[split] == theirs[split]  # counts: exactly


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


# --- the same as one process


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path):
    first = alone(write_params(tmp_path / "one", **TABULAR))
    second = together(2, write_params(tmp_path / "two", **TABULAR))
    assert_same_within_rounding(first, second)
    log = log_of(second)
    for line in ("for 1 epoch(s) on cpu in 2 processes", "Epoch 1/1", "- Eval metrics", "Loading the datasets"):
        assert log.count(line) == 1
    record = utils.read_json(second / "run.json")
    assert record["status"] == "finished" and record["machine"]["processes"] == 2
    assert len(utils.read_lines(second / "history.jsonl")) == 1
    again = run_ranks(2, train.main, ["--model_dir", str(second)])
    assert "".join(again).count("is finished: 1 epochs") == 1 and log_of(second) == log


SPREAD = {**TABULAR, "fsdp": True}


@pytest.mark.parametrize(
    ("num_processes", "params"),
    [
        pytest.param(2, NER, id="ner", marks=pytest.mark.slow),
        pytest.param(2, NEXT, id="text", marks=pytest.mark.slow),
        pytest.param(2, LABELS, id="text labels", marks=pytest.mark.slow),
        # 32 is no multiple of 3
        pytest.param(3, {**TABULAR, "num_epochs": 2, "ema_decay": 0.9}, id="averaged", marks=pytest.mark.slow),
        pytest.param(
            2,
            {**SPREAD, "optimizer": "adamw", "weight_decay": 0.01, "clip_grad_norm": 1.0, "batch_size": 7},
            id="spread",
            marks=pytest.mark.slow,
        ),
        pytest.param(3, {**TABULAR, "batch_size": 7, "optimizer": "adam"}, id="seven", marks=pytest.mark.thorough),
        # shares of 10 and 11: not as many pieces
        pytest.param(3, {**TABULAR, "microbatch_size": 4}, id="pieces", marks=pytest.mark.thorough),
        pytest.param(2, {**NER, "microbatch_size": 3}, id="ner pieces", marks=pytest.mark.thorough),
        pytest.param(2, {**SPREAD, "batch_size": 2, "learning_rate": 1e-2}, id="small", marks=pytest.mark.thorough),
        pytest.param(2, {**SPREAD, "optimizer": "rmsprop"}, id="rmsprop", marks=pytest.mark.thorough),
        pytest.param(2, {**NER, "fsdp": True}, id="spread ner", marks=pytest.mark.thorough),
    ],
)
def test_any_number_of_processes_ends_where_one_does(tmp_path, num_processes, params):
    first = alone(write_params(tmp_path / "one", **params))
    second = together(num_processes, write_params(tmp_path / "many", **params))
    assert_same_within_rounding(first, second)
    states = [read_state(folder) for folder in (first, second)]
    assert_close_moments(*(state["optim_dict"] for state in states))
    averages = [state["average"].get("num_steps") for state in states]
    assert averages[0] == averages[1] and bool(averages[0]) == ("ema_decay" in params)
    assert_scored_alike_in_one_process(second)


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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    result = subprocess.run(
        [*command, str(tmp_path / "script.py")], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("[0, 1]") == 2 and "gloo" not in result.stdout


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("params", "tolerance"),
    [
        ({"precision": "bf16", "batch_size": 7, "clip_grad_norm": 0.5}, 1e-3),  # a share's gradient has 8 bits
        ({"precision": "bf16", "fsdp": True}, 1e-3),
        ({"precision": "fp16", "batch_size": 128}, 1e-3),
        ({"compile": True}, 1e-5),
        ({"compile": True, "fsdp": True}, 1e-5),
    ],
    ids=str,
)
def test_another_forward_pass_ends_where_one_process_does(tmp_path, params, tolerance):
    first = alone(write_params(tmp_path / "one", **{**TABULAR, **params}))
    second = together(2, write_params(tmp_path / "two", **{**TABULAR, **params}))
    machine = utils.read_json(second / "run.json")["machine"]
    assert machine["precision"] == params.get("precision", "fp32") and machine["compiled"] == ("compile" in params)
    assert_close_weights(first, second, tolerance)
    assert read_state(first)["scaler"] == read_state(second)["scaler"]  # no step is left out
    assert_scored_alike_in_one_process(second)


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
    settings = ({}, {"fsdp": True}, {"fsdp": True, "activation_checkpointing": True})
    plain, spread, again = (
        together(2, write_params(tmp_path / str(number), **RESNET, **more)) for number, more in enumerate(settings)
    )
    assert_same_within_rounding(plain, spread)
    assert_same_bits(*(read_state(folder)["state_dict"] for folder in (spread, again)))


def save_and_load_shards():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    trained = copy.deepcopy(net)
    one = torch.optim.Adam(trained.parameters())
    trained(torch.randn(5, 3)).sum().backward()
    one.step()
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with jobs.joined() as job:
        job.share_weights(net, True, torch.device("cpu"))
        optimizer = torch.optim.Adam(net.parameters())
        empty = job.moments_of(optimizer)
        assert empty["state"] == {} and not optimizer.state
        job.load_moments(optimizer, empty)
        assert not optimizer.state
        job.load_moments(optimizer, one.state_dict())
        torch.testing.assert_close(dict(net.named_buffers()), buffers)
        moments = job.moments_of(optimizer)
        if job.rank == 0:
            torch.testing.assert_close(moments["state"], one.state_dict()["state"])


@pytest.mark.slow
def test_moments_of_sharded_weights_are_saved_and_loaded_without_a_step():
    """A step would count, and add up the statistics of batch norm."""
    run_ranks(2, save_and_load_shards)


def assert_close_moments(first, second):
    groups = [[{**group, "fused": None} for group in state["param_groups"]] for state in (first, second)]
    assert groups[0] == groups[1]
    assert first["state"].keys() == second["state"].keys()
    for number, entries in first["state"].items():
        for name, tensor in entries.items():
            scale = float(tensor.abs().max()) if isinstance(tensor, torch.Tensor) else 1.0
            torch.testing.assert_close(second["state"][number][name], tensor, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.thorough
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_spread_and_whole_weights_continue_each_other(tmp_path, optimizer):
    params = {**TABULAR, "optimizer": optimizer, "num_epochs": 3}
    whole = alone(write_params(tmp_path / "whole", **params))
    folder = alone(write_params(tmp_path / "run", **params), "num_epochs=1")
    together(2, folder, "num_epochs=2", "fsdp=true")
    alone(folder, "num_epochs=3")
    assert_same_within_rounding(whole, folder)


@pytest.mark.parametrize("other", [{"microbatch_size": 4}, {"ema_decay": 0.9}, {"precision": "fp16"}], ids=str)
def test_spread_weights_refuse_what_does_not_go_with_them(other):
    with pytest.raises(utils.InputError, match=f"^test: fsdp: does not go with .*{next(iter(other))}"):
        utils.Params.from_values({"fsdp": True, **other}, "test")


# --- how they end


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return together(2, write_params(tmp_path_factory.mktemp("whole") / "run", **LONG))


@pytest.mark.parametrize(
    ("number", "rank", "params"),
    [
        pytest.param(signal.SIGKILL, 0, LONG, id="first", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, None, LONG, id="stopped", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 1, LONG, id="second", marks=pytest.mark.thorough),
        pytest.param(signal.SIGKILL, 1, AVERAGED, id="averaged", marks=pytest.mark.thorough),
        pytest.param(signal.SIGINT, None, LONG, id="interrupted", marks=pytest.mark.thorough),
    ],
)
def test_a_job_that_was_killed_or_stopped_continues_to_the_same_bits(tmp_path, undisturbed, number, rank, params):
    if params is not LONG:
        undisturbed = together(2, write_params(tmp_path / "whole", **params))
    folder = write_params(tmp_path / "run", **params)
    # a job that is stopped saves because of the signal alone
    process = start_job(2, folder, *(["checkpoint_minutes=10"] if rank is None else []))
    wait_until(lambda: "Epoch 3/" in log_of(folder), process)
    if rank is not None:
        wait_until(lambda: (folder / "last.pth.tar").exists() and read_state(folder)["epoch"] >= 1, process)
    os.kill(process.pid if rank is None else pid_of(process, rank), number)
    text = process.communicate(timeout=25)[0]  # before torchrun would kill the others
    assert process.returncode != 0
    record = utils.read_json(folder / "run.json")
    if rank is None:
        assert text.count(f"error: stopped by signal {number.value} in epoch") == 1
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


@pytest.mark.thorough
@pytest.mark.parametrize("counts", [(1, 3), (3, 2)])
def test_a_checkpoint_within_an_epoch_is_continued_by_any_number_of_processes(tmp_path, counts):
    params = {**TABULAR, "num_epochs": 3, "batch_size": 8, "checkpoint_minutes": 1e-5}
    whole = alone(write_params(tmp_path / "whole", **params))
    folder = write_params(tmp_path / "run", **params)
    process = start_job(counts[0], folder)
    wait_until(lambda: "Epoch 2/" in log_of(folder), process)
    os.kill(pid_of(process, 0), signal.SIGTERM)  # one of them alone: they stop together
    text = process.communicate(timeout=25)[0]
    assert "error: stopped by signal 15" in text, text
    code, text = job(counts[1], folder)
    assert code == 0 and f"processes: {counts[0]} -> {counts[1]}" in text
    assert_same_within_rounding(whole, folder)


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
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_job_that_was_stopped_in_validation_continues(tmp_path, num_processes):
    # saves again before its first step
    params = {**TABULAR, "batch_size": 128, "num_epochs": 2, "checkpoint_minutes": 1e-6}
    folder = write_params(tmp_path / "run", **params)
    run_ranks(2, train_until_validation, "--model_dir", str(folder))
    assert "in epoch 1, step" in utils.read_json(folder / "run.json")["reason"]
    together(num_processes, folder)
    assert_same_within_rounding(alone(write_params(tmp_path / "whole", **params)), folder)


def test_torchruns_signal_does_not_disturb_who_asks_whether_to_say_it(monkeypatch):
    def asked():
        os.kill(os.getpid(), signal.SIGTERM)  # another process has failed, and torchrun ends the rest
        return torch.distributed.HashStore()

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("fiveline.jobs.endings._store", asked)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("disturbed"))
    try:
        assert jobs.reports_first(utils.InputError("a mistake"), utils.InputError("a mistake"))
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "exit_code", "message"),
    [({"learning_rat": 1}, 2, "did you mean 'learning_rate'?"), ({"learning_rate": 1e30}, 3, "error: diverged")],
    ids=["typo", "diverged"],
)
def test_a_mistake_is_reported_once(tmp_path, params, exit_code, message):
    folder = write_params(tmp_path / "run", **{**TABULAR, **params})
    code, text = job(2, folder)
    assert code != 0 and message in text and text.count("error: ") == 1
    assert f"exitcode  : {exit_code}" in text and text.count("Traceback") <= 1  # torchrun's own
    assert exit_code == 2 or utils.read_json(folder / "run.json")["status"] == "diverged"


@pytest.mark.slow
def test_a_directory_in_use_is_reported_once(tmp_path):
    folder = write_params(tmp_path / "run", **TABULAR)
    with utils.RunDirectory(folder):
        code, text = job(2, folder)  # the other one does not wait ten minutes for the group
    assert code != 0 and text.count("in use by") == 1 and "exitcode  : 4" in text


@pytest.mark.slow
def test_a_broken_example_is_named_though_only_one_process_has_read_it(make_run, photos):
    (photos / "train/b/31.png").write_bytes(b"no image at all")
    folder = make_run(data_dir=str(photos), image_channels=3, cache="none", batch_size=4)
    code, text = job(2, folder)
    assert code != 0 and text.count("error: ") == 1 and "exitcode  : 2" in text
    assert "31.png" in text and log_of(folder).count("error: ") == 1
    record = utils.read_json(folder / "run.json")
    assert record["status"] == "failed" and "31.png" in record["reason"]
