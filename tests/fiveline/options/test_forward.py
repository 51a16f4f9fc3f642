"""How a net is computed: precision, averaged weights, activations computed again, compiled code."""

import copy
import functools
import itertools
import signal

import pytest
import torch
from torch import nn

import evaluate
import train
import utils
from fiveline.options.average import Average
from fiveline.options.forward import compile_net, describe_forward, find_blocks, prepare
from fiveline.options.optimizer import clip_gradients
from fiveline.state import State
from model.vision.params import Params
from tests.support.runs import assert_same_bits, read_state, run_train, without_times, write_run

CPU = torch.device("cpu")
RESNET = {"net": "resnet18", "image_size": 16, "image_channels": 3, "num_epochs": 2, "batch_size": 400, "shift": 0}


def prepared(model, device=CPU, **values):
    return prepare(model, Params.from_values(values, "test"), device)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of one epoch without any option."""
    return run_train(tmp_path_factory.mktemp("plain") / "run", dropout_rate=0.0, num_epochs=1)


def interrupt(patch, at):
    """Ask for a stop after so many steps, whichever kind they are of."""
    count = itertools.count(1)

    def take_step(original, *args, **named):
        if next(count) == at:
            signal.raise_signal(signal.SIGTERM)
        return original(*args, **named)

    for name in ("train_step", "train_step_in_pieces"):
        patch.setattr(train, name, functools.partial(take_step, getattr(train, name)))


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        pytest.param({"precision": "bf16", "ema_decay": 0.99, "schedule": "one_cycle"}, 2, marks=pytest.mark.slow),
        pytest.param({"precision": "fp16", "microbatch_size": 30, "clip_grad_norm": 1.0}, 2, marks=pytest.mark.slow),
        pytest.param({"precision": "fp16", "optimizer": "sgd", "ema_decay": 0.9}, 6, marks=pytest.mark.slow),
        pytest.param({**RESNET, "activation_checkpointing": True, "ema_decay": 0.5}, 2, marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_a_stopped_run_continues_to_the_same_bits(tmp_path, monkeypatch, settings, at):
    settings = {"batch_size": 315, "num_epochs": 2, "learning_rate": 0.003, **settings}
    whole = run_train(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        interrupt(patch, at)
        with pytest.raises(utils.InterruptedRun):
            run_train(tmp_path / "parts", **settings)
    parts = run_train(tmp_path / "parts", **settings)
    for name in ("last", "best"):
        assert_same_bits(*({**read_state(folder, name), "seconds": 0} for folder in (whole, parts)))
    histories = [without_times(utils.read_lines(folder / "history.jsonl")) for folder in (whole, parts)]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_precision_changes_rounding_and_little_else(tmp_path, plain, precision, caplog):
    other = run_train(tmp_path / "other", dropout_rate=0.0, num_epochs=1, precision=precision)
    losses = [utils.read_lines(path / "history.jsonl")[0]["train"]["loss"] for path in (plain, other)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert (losses[0] == losses[1]) == (precision == "tf32")  # which a CPU does not have, as the log says
    assert ("precision tf32: only a CUDA device has it" in caplog.text) == (precision == "tf32")
    in_force = "fp32" if precision == "tf32" else precision
    assert utils.read_json(other / "run.json")["machine"]["precision"] == in_force
    weights = read_state(other)["state_dict"].values()
    assert all(weight.dtype == torch.float32 for weight in weights if weight.is_floating_point())
    assert prepared(nn.Linear(4, 2), precision=precision)(torch.ones(3, 4)).dtype == torch.float32
    evaluate.main(["--model_dir", str(other), "--split", "val"])  # in the precision of the run
    there, here = (utils.read_json(other / f"metrics_val_best{end}.json") for end in ("", "_weights"))
    assert there == pytest.approx(here, rel=1e-5)
    if precision == "fp16":  # another one may continue the run
        train.main(["--model_dir", str(other), "num_epochs=2", "precision=fp32"])
        assert "the machine changed since this run last started (precision: fp16 -> fp32)" in caplog.text
        seconds = [row["seconds"] for row in utils.read_lines(other / "history.jsonl")]
        assert len(seconds) == 2 and utils.read_json(other / "run.json")["seconds"] == sum(seconds)


@pytest.mark.slow
def test_deterministic_algorithms_are_for_other_devices_than_the_cpu():
    for device, is_on in (("cpu", True), ("meta", False), ("meta", True)):
        params = Params.from_values({"deterministic": is_on}, "test")
        description = describe_forward(prepare(nn.Linear(4, 2), params, torch.device(device)), params)
        assert description["deterministic"] == (is_on and device == "meta")
        assert description["device"] == description["device_name"] == device
    with pytest.raises(RuntimeError) as error:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    stop = utils.explain(error.value)
    assert stop.exit_code == 2
    assert str(stop).startswith("deterministic: put_ does not have a deterministic implementation; take another")


def step_in_fp16(factor, scale, max_norm=None):
    """Take one step of a linear net whose loss is multiplied by a factor; return the change of its weights."""
    torch.manual_seed(0)
    model = prepared(nn.Linear(4, 2), precision="fp16")
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 / factor, fused=True)
    if max_norm is not None:
        clip_gradients(optimizer, max_norm)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def loss_fn(outputs, labels):
        return factor * nn.functional.cross_entropy(outputs, labels)

    train.train_step_in_pieces(model, optimizer, loss_fn, torch.ones(3, 4), torch.tensor([0, 1, 1]), 3, scaler)
    return nn.utils.parameters_to_vector(model.parameters()) - before, scaler.get_scale()


def test_fp16_scales_the_loss():
    assert not step_in_fp16(factor=1e-9, scale=1.0)[0].any()  # the gradients are too small: nothing is learnt
    change, expected = step_in_fp16(factor=1e-9, scale=2.0**30)[0], step_in_fp16(factor=1.0, scale=1.0)[0]
    torch.testing.assert_close(change, expected, rtol=1e-2, atol=1e-4)
    assert expected.norm() > 0.01
    change, scale = step_in_fp16(factor=1.0, scale=2.0**20)
    assert not change.any() and scale == 2.0**19  # too large: the step is left out
    change, _ = step_in_fp16(factor=1.0, scale=2.0**10, max_norm=0.01)  # clips gradients without the scale
    assert change.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-2)


def test_fp16_that_overflows_at_any_scale_stops_the_run(tmp_path, monkeypatch):
    check_weights = State.check_weights

    def with_a_tiny_scale(state):
        state.extras["scaler"].update(1e-9)
        check_weights(state)

    monkeypatch.setattr(State, "check_weights", with_a_tiny_scale)
    with pytest.raises(utils.DivergedError, match="gradients that are not finite at any scale"):
        run_train(tmp_path / "run", num_epochs=1, precision="fp16")


def test_averaged_weights_are_what_is_evaluated_and_saved(tmp_path, monkeypatch, plain):
    expected, take_step, steps = {}, train.train_step, itertools.count(1)

    def average_by_hand(model, *rest):
        start = copy.deepcopy(model.state_dict())
        result = take_step(model, *rest)
        number = next(steps)
        share = min(0.8, number / (number + 9))
        for name, weight in model.state_dict().items():
            old = expected.get(name, start[name])
            expected[name] = share * old + (1 - share) * weight if weight.is_floating_point() else weight.clone()
        return result

    monkeypatch.setattr(train, "train_step", average_by_hand)
    folder = run_train(tmp_path / "run", dropout_rate=0.0, num_epochs=1, ema_decay=0.8)
    last, trained = read_state(folder), read_state(plain)
    torch.testing.assert_close(last["state_dict"], expected)
    assert_same_bits(last["average"]["trained_weights"], trained["state_dict"])  # training is the same
    assert_same_bits(last["optim_dict"], trained["optim_dict"])
    assert not torch.allclose(trained["state_dict"]["fc2.weight"], expected["fc2.weight"])
    evaluate.main(["--model_dir", str(folder), "--split", "val"])
    there, here = (utils.read_json(folder / f"metrics_val_best{end}.json") for end in ("", "_weights"))
    assert there == pytest.approx(here, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_average_is_computed_with_its_own_weights(precision):
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)))
    model = prepared(blocks, precision=precision, activation_checkpointing=True)
    average = Average(model, torch.optim.SGD(model.parameters()), 0.9)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert not model(torch.ones(2, 4)).any() and average.averaged(torch.ones(2, 4)).any()


class Block(nn.Module):
    """A batch norm and dropout, whose second look at a batch would show."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.num_calls = nn.Linear(6, 6), nn.BatchNorm1d(6), 0

    def forward(self, x):
        self.num_calls += 1
        return nn.functional.dropout(self.norm(self.linear(x)).relu(), 0.5, self.training)


