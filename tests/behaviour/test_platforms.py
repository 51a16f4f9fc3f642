"""What Windows and macOS do and Linux does not, imitated here; the project itself has been run on Linux only."""

import io
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import predict
import search_hyperparams
import train
import utils
from fiveline.jobs.one import OneProcess
from fiveline.options.forward import prepare
from fiveline.record import atomic
from fiveline.record.script import Signals
from fiveline.saving import Saver
from fiveline.state import State
from fiveline.tasks import fetch_params_class
from tests.support.runs import finish
from tests.support.tasks import needs


@pytest.fixture
def held(monkeypatch):
    """Return a function that lets a method of Path fail a few times for one file, as for one that another has open."""

    def hold(method, name, num_times):
        original, left = getattr(Path, method), [num_times]

        def fail_at_first(self, *args, **named):
            if name in (self.name, *(getattr(other, "name", None) for other in args)) and left[0]:
                left[0] -= 1
                raise PermissionError(13, "The process cannot access the file because it is being used", str(self))
            return original(self, *args, **named)

        monkeypatch.setattr(Path, method, fail_at_first)

    return hold


def test_a_file_that_somebody_reads_is_replaced_a_little_later(tmp_path, monkeypatch, held):
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(atomic, "PATIENCE", (0.0, 0.0, 0.0))
    held("replace", "run.json", 3)
    utils.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    held("replace", "run.json", 4)  # longer than there is patience for
    with pytest.raises(PermissionError):
        utils.write_atomically(path, b"newer")
    assert path.read_bytes() == b"new" and [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_a_table_that_is_open_in_a_spreadsheet_stops_no_training(tmp_path, held, caplog):
    run = utils.RunDirectory(tmp_path)
    names = ["scored_test_best.json", "predictions_test_best.csv", "metrics_test_best.json"]
    for name in names:
        (tmp_path / name).write_text("{}")
    held("unlink", names[1], 1)
    with run.replacing_best():
        pass
    assert [path.name for path in tmp_path.glob("*_best.*")] == [names[1]]
    assert f"{names[1]} is in use and was not removed; it is from older weights" in caplog.text


def test_ctrl_c_while_a_batch_is_awaited_takes_none_away(tmp_path):
    class Interrupted:
        def __init__(self):
            self.batches, self.is_interrupted = iter("abc"), False

        def __iter__(self):
            return self

        def __next__(self):
            self.is_interrupted = not self.is_interrupted
            if self.is_interrupted:
                raise InterruptedError(4, "Interrupted function call")
            return next(self.batches)

    model, signals = torch.nn.Linear(1, 1), Signals()
    state = State(model, torch.optim.SGD(model.parameters()), utils.Params(), 3, 1, {}, OneProcess())
    saver = Saver(utils.RunDirectory(tmp_path), state, signals)
    saver.save = lambda: None
    assert list(saver.saving_between(Interrupted())) == ["a", "b", "c"]
    batches, signals.received = saver.saving_between(Interrupted()), 0
    assert next(batches) == "a"
    signals.received = 2
    with pytest.raises(utils.InterruptedRun, match="stopped by signal 2"):
        next(batches)


def test_a_study_is_refused_where_nothing_forks(make_run, monkeypatch):
    monkeypatch.delattr(os, "fork")
    parent_dir = make_run()
    before = sorted(parent_dir.iterdir())
    words = ["--parent_dir", str(parent_dir), "--space", "learning_rate=0.1,0.01"]
    with pytest.raises(utils.InputError, match=r"run it in WSL, or the trials one by one .*--index 0 runs the first"):
        search_hyperparams.main(words)
    assert sorted(parent_dir.iterdir()) == before


def test_one_trial_of_an_array_ends_with_its_own_exit_code(make_run, monkeypatch):
    commands = []

    def diverge():
        commands.append(sys.argv)
        raise utils.DivergedError("the loss is not finite")

    monkeypatch.setattr(train, "main", diverge)
    monkeypatch.setattr(sys, "argv", ["search_hyperparams.py"])
    with pytest.raises(utils.DivergedError) as stop:
        search_hyperparams.main(["--parent_dir", str(make_run()), "--space", "seed=1,2", "--index", "1"])
    assert stop.value.exit_code == 3 and commands[0][-2] == "--model_dir" and commands[0][-1].endswith("seed_2")


def test_text_that_powershell_wrote_is_explained(tmp_path):
    path = tmp_path / "params.json"
    path.write_text("{}", encoding="utf-16")
    with pytest.raises(utils.InputError, match=r"not a UTF-8 text file \(byte 0\); save it as UTF-8 \(PowerShell"):
        utils.read_json(path)


def test_what_apples_gpu_lacks_is_explained():
    error = NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device. If you want")
    message = str(utils.explain(error))
    assert message.startswith("--device mps: The operator 'aten::x' is not") and message.endswith("; use --device cpu")
    assert utils.explain(NotImplementedError("of the user's own")) is None


@needs("vision")
def test_nets_and_inputs_are_contiguous_on_apples_gpu(monkeypatch):
    original, seen = nn.Module.to, []
    monkeypatch.setattr(
        nn.Module, "to", lambda self, *args, **named: self if args else original(self, **named)
    )  # no such device here
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    model[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    images = torch.ones(2, 3, 8, 8).to(memory_format=torch.channels_last)
    model(images)
    prepare(model, fetch_params_class("vision")(), torch.device("mps"))(images)
    assert seen == [False, True] and model[0].weight.is_contiguous()


def test_predictions_are_utf_8_wherever_they_go(make_run, tmp_path, monkeypatch):
    folder, printed = finish(make_run(num_epochs=1)), io.BytesIO()
    (tmp_path / "Ł.png").write_bytes(b"no image")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="cp1252"))
    with pytest.raises(utils.Stop):
        predict.main(["--model_dir", str(folder), "--input", str(tmp_path / "Ł.png")])
    sys.stdout.flush()
    assert "Ł.png" in printed.getvalue().decode("utf-8")
