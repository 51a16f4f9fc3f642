"""Looking inside: a breakpoint in a step, a trace of some steps, a session with a model and loaders of its own."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import evaluate
import export
import predict
import utils
from fiveline.jobs.one import OneProcess
from fiveline.options.optimizer import fetch_optimizer
from fiveline.options.profile import FIRST_STEPS
from fiveline.options.schedule import fetch_schedule
from fiveline.record.atomic import write_lines
from fiveline.record.errors import OtherRunError
from fiveline.record.script import Signals
from fiveline.saving import Saver
from fiveline.state import State
from fiveline.tasks import Task
from tests.support.runs import assert_same_bits, finish, read_state, run_train, stopped, write_run
from tests.support.tasks import needs
from train import train_and_evaluate


@pytest.mark.slow
def test_a_breakpoint_in_the_step_stops_there_and_can_be_left(project, tmp_path):
    source = (project / "train.py").read_text()
    line = "    optimizer.zero_grad()  # clear previous gradients\n"
    assert source.count(line) == 1
    (tmp_path / "train.py").write_text(source.replace(line, "    breakpoint()\n" + line))
    command = [sys.executable, "train.py", "--model_dir", str(write_run(tmp_path / "run"))]
    typed = "p 'it is', loss.item()\nc\np 'and then', loss.item()\nq\n"
    environment = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, input=typed, capture_output=True, text=True)
    first, second = re.search(r"'it is', ([\d.]+)", done.stdout), re.search(r"'and then', ([\d.]+)", done.stdout)
    assert first and second and first[1] != second[1], done.stdout + done.stderr
    assert done.returncode == 1 and "error: ended in the debugger" in done.stderr
    assert "Traceback" not in done.stderr


# --- --profile


def test_profile_leaves_a_trace_and_changes_no_bit(tmp_path):
    plain = run_train(tmp_path / "plain", num_epochs=1)
    traced = run_train(tmp_path / "traced", "--profile", "2", num_epochs=1)
    assert_same_bits(read_state(traced)["state_dict"], read_state(plain)["state_dict"])
    events = json.loads(gzip.decompress((traced / "profile.json.gz").read_bytes()))["traceEvents"]
    names = [event["name"] for event in events if event.get("ph") == "X"]
    assert sum(name.startswith("Optimizer.step#") for name in names) == 2
    log = (traced / "train.log").read_text()
    table = log[log.index("Profile: ") :].splitlines()
    shares = [float(re.search(r"([\d.]+)%", row)[1]) for row in table[4:14]]  # of operations, without those they call
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100.5
    finish(traced, "--restart")
    assert not (traced / "profile.json.gz").exists()


def test_profile_of_a_run_that_is_shorter_holds_what_there_was(tmp_path):
    with pytest.raises(utils.InputError, match="--profile 0: expected the number of steps to trace, 1 or more"):
        run_train(tmp_path / "run", "--profile", "0", num_epochs=1)
    none_traced = f"of {FIRST_STEPS} step(s) the first {FIRST_STEPS} are not"
    for batch_size, message in ((315, "Profile: "), (420, none_traced)):  # four steps, three steps
        folder = run_train(tmp_path / str(batch_size), "--profile", "1000", batch_size=batch_size, num_epochs=1)
        assert message in (folder / "train.log").read_text()
        assert (folder / "profile.json.gz").exists() == (message != none_traced)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):  # there can be but one
        torch.ones(2).sum()


# --- a model and loaders of one's own


def accuracy(outputs, labels):
    return (outputs.argmax(dim=1) == labels).sum(), len(labels)


OWN = Task(None, F.cross_entropy, F.cross_entropy, {"accuracy": accuracy})


class Session:
    """What a user types into a notebook."""

    def __init__(self, folder, fault=None, **values):
        torch.manual_seed(0)
        inputs = torch.randn(260, 2)
        data = TensorDataset(inputs, (inputs[:, 0] > inputs[:, 1]).long())
        train_set, val_set = Subset(data, range(200)), Subset(data, range(200, 260))
        self.num_batches, self.fault, self.folder = 0, fault, folder
        self.train_loader = DataLoader(train_set, batch_size=20, shuffle=True, collate_fn=self.collate)
        self.val_loader = DataLoader(val_set, batch_size=60)
        model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        self.params = utils.Params.from_values({"num_epochs": 3, "learning_rate": 0.05, **values}, "the session")
        optimizer = fetch_optimizer(model, self.params)
        schedule = fetch_schedule(self.params, len(self.train_loader))
        self.state = State(model, optimizer, self.params, schedule, 1, OWN.metrics, OneProcess())
        folder.mkdir(exist_ok=True)
        utils.set_logger(folder / "train.log")

    def collate(self, examples):
        self.num_batches += 1
        if self.num_batches == self.fault:
            os.kill(os.getpid(), signal.SIGINT)
        return torch.utils.data.default_collate(examples)

    def train(self):
        with (
            utils.RunDirectory(self.folder) as run,
            run.recorded(self.params),
            Signals() as signals,
            Saver(run, self.state, signals) as saver,
        ):
            train_and_evaluate(self.state, self.train_loader, self.val_loader, OWN, saver)
        return self.state.model.state_dict()

    def epochs(self):
        return [row["epoch"] for row in utils.read_lines(self.folder / "history.jsonl")]


def test_a_session_with_loaders_of_its_own_leaves_a_whole_run_also_in_a_thread(tmp_path):
    session = Session(tmp_path / "run")
    with ThreadPoolExecutor(1) as pool:
        weights = pool.submit(session.train).result()
    assert_same_bits(dict(weights), dict(Session(tmp_path / "main").train()))
    rows = utils.read_lines(tmp_path / "run" / "history.jsonl")
    assert session.epochs() == [1, 2, 3] and session.num_batches == 30
    assert session.state.best == max(row["val"]["accuracy"] for row in rows) > 0.9
    model = session.state.model
    model.load_state_dict(read_state(tmp_path / "run", "best")["state_dict"])
    (inputs, labels) = next(iter(session.val_loader))
    assert (model(inputs).argmax(dim=1) == labels).float().mean().item() == pytest.approx(session.state.best)
    assert utils.read_json(tmp_path / "run" / "run.json")["status"] == "finished"


def test_an_interrupted_session_starts_its_epoch_again_and_warns(tmp_path):
    session = Session(tmp_path / "run", fault=14, schedule="one_cycle")
    with pytest.raises(utils.InterruptedRun, match="epoch 2, step 4"):
        session.train()
    session.train()
    assert "cannot start within an epoch; the epoch starts again" in (tmp_path / "run" / "train.log").read_text()
    assert session.epochs() == [1, 2, 3] and session.state.epoch == 3


def test_a_cell_that_is_run_again_does_not_replace_a_run(tmp_path):
    Session(tmp_path / "run").train()
    for _ in range(2):  # with last.pth.tar, and without it
        before = {path.name: path.read_bytes() for path in tmp_path.glob("run/*") if path.name != "train.log"}
        with pytest.raises(OtherRunError, match=r"holds a run of 3 epochs; .* take another folder, .*load_state_dict"):
            Session(tmp_path / "run").train()
        assert all((tmp_path / "run" / name).read_bytes() == content for name, content in before.items())
        (tmp_path / "run/last.pth.tar").unlink(missing_ok=True)


def test_a_session_that_was_killed_continues_from_its_checkpoint(tmp_path):
    """The history may show epochs that no checkpoint holds yet."""
    Session(tmp_path / "run", num_epochs=2).train()
    row = utils.read_lines(tmp_path / "run/history.jsonl")[-1]
    write_lines(tmp_path / "run/history.jsonl", [{**row, "epoch": epoch} for epoch in (1, 2, 3)])
    again = Session(tmp_path / "run", num_epochs=4)
    again.state.load_state_dict(utils.load_checkpoint(tmp_path / "run/last.pth.tar", again.state.model))
    again.train()
    assert again.epochs() == [1, 2, 3, 4]


@needs("vision")
def test_scripts_report_that_a_notebooks_net_is_not_theirs(tmp_path):
    Session(tmp_path / "run").train()
    message = "best.pth.tar: facts does not fit this code (KeyError: 'classes'"
    for script, words in ((evaluate, []), (predict, ["--input", str(tmp_path)]), (export, ["--format", "onnx"])):
        assert message in stopped(tmp_path / "run", *words, exit_code=2, main=script.main)
