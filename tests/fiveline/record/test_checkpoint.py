"""Checkpoints: what is saved is what is loaded, and nothing else is."""

import io
import math
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import utils
from tests.support.runs import assert_same_bits


def make_net(width=3):
    torch.manual_seed(230)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def make_state(net, **entries):
    return {"epoch": 3, "state_dict": net.state_dict(), "optim_dict": {}, **entries}


def as_bytes(value, **kwargs):
    buffer = io.BytesIO()
    torch.save(value, buffer, **kwargs)
    return buffer.getvalue()


def refusal(path, content=None, function=utils.read_checkpoint, *args):
    """Return the message of a refusal to read a checkpoint, after checking that it is one line that names the file."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(utils.InputError) as caught:
        function(path, *args)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.pth.tar"


def test_what_is_saved_is_read_again_also_by_torch_alone(path):
    state = make_state(make_net(), best=None, params={"learning_rate": 1e-3, "nets": ["a"]}, done=True)
    utils.save_checkpoint(state, False, path.parent)
    assert [entry.name for entry in path.parent.iterdir()] == ["last.pth.tar"]
    assert_same_bits(utils.read_checkpoint(path), state)
    assert_same_bits(torch.load(path, weights_only=True), state)
    path.write_bytes(as_bytes(state, _use_new_zipfile_serialization=False))  # as torch did in 2018
    assert_same_bits(utils.read_checkpoint(path), state)


def test_best_and_the_previous_last_are_kept(path):
    for epoch in (1, 2):
        utils.save_checkpoint(make_state(make_net(), epoch=epoch), epoch == 1, path.parent)
    epochs = {each.name: utils.read_checkpoint(each)["epoch"] for each in path.parent.iterdir()}
    assert epochs == {"last.pth.tar": 2, "last.previous.pth.tar": 1, "best.pth.tar": 1}


def test_no_damage_gives_another_state(path):
    optimizer = torch.optim.Adam((net := make_net()).parameters())
    take_step(net, optimizer)
    entries = {"params": {"task": "vision", "learning_rate": 1e-3}, "facts": {"classes": ["a", "b"]}}
    state = make_state(net, optim_dict=optimizer.state_dict(), best=0.5, best_epoch=2, **entries)
    content, expected, chooser = as_bytes(state), repr(state), random.Random(230)

    def is_refused(content):
        path.write_bytes(content)
        try:
            read = utils.read_checkpoint(path)
        except utils.InputError as error:
            assert str(error).startswith(f"{path}: damaged")
            return True
        assert repr(read) == expected  # a bit between the files in the archive means nothing
        return False

    def flipped(position):
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        return bytes(changed)

    size = len(content)
    positions = [
        *chooser.sample(range(8 * size), 80),
        *range(8 * (size - 100), 8 * size, 23),
    ]  # the archive's directory
    assert sum(is_refused(flipped(each)) for each in positions) > 25
    weights = net.state_dict()["0.weight"].numpy().tobytes()
    start = content.index(weights)
    assert all(is_refused(flipped(each)) for each in range(8 * start, 8 * (start + len(weights)), 17))
    for length in [0, 1, 2, size - 1, *chooser.sample(range(size), 20)]:
        refusal(path, content[:length])
    for end in (b"\0", content[-71:], content[-1000:], content):
        is_refused(content + end)


class _Evil:
    """An object that, unpickled, would make a file named by an environment variable."""

    def __reduce__(self):
        return exec, ("import os; open(os.environ['CANARY'], 'w').close()",)


EVIL = {"state_dict": {}, "evil": _Evil()}


@pytest.mark.parametrize(
    "content",
    [as_bytes(EVIL), as_bytes(EVIL, _use_new_zipfile_serialization=False), pickle.dumps(EVIL, protocol=2)],
    ids=["zip", "legacy", "pickle"],
)
def test_a_checkpoint_that_would_run_code_is_refused_whatever_the_environment_says(path, monkeypatch, content):
    canary = path.parent / "canary"
    monkeypatch.setenv("CANARY", str(canary))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    message = refusal(path, content)
    assert "exec" in message
    assert "weights_only" not in message  # no advice on how to load it nevertheless
    assert not canary.exists()
    if zipfile.is_zipfile(path):  # a careless loader would make the file, so this test can fail
        torch.load(path, weights_only=False)
        assert canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"PK", b"hello\n" * 50, b"<!DOCTYPE html>", b"\x80\x02", bytes(1000), random.Random(230).randbytes(1000),
        as_bytes([1, 2]), as_bytes({"weights": 1}), as_bytes({"state_dict": 3}), as_bytes(make_net().state_dict()),
        as_bytes({"state_dict": make_net()}), pickle.dumps({"state_dict": {}}, protocol=2)[:-3],
        as_bytes(make_state(make_net(), best=np.float64(0.5))),
    ],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused_in_one_line(path, content):
    assert "float(x)" in refusal(path, content) or b"numpy" not in content


def test_a_checkpoint_of_another_net_is_reported_key_by_key(path):
    other = nn.ModuleDict({"0": nn.Linear(4, 5), "1": nn.BatchNorm1d(3), "head": nn.Linear(3, 2)})
    message = refusal(path, as_bytes(make_state(other)), utils.load_checkpoint, make_net())
    assert message.startswith(f"{path}: a checkpoint of another net")
    assert 'Missing key(s) in state_dict: "2.weight", "2.bias"' in message
    assert 'Unexpected key(s) in state_dict: "head.weight", "head.bias"' in message
    assert "size mismatch for 0.weight: copying a param with shape torch.Size([5, 4])" in message


def take_step(net, optimizer):
    optimizer.zero_grad()
    net(torch.ones(5, 4) * torch.arange(5)[:, None]).square().mean().backward()
    optimizer.step()


def test_loading_with_an_optimizer_continues_its_steps(path):
    net, other = make_net(), make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    take_step(net, optimizer)
    utils.save_checkpoint(make_state(net, optim_dict=optimizer.state_dict()), False, path.parent)
    take_step(net, optimizer)
    other_optimizer = torch.optim.Adam(other.parameters(), lr=0.5)
    assert utils.load_checkpoint(path, other, other_optimizer)["epoch"] == 3
    take_step(other, other_optimizer)
    assert_same_bits(other.state_dict(), net.state_dict())

    of_a_part = torch.optim.Adam(net[0].parameters()).state_dict()
    for wrong in ({"state_dict": net.state_dict()}, make_state(net, optim_dict=of_a_part)):
        message = refusal(path, as_bytes(wrong), utils.load_checkpoint, net, torch.optim.Adam(net.parameters()))
        assert "optim_dict does not fit this code" in message


@pytest.mark.parametrize("is_high_better", [True, False])
def test_results_are_compared_by_value_then_by_loss(is_high_better):
    values = (0.9, 0.8) if is_high_better else (0.8, 0.9)  # rmse, for example
    best_first = [(value, loss) for value in values for loss in (-3.0, 0.1, 5.0, math.nan)]
    keys = [utils.ranking_key(*each, is_high_better) for each in best_first]
    assert keys == sorted(set(keys), reverse=True)
    for value in (math.nan, math.inf, None, "0.95", True, 10**400):  # never the best
        assert utils.ranking_key(value, 0.1, is_high_better) == utils.NO_RESULT
