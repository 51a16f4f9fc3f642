"""What Windows and macOS do and Linux does not, imitated here; the project itself has been run on Linux only."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import search_hyperparams
import utils
from fiveline.options.forward import prepare
from fiveline.record import atomic
from fiveline.tasks import fetch_params_class
from tests.support.tasks import needs


def test_a_file_that_somebody_reads_is_replaced_a_little_later(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(atomic, "PATIENCE", (0.0, 0.0, 0.0))
    replace, errors = Path.replace, [PermissionError(13, "The file is being used")] * 7
    errors.insert(3, None)

    def replace_later(source, target):
        if error := errors.pop(0):
            raise error
        replace(source, target)

    monkeypatch.setattr(Path, "replace", replace_later)
    utils.write_atomically(path, b"new")
    with pytest.raises(PermissionError):
        utils.write_atomically(path, b"newer")  # longer than there is patience for
    assert path.read_bytes() == b"new" and [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_a_study_is_refused_where_nothing_forks(make_run, monkeypatch):
    monkeypatch.delattr(os, "fork")
    parent_dir = make_run()
    before = sorted(parent_dir.iterdir())
    words = ["--parent_dir", str(parent_dir), "--space", "learning_rate=0.1,0.01"]
    with pytest.raises(utils.InputError, match=r"run it in WSL, or the trials one by one .*--index 0 runs the first"):
        search_hyperparams.main(words)
    assert sorted(parent_dir.iterdir()) == before


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
