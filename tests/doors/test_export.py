"""Programs run without this project, and agree with their nets: each kind of net, every format."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import export
import utils
from fiveline.serving import programs, verify
from fiveline.serving.interface import find_class_axis, find_interfaces
from fiveline.serving.programs import to_program
from fiveline.serving.trained import fetch_trained
from fiveline.serving.verify import check_program
from fiveline.tasks import fetch_dataset
from tests.support.runs import finish, stopped, write_params
from tests.support.tasks import PROJECT

DIGITS = {"data_dir": str(PROJECT / "data/digits"), "image_size": 16, "image_channels": 1, "num_channels": 8}
NER = {"task": "ner", "data_dir": str(PROJECT / "data/ner_small"), "embedding_dim": 16, "lstm_hidden_dim": 16}
RUNS = {
    "cs230": {**DIGITS, "dropout_rate": 0.5, "normalize": "train", "horizontal_flip": False},
    "resnet18": {**DIGITS, "net": "resnet18", "image_channels": 3, "batch_size": 128},
    "ner": {**NER, "char_channels": 8, "bidirectional": True, "num_layers": 2, "dropout_rate": 0.3},
    "custom": {"task": "tabular", "data_dir": str(PROJECT / "data/digits_rows"), "linear_layer": "custom"},
    "mlp": {"task": "tabular", "data_dir": str(PROJECT / "data/diabetes"), "target": "progression",
            "target_type": "number", "categorical": ["sex"], "net": "mlp", "hidden_sizes": [16, 8], "batch_norm": True},
}  # fmt: skip
CANNOT = {("custom", "torchscript")}  # a function with a backward of its own cannot be written down


@pytest.fixture(scope="module")
def fetch_run(tmp_path_factory):
    """Return a function that trains a run for an epoch, once."""
    folder = tmp_path_factory.mktemp("export")

    def fetch(name):
        if not (folder / name).exists():
            finish(write_params(folder / name, **{"num_epochs": 1, "learning_rate": 3e-3, **RUNS[name]}))
        return folder / name

    return fetch


def refusal(folder, *words, exit_code):
    return stopped(folder, *words, exit_code=exit_code, main=export.main)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["pt2", "onnx", "torchscript"])
@pytest.mark.parametrize("name", RUNS)
def test_programs_agree_with_nets_on_the_whole_test_split(fetch_run, tmp_path, name, format_name):
    model_dir, output = fetch_run(name), tmp_path / f"program.{format_name}"
    words = ["--format", format_name, "--output", str(output), "--split", "test"]
    if (name, format_name) in CANNOT:
        assert f"torch cannot export this net to {format_name} " in refusal(model_dir, *words, exit_code=1)
        assert not list(tmp_path.iterdir())
        return
    export.main(["--model_dir", str(model_dir), *words])
    facts = utils.read_json(tmp_path / f"program.{format_name}.json")
    assert facts["verified"]["split"] == "test" and facts["verified"]["largest_difference_as_share"] <= 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == [output.name, f"{output.name}.json"]
    params, _, model = fetch_trained(model_dir, model_dir / "best.pth.tar", [])
    assert facts["verified"]["num_examples"] == len(fetch_dataset("test", Path(params.data_dir), params))
    if name == "ner":  # batches of any size, sentences and words of any length
        shapes = {entry["name"]: entry["shape"] for entry in (*facts["inputs"], *facts["outputs"])}
        sides = {"words": ["batch_size", "max_len"], "chars": ["batch_size", "max_len", "max_word_len"]}
        assert shapes == {**sides, "outputs": ["batch_size", "max_len", len(facts["preprocessing"]["classes"])]}
        pairs = []
        for size, length, word_length in [(1, 1, 1), (1, 9, 3), (2, 1, 5), (7, 3, 1), (3, 150, 20), (40, 11, 7)]:
            words = torch.randint(len(params.words), (size, length))
            words[0, 1:][-1:] = model.pad
            inputs = {"words": words, "chars": torch.randint(20, (size, length, word_length))}
            pairs.append((inputs, model(inputs).detach()))
        assert check_program(output.read_bytes(), output.name, pairs)["largest_difference"] <= 1e-5


def test_weights_alone_are_those_of_the_checkpoint(fetch_run, tmp_path):
    safetensors, model_dir = pytest.importorskip("safetensors.torch"), fetch_run("cs230")
    export.main(["--model_dir", str(model_dir), "--format", "safetensors", "--output", str(tmp_path)])
    ours = utils.read_checkpoint(model_dir / "best.pth.tar")["state_dict"]
    theirs = safetensors.load_file(tmp_path / "best.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert utils.read_json(tmp_path / "best.safetensors.json")["hyperparameters"]["num_channels"] == 8


def test_axes_are_found_from_the_examples_and_from_the_labels():
    sizes = [(5, 3, 2), (1, 4, 2), (2, 4, 3)]
    samples = [({"a": torch.zeros(i, j), "b": torch.zeros(i, j, k, 4)}, torch.zeros(i, 2)) for i, j, k in sizes]
    inputs = {"a": ["batch_size", "a_1"], "b": ["batch_size", "a_1", "width", 4]}
    sides = find_interfaces(samples, {"b": ["", "", "width"]})
    found = [{entry["name"]: entry["shape"] for entry in side} for side in sides]
    assert found == [inputs, {"outputs": ["batch_size", 2]}]
    for shape, of_labels, axis in (((2, 7, 5), (2, 7), -1), ((2, 5, 4, 4), (2, 4, 4), 1), ((2, 5), (2, 5), None)):
        assert find_class_axis(torch.zeros(shape), torch.zeros(of_labels, dtype=int)) == axis


# --- the check itself: it must be able to fail


@pytest.mark.slow
def test_a_program_that_computes_something_else_is_not_kept(fetch_run, tmp_path, monkeypatch):
    def write_another(format_name, model, *rest):
        with torch.no_grad():
            model.linear2.bias[0] += 1e-3
            content = to_program(format_name, model, *rest)
            model.linear2.bias[0] -= 1e-3
        return content

    monkeypatch.setattr(programs, "to_program", write_another)
    output = tmp_path / "program.pt2"
    output.write_text("of before")
    message = refusal(fetch_run("custom"), "--format", "pt2", "--output", output, exit_code=1)
    assert "differ from the net's by up to 0.001" in message
    assert output.read_text() == "of before" and [path.name for path in tmp_path.iterdir()] == ["program.pt2"]


@pytest.mark.slow
def test_a_program_that_takes_one_length_only_is_noticed(tmp_path):
    traced = torch.jit.trace(lambda inputs: inputs * torch.ones(5), (torch.ones(2, 5),), check_trace=False)
    traced.save(str(tmp_path / "a.torchscript"))
    content = (tmp_path / "a.torchscript").read_bytes()
    pairs = [(each, each) for each in (torch.ones(2, 5), torch.ones(2, 3))]
    assert check_program(content, "a.torchscript", pairs[:1])["largest_difference"] == 0
    with pytest.raises(utils.Stop, match="the program does not run on examples of the data .*must match"):
        check_program(content, "a.torchscript", pairs)


def test_differences_count_nan_infinity_shapes_and_predictions():
    def compare(ours, theirs):
        found = verify.compare([([np.array(ours)], [np.array(theirs)])], None)
        return found["largest_difference"], found["largest_difference_as_share"]

    assert compare([1.0, 200.1, np.nan, np.inf], [1.0, 200.0, np.nan, np.inf])[1] == pytest.approx(0.1 / 99.5)
    for ours, theirs in (([np.nan, 1.0], [1.0, 1.0]), ([np.inf, 1.0], [1.0, 1.0]), ([1.0], [np.nan])):
        assert compare(ours, theirs) == (np.inf, np.inf)
    assert compare([2.002, 2.0], [2.0, 2.0]) == pytest.approx((0.002, 0.001))  # no spread
    with pytest.raises(utils.Stop, match="expected"):
        compare([[1.0, 2.0]], [[1.0, 2.0, 3.0]])
    ours, theirs = np.random.default_rng(0).normal(50, 3, (2, 9, 4))
    batches = [([ours[rows]], [theirs[rows]]) for rows in (slice(1), slice(1, 6), slice(6, 9))]
    assert verify.compare(batches, -1) == {  # the spread is that of all batches
        "largest_difference": pytest.approx(np.abs(ours - theirs).max()),
        "largest_difference_as_share": pytest.approx(np.abs(ours - theirs).max() / theirs.std()),
        "num_predictions": 9, "num_changed": (ours.argmax(axis=1) != theirs.argmax(axis=1)).sum(),
    }  # fmt: skip


def test_a_program_is_judged_by_its_predictions_and_the_spread_of_its_outputs(monkeypatch):
    for share, num_changed, tolerance, message in (
        (2.5e-5, 0, None, ""),  # 1.25e-5 of outputs of 0.5: as a transformer in ONNX
        (2.5e-4, 0, None, "by up to 1.25e-05, 0.00025 of their standard deviation (0.0001 is accepted), and 0 of 1,000 "
         "predictions change; it is not kept; to accept this, type --tolerance 0.00038"),
        (2.5e-5, 2, None, "2 of 1,000 predictions change; it is not kept; to accept this, type --tolerance 3.8e-05"),
        (2.5e-5, 2, 3.8e-5, ""),
        (math.inf, 1000, 1.0, "1,000 of 1,000 predictions change; it is not kept"),
    ):  # fmt: skip
        found = {"largest_difference": 1.25e-5, "largest_difference_as_share": share, "num_predictions": 1000}
        monkeypatch.setattr(verify, "compare", lambda *_, found=found, n=num_changed: {**found, "num_changed": n})
        try:
            assert check_program(b"", "best.pt2", iter(()), -1, tolerance)["tolerance"] == (tolerance or 1e-4)
        except utils.Stop as stop:
            assert str(stop).endswith(message) and stop.exit_code == 1 and message
        else:
            assert not message


# --- mistakes


def test_mistakes_are_reported_before_anything_heavy(make_run, tmp_path, monkeypatch):
    folder, missing = make_run(), tmp_path / "nope"
    for words, message in (
        (["--output", tmp_path / "net.onnx"], "ends in .pt2"),
        (["--output", missing / "net.pt2"], "net.pt2.json: cannot be written (No such file or directory)"),
        (["--output", tmp_path / f"{'n' * 240}.pt2"], ".pt2.json: cannot be written (File name too long)"),
        (["--model_dir", missing], "nope/best.pt2.json: cannot be written (No such file or directory)"),
        ([], "there is no such checkpoint"),
        (["--tolerance=-1"], "expected a number from 0, for example 0.001"),
        (["--tolerance=nan"], "expected a number from 0, for example 0.001"),
    ):
        assert message in refusal(folder, "--format", "pt2", *words, exit_code=2)
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else 1)
    message = refusal(folder, "--format", "onnx", exit_code=2)
    assert message == "--format onnx: needs onnx, onnxscript, onnxruntime; pip install -r requirements-export.txt"