def test_blocks_computed_again_take_the_same_step_and_keep_less_in_memory():
    results, num_kept = [], []
    for is_on in (False, True):
        torch.manual_seed(0)
        model = prepared(nn.Sequential(*(Block() for _ in range(8)), nn.Linear(6, 3)), activation_checkpointing=is_on)
        optimizer, kept = torch.optim.Adam(model.parameters()), []
        batch = torch.randn(512, 6), torch.arange(512) % 3
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            model(batch[0])
        train.train_step(model, optimizer, nn.functional.cross_entropy, *batch)
        results.append((model.state_dict(), torch.get_rng_state()))
        with torch.inference_mode():
            model.eval()(batch[0])
        assert model[0].num_calls == (4 if is_on else 3)
        num_kept.append(sum(number for number in kept if number >= 512))
    assert_same_bits(*results)
    assert num_kept[True] <= num_kept[False] / 3


def test_blocks_are_found_in_nets_of_torchvision():
    from torchvision import models

    for net in ("resnet18", "vit_b_16", "convnext_tiny"):
        with torch.device("meta"):
            assert len(find_blocks(models.get_model(net))) >= 8
    assert find_blocks(nn.Sequential(nn.Linear(4, 2))) == []


def test_without_a_compiler_the_net_is_computed_as_it_is(tmp_path, monkeypatch, caplog, plain):
    def fail(*_, **__):
        raise RuntimeError("No working C++ compiler found\nmore lines")

    monkeypatch.setattr(torch, "compile", fail)
    other = run_train(tmp_path / "other", dropout_rate=0.0, num_epochs=1, compile=True)
    assert "compile: no compiler works here (No working C++ compiler found); the net is" in caplog.text
    assert_same_bits(*(read_state(folder)["state_dict"] for folder in (plain, other)))
    assert utils.read_json(other / "run.json")["machine"]["compiled"] is False


