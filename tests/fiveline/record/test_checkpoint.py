"""Checkpoints: what is saved is what is loaded, and nothing else is."""

import hashlib
import io
import os
import pickle
import random
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import utils


def make_net(width=3):
    torch.manual_seed(230)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def make_state(net, **entries):
    return {"epoch": 3, "state_dict": net.state_dict(), "optim_dict": {}, **entries}


def as_bytes(value, **kwargs):
    buffer = io.BytesIO()
    torch.save(value, buffer, **kwargs)
    return buffer.getvalue()


def refusal(path, content=None):
    """Return the message of a refusal to read a checkpoint, after checking that it is one line that names the file."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(utils.InputError) as caught:
        utils.read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.pth.tar"


@pytest.fixture(scope="module")
def real_checkpoint(tmp_path_factory):
    """The bytes of a checkpoint as train.py saves it."""
    folder = tmp_path_factory.mktemp("real")
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    params = {"task": "vision", "learning_rate": 1e-3, "clip_grad_norm": None}
    state = make_state(net, optim_dict=optimizer.state_dict(), best=0.5, params=params, facts={"classes": ["a", "b"]})
    utils.save_checkpoint(state, False, folder)
    return (folder / "last.pth.tar").read_bytes()


def test_what_is_saved_is_read_again(path):
    state = make_state(make_net(), best=None, params={"learning_rate": 1e-3, "nets": ["a"]}, done=True)
    utils.save_checkpoint(state, False, path.parent)
    read = utils.read_checkpoint(path)
    assert_same_weights(read.pop("state_dict"), state.pop("state_dict"))
    assert read == state
    assert [entry.name for entry in path.parent.iterdir()] == ["last.pth.tar"]


def test_best_is_saved_beside_last_if_it_is_the_best(path):
    utils.save_checkpoint(make_state(make_net(), epoch=1), True, path.parent)
    utils.save_checkpoint(make_state(make_net(), epoch=2), False, path.parent)
    assert utils.read_checkpoint(path)["epoch"] == 2
    assert utils.read_checkpoint(path.parent / "best.pth.tar")["epoch"] == 1


def test_torch_reads_our_checkpoints_by_itself(path):
    net = make_net()
    utils.save_checkpoint(make_state(net), False, path.parent)
    assert_same_weights(torch.load(path, weights_only=True)["state_dict"], net.state_dict())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def is_refused(path, content, expected):
    """Read damaged bytes; fail if they are read as anything but the state from before the damage."""
    path.write_bytes(content)
    try:
        read = utils.read_checkpoint(path)
    except utils.InputError as error:
        assert str(error).startswith(f"{path}: damaged")
        return True
    assert repr(read) == expected  # a bit between the files in the archive means nothing
    return False


def test_no_flipped_bit_gives_another_state(path, real_checkpoint):
    path.write_bytes(real_checkpoint)
    expected = repr(utils.read_checkpoint(path))
    chooser = random.Random(230)
    positions = chooser.sample(range(8 * len(real_checkpoint)), 400)
    positions += range(8 * (len(real_checkpoint) - 100), 8 * len(real_checkpoint), 5)  # the archive's directory
    num_refused = 0
    for position in positions:
        flipped = bytearray(real_checkpoint)
        flipped[position // 8] ^= 1 << position % 8
        num_refused += is_refused(path, bytes(flipped), expected)
    assert num_refused > 150


def test_every_flipped_bit_of_the_weights_is_noticed(path, real_checkpoint):
    path.write_bytes(real_checkpoint)
    weights = utils.read_checkpoint(path)["state_dict"]["0.weight"].numpy().tobytes()
    start = real_checkpoint.index(weights)
    for position in range(8 * start, 8 * (start + len(weights)), 3):
        flipped = bytearray(real_checkpoint)
        flipped[position // 8] ^= 1 << position % 8
        assert "damaged (its checksum" in refusal(path, bytes(flipped))


def test_every_truncation_is_noticed(path, real_checkpoint):
    chooser = random.Random(230)
    for length in [0, 1, 2, len(real_checkpoint) - 1, *chooser.sample(range(len(real_checkpoint)), 100)]:
        refusal(path, real_checkpoint[:length])


def test_a_lost_beginning_or_an_appended_end_gives_no_other_state(path, real_checkpoint):
    assert "damaged" in refusal(path, real_checkpoint[1000:])
    path.write_bytes(real_checkpoint)
    expected = repr(utils.read_checkpoint(path))
    for end in (b"\0", real_checkpoint[-71:], real_checkpoint[-1000:], real_checkpoint):
        is_refused(path, real_checkpoint + end, expected)


def test_checkpoints_sealed_by_older_versions_are_read(path, real_checkpoint):
    """They have a SHA-256 in the comment of the zip file."""
    seal = b"sha256:" + hashlib.sha256(real_checkpoint).hexdigest().encode()
    path.write_bytes(real_checkpoint)
    expected = repr(utils.read_checkpoint(path))
    sealed = real_checkpoint[:-2] + len(seal).to_bytes(2, "little") + seal
    assert not is_refused(path, sealed, expected)
    damaged = bytearray(sealed)
    damaged[sealed.index(b"learning_rate")] ^= 1
    assert is_refused(path, bytes(damaged), expected)


def test_no_flip_in_a_file_of_other_programs_gives_other_weights(path):
    net = nn.Linear(3, 2)
    content = as_bytes(make_state(net))
    chooser = random.Random(230)
    num_noticed = 0
    for position in chooser.sample(range(8 * len(content)), 400):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            read = utils.read_checkpoint(path)
        except utils.InputError:
            num_noticed += 1
        else:  # a bit between the files in the archive means nothing
            assert read["epoch"] == 3
            assert_same_weights(read["state_dict"], net.state_dict())
    assert num_noticed > 100


def test_files_of_the_torch_of_2018_are_read(path):
    net = make_net()
    path.write_bytes(as_bytes(make_state(net), _use_new_zipfile_serialization=False))
    assert_same_weights(utils.read_checkpoint(path)["state_dict"], net.state_dict())


class _Evil:
    """An object that, unpickled, would make a file named by an environment variable."""

    def __reduce__(self):
        return exec, ("import os; open(os.environ['CANARY'], 'w').close()",)


EVIL_FILES = {
    "zip": lambda: as_bytes({"state_dict": {}, "evil": _Evil()}),
    "legacy": lambda: as_bytes({"state_dict": {}, "evil": _Evil()}, _use_new_zipfile_serialization=False),
    "pickle": lambda: pickle.dumps({"state_dict": {}, "evil": _Evil()}, protocol=2),
}
READ = """
import pathlib, sys, utils
for name in sys.argv[1:]:
    try:
        utils.read_checkpoint(pathlib.Path(name))
    except utils.InputError as error:
        print(error)
    else:
        sys.exit("it was loaded")