def test_a_compiled_net_keeps_its_names(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # looking for a compiler takes long
    model = nn.Sequential(nn.Linear(4, 2))
    compile_net(model, has_lengths=False)
    assert list(model.state_dict()) == ["0.weight", "0.bias"] == list(copy.deepcopy(model).state_dict())
    assert describe_forward(model, Params())["compiled"] is True
    with pytest.raises(utils.InputError, match="activation_checkpointing: does not go with compile"):
        Params.from_values({"compile": True, "activation_checkpointing": True}, "test")


@pytest.mark.thorough
def test_a_compiled_run_continues_to_the_same_bits(tmp_path, run_script):
    settings = {"num_epochs": 2, "compile": True, "batch_size": 315, "ema_decay": 0.9, "precision": "bf16"}
    folders = [write_run(tmp_path / name, **settings) for name in ("plain", "whole", "parts")]
    for folder, *words in ((folders[0], "compile=false"), (folders[1],), (folders[2], "num_epochs=1"), (folders[2],)):
        result = run_script("train.py", "--model_dir", folder, *words, timeout=600)
        assert result.returncode == 0, result.stderr
    uncompiled, whole, parts = (read_state(folder) for folder in folders)
    assert utils.read_json(folders[1] / "run.json")["machine"]["compiled"] is True
    assert uncompiled["state_dict"].keys() == whole["state_dict"].keys()
    for key in ("state_dict", "optim_dict", "average"):
        assert_same_bits(whole[key], parts[key])
    losses = [utils.read_lines(folder / "history.jsonl")[0]["train"]["loss"] for folder in folders[:2]]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