"""


def test_a_checkpoint_that_would_run_code_is_refused_whatever_the_environment_says(project, tmp_path):
    canary = tmp_path / "canary"
    environment = {**os.environ, "CANARY": str(canary), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    paths = [tmp_path / f"{kind}.pth.tar" for kind in EVIL_FILES]
    for path, content in zip(paths, EVIL_FILES.values(), strict=True):
        path.write_bytes(content())
    command = [sys.executable, "-c", READ, *map(str, paths)]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line.startswith(str(path)) for line, path in zip(done.stdout.splitlines(), paths, strict=True)] == [
        True
    ] * 3
    assert not canary.exists()


def test_the_canary_would_be_touched_by_a_careless_loader(tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    torch.load(io.BytesIO(EVIL_FILES["zip"]()), weights_only=False)
    assert (tmp_path / "canary").exists()  # so the test above can fail


@pytest.mark.parametrize("kind", EVIL_FILES)
def test_a_checkpoint_that_would_run_code_is_refused_in_one_line(path, monkeypatch, kind):
    monkeypatch.setenv("CANARY", str(path.parent / "canary"))
    message = refusal(path, EVIL_FILES[kind]())
    assert "exec" in message
    assert "weights_only" not in message  # no advice on how to load it nevertheless
    assert not (path.parent / "canary").exists()


@pytest.mark.parametrize("value", [np.float64(0.5), np.arange(3)])
def test_numpy_in_a_checkpoint_is_refused_with_what_to_do(path, value):
    message = refusal(path, as_bytes(make_state(make_net(), best=value)))
    assert "numpy" in message and "float(x)" in message


def test_a_pickled_net_is_refused_by_its_class(path):
    assert "torch.nn.modules" in refusal(path, as_bytes({"state_dict": make_net()}))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"PK", b"hello\n" * 50, b"<!DOCTYPE html>", b"\x89PNG\r\n", b"\x80\x02", bytes(1000),
        random.Random(230).randbytes(1000), as_bytes([1, 2]), as_bytes({"weights": 1}), as_bytes({"state_dict": 3}),
        as_bytes(make_net().state_dict()), pickle.dumps({"state_dict": {}}, protocol=2)[:-3],
    ],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused_in_one_line(path, content):
    refusal(path, content)


def test_a_missing_checkpoint_is_reported_with_those_that_there_are(path):
    assert "the folder has none; train first" in refusal(path)
    utils.save_checkpoint(make_state(make_net()), True, path.parent)
    assert "there are: best, last" in refusal(path.parent / "bset.pth.tar")
    path.unlink()
    path.mkdir()
    assert "cannot be read" in refusal(path)


def test_a_checkpoint_of_another_net_is_reported_key_by_key(path):
    other = nn.ModuleDict({"0": nn.Linear(4, 5), "1": nn.BatchNorm1d(3), "head": nn.Linear(3, 2)})
    utils.save_checkpoint(make_state(other), False, path.parent)
    with pytest.raises(utils.InputError) as caught:
        utils.load_checkpoint(path, make_net())
    message = str(caught.value)
    assert message.startswith(f"{path}: a checkpoint of another net") and "\n" not in message
    assert 'Missing key(s) in state_dict: "2.weight", "2.bias"' in message
    assert 'Unexpected key(s) in state_dict: "head.weight", "head.bias"' in message
    assert "size mismatch for 0.weight: copying a param with shape torch.Size([5, 4])" in message


def test_weights_that_are_no_tensors_are_reported(path):
    weights = {**make_net().state_dict(), "0.weight": 3.0}
    path.write_bytes(as_bytes({"state_dict": weights}))
    with pytest.raises(utils.InputError, match="0.weight.*expected torch.Tensor.*received .*float"):
        utils.load_checkpoint(path, make_net())


def test_batch_norm_of_pytorch_0_4_is_loaded_without_its_counter(path):
    weights = {key: value + 1 for key, value in make_net().state_dict().items() if "num_batches" not in key}
    path.write_bytes(as_bytes({"state_dict": weights}))
    net = make_net()
    utils.load_checkpoint(path, net)
    assert all(torch.equal(net.state_dict()[key], weights[key]) for key in weights)


def take_step(net, optimizer):
    optimizer.zero_grad()
    net(torch.ones(5, 4) * torch.arange(5)[:, None]).square().mean().backward()
    optimizer.step()


def test_loading_with_an_optimizer_continues_its_steps(path):
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    take_step(net, optimizer)
    utils.save_checkpoint(make_state(net, optim_dict=optimizer.state_dict()), False, path.parent)
    take_step(net, optimizer)

    other = make_net()
    other_optimizer = torch.optim.Adam(other.parameters(), lr=0.5)
    returned = utils.load_checkpoint(path, other, other_optimizer)
    assert returned["epoch"] == 3
    take_step(other, other_optimizer)
    assert_same_weights(other.state_dict(), net.state_dict())


def test_an_optimizer_that_is_not_in_the_checkpoint_is_reported(path):
    net = make_net()
    path.write_bytes(as_bytes({"state_dict": net.state_dict()}))
    with pytest.raises(utils.InputError, match="optim_dict does not fit this code"):
        utils.load_checkpoint(path, net, torch.optim.Adam(net.parameters()))
    utils.save_checkpoint(
        make_state(net, optim_dict=torch.optim.Adam(net[0].parameters()).state_dict()), False, path.parent
    )
    with pytest.raises(utils.InputError, match="optim_dict does not fit this code"):
        utils.load_checkpoint(path, net, torch.optim.Adam(net.parameters()))


def test_a_full_disk_leaves_the_checkpoints_from_before(path, monkeypatch):
    utils.save_checkpoint(make_state(make_net(), epoch=1), True, path.parent)
    before = {entry: entry.read_bytes() for entry in path.parent.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        utils.save_checkpoint(make_state(make_net(5), epoch=2), True, path.parent)
    assert {entry: entry.read_bytes() for entry in path.parent.iterdir()} == before


# --- which result is better: by value, then by loss

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("better", "worse", "is_high_better"),
    [
        ((0.9, 0.5), (0.8, 0.1), True),
        ((0.8, 0.5), (0.9, 0.1), False),  # rmse, for example
        ((0.9, 0.1), (0.9, 0.2), True),
        ((0.9, 0.1), (0.9, 0.2), False),
        ((0.9, 5.0), (0.9, NAN), True),
        ((0.9, 5.0), (0.9, None), True),
        ((1, -3.0), (1.0, -2.0), True),
    ],
)
def test_results_are_compared_by_value_then_by_loss(better, worse, is_high_better):
    assert utils.standing(*better, is_high_better) > utils.standing(*worse, is_high_better)


@pytest.mark.parametrize("value", [NAN, INF, -INF, None, "0.95", True, 10**400])
def test_what_is_not_a_finite_number_is_never_the_best(value):
    assert utils.standing(value, 0.1, True) is None and utils.standing(value, 0.1, False) is None
