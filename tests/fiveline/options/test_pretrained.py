"""`pretrained: path`: weights of files and of other runs, the layer that stays new, and what is refused."""

import hashlib
import sys

import numpy as np
import pytest
import torch
from torchvision import models

import evaluate
import export
import train
import utils
from fiveline.options import pretrained
from fiveline.tasks import fetch_facts, fetch_params_class, fetch_task
from model.vision.net import Net
from model.vision.params import Params
from tests.support.data import refusal, write_csv
from tests.support.runs import at_log_line, finish, read_state, stopped
from tests.support.tasks import needs


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A ResNet-18 of 1000 classes in a file, as torchvision's users save it."""
    torch.manual_seed(1)
    state = models.resnet18().state_dict()
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(state, path)
    return path, state


def resnet_params(path):
    params = Params(net="resnet18", image_size=32, pretrained=str(path))
    return params.with_facts({"classes": [str(i) for i in range(10)], "class_counts": [1] * 10})


def initialized(params, source=None):
    """The net of a new run with its weights before and after, and what run.json says of them."""
    net = fetch_task(params).Net(params)
    before = {name: entry.clone() for name, entry in net.state_dict().items()}
    record = pretrained.initialize(net, params, source or pretrained.read_source(params))
    return before, net.state_dict(), record


def test_a_run_begins_with_torchvisions_file_except_for_its_head(resnet, make_run):
    path, theirs = resnet
    values = {"net": "resnet18", "image_channels": 3, "image_size": 32, "num_epochs": 1}
    own = finish(make_run(pretrained=str(path), freeze_backbone=True, **values))
    state, record = read_state(own)["state_dict"], utils.read_json(own / "run.json")
    assert all(torch.equal(state[name], entry) for name, entry in theirs.items() if not name.startswith("fc."))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["pretrained"] == {"source": str(path), "sha256": digest, "new": ["fc.weight", "fc.bias"]}
    assert f"Loaded 120 of 122 tensors from {path}; new: fc.weight, fc.bias" in (own / "train.log").read_text()


@pytest.mark.parametrize("kind", ["wrapped", "half", "safetensors", "no counters"])
def test_files_of_other_code_give_the_same_bits(resnet, tmp_path, kind):
    state, path = resnet[1], tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    rounded = {name: entry.bfloat16() for name, entry in state.items()}
    content = {
        "wrapped": {"model": {f"module._orig_mod.{name}": entry for name, entry in state.items()}, "epoch": 3},
        "half": rounded,
        "no counters": {name: entry for name, entry in state.items() if "num_batches" not in name},
    }
    if kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save(content[kind], path)
    before, found, record = initialized(resnet_params(path))
    assert found.keys() == state.keys() and record["new"] == ["fc.weight", "fc.bias"]
    for name, entry in (rounded if kind == "half" else state).items():
        assert torch.equal(found[name], before[name] if name in record["new"] else entry.to(found[name].dtype))


def test_what_is_no_file_of_this_nets_weights_is_refused(resnet, tmp_path, monkeypatch):
    path, state = resnet
    files = {
        "other": (models.resnet34().state_dict(), 'params describe: Unexpected key(s) in state_dict: "layer1.2.conv1'),
        "pickled": (torch.nn.Linear(1, 1), "it holds more than tensors and plain values: torch.nn.modules.lin"),
        "shape": ({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, "size mismatch for conv1.weight: copying a"),
        "numbers": ({"epoch": 3, "lr": 0.1}, "state_dict, model, model_state_dict; found epoch (int)"),
    }
    for name, (content, _) in files.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "short").write_bytes(path.read_bytes()[:-1000])
    expected = {name: message for name, (_, message) in files.items()}
    expected |= {"short": "damaged (its checksum does not fit its ", "no": "there is no such file"}
    for name, message in {**expected, "": "best.pth.tar: there is no such file"}.items():
        found = refusal(initialized, resnet_params(tmp_path / name))
        assert found.startswith(f"pretrained: {tmp_path / name}") and message in found, found
    for name in ("timm", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)  # not installed
    params = Params(net="timm/resnet10t").with_facts({"classes": ["a", "b"]})
    assert refusal(Net, params).endswith("timm is not installed; pip install timm")
    (tmp_path / "x.safetensors").touch()
    assert refusal(initialized, resnet_params(tmp_path / "x.safetensors")).endswith("pip install safetensors")


def test_a_run_begins_with_another_run_of_other_classes(make_run, tmp_path):
    first = finish(make_run("first", num_epochs=1))
    theirs = read_state(first, "best")["state_dict"]
    with np.load(tmp_path / "data/train.npz") as arrays:
        images = arrays["images"]
    more = tmp_path / "more"
    more.mkdir()
    for names, classes in (("abcd", 4), ("cab", 3), ("012", 3)):  # another number; another order; the same
        for split in ("train", "val"):
            np.savez(more / f"{split}.npz", images=images, labels=np.arange(40) % classes, classes=list(names))
        rate = {"freeze_backbone": True} if names == "cab" else {"learning_rate": 1e-30}
        second = finish(make_run(names, data_dir=str(more), pretrained=str(first), num_epochs=1, **rate))
        state = read_state(second)["state_dict"]
        weights = {name for name in state if name.endswith(("weight", "bias"))}
        new = {name for name in weights if not torch.equal(state[name], theirs[name])}
        assert new == (set() if names == "012" else {"fc2.weight", "fc2.bias"}), names
    evaluate.main(["--model_dir", str(second), "--split", "val"])


def test_a_resumed_run_needs_the_file_no_more(make_run, tmp_path):
    first = finish(make_run("first", num_epochs=1))
    second = make_run("second", pretrained=str(first), num_epochs=2, checkpoint_minutes=1e-6)

    def interrupt():
        raise KeyboardInterrupt

    with at_log_line("Epoch 2/2", interrupt), pytest.raises(KeyboardInterrupt):
        train.main(["--model_dir", str(second)])
    (first / "best.pth.tar").unlink()
    record = utils.read_json(second / "run.json")["pretrained"]
    assert record["new"] == [] and len(record["sha256"]) == 64
    assert utils.read_json(finish(second) / "run.json")["pretrained"] == record
    assert "there is no such file" in stopped(second, "--restart", exit_code=2)


def of_data(task, data_dir, **values):
    """The hyperparameters of a task with what the data decides."""
    values = {"task": task, "data_dir": str(data_dir), "pretrained": "theirs", **values}
    return fetch_facts(data_dir, fetch_params_class(task).from_values(values, "the test"))


def begin_with_another(first, second):
    """The weights of a net, of another that begins with them, and of this one before; and what is recorded."""
    torch.manual_seed(5)
    theirs = fetch_task(first).Net(first).state_dict()
    before, found, record = initialized(second, pretrained.Source(theirs, "theirs", None, first.facts))
    return theirs, found, before, record


@needs("ner")
def test_words_keep_their_vectors_in_a_run_on_other_sentences(tmp_path, caplog):
    caplog.set_level("INFO")
    runs = []
    for name, sentence, tags in (("one", "alpha beta gamma", "B-X O O"), ("two", "delta gamma alpha", "B-X B-Y O")):
        (tmp_path / name / "train").mkdir(parents=True)
        (tmp_path / name / "train/sentences.txt").write_text(f"{sentence}\n" * 4)
        (tmp_path / name / "train/labels.txt").write_text(f"{tags}\n" * 4)
        runs.append(of_data("ner", tmp_path / name))
    theirs, found, _, record = begin_with_another(*runs)
    pairs = zip(runs, (theirs, found), strict=True)
    old, new = (dict(zip(run.facts["words"], state["embedding.weight"], strict=True)) for run, state in pairs)
    assert new.keys() - old.keys() == {"delta"} and "embedding.weight: 4 of 5 words" in caplog.text
    assert all(torch.equal(new[word], old[word]) for word in new if word != "delta")
    assert torch.equal(theirs["lstm.weight_hh_l0"], found["lstm.weight_hh_l0"])
    assert record["new"] == ["fc.weight", "fc.bias"]


@needs("tabular")
def test_features_keep_their_weights_in_a_run_on_other_columns(tmp_path):
    runs, generator = [], np.random.default_rng(0)
    for columns, classes in (("abc", "xy"), ("dcb", "xyz")):
        rows = [[*generator.random(3).round(3), classes[i % len(classes)]] for i in range(60)]
        write_csv(tmp_path / columns / "data.csv", [[*columns, "kind"], *rows])
        runs.append(of_data("tabular", tmp_path / columns, target="kind"))
    theirs, found, before, _ = begin_with_another(*runs)
    first, second = theirs["linear1.weight"], found["linear1.weight"]
    assert torch.equal(first[:, [2, 1]], second[:, [1, 2]])
    assert torch.equal(before["linear1.weight"][:, 0], second[:, 0])
    assert torch.equal(theirs["linear1.bias"], found["linear1.bias"]) and found["linear2.weight"].shape[0] == 3
    message = refusal(initialized, of_data("tabular", tmp_path / "abc", target="kind", pretrained=True))
    assert "this net has no published weights; name a file or a run's directory" in message


@pytest.mark.slow
def test_timms_net_trains_evaluates_and_is_exported(make_run, tmp_path):
    theirs = pytest.importorskip("timm").create_model("test_resnet").state_dict()
    torch.save(theirs, tmp_path / "theirs.pth")
    values = {"net": "timm/test_resnet", "image_size": 32, "image_channels": 3, "num_epochs": 1}
    run = finish(make_run(pretrained=str(tmp_path / "theirs.pth"), **values))
    assert "new: fc.weight, fc.bias" in (run / "train.log").read_text()
    evaluate.main(["--model_dir", str(run), "--split", "val"])
    export.main(["--model_dir", str(run), "--format", "pt2"])
    assert utils.read_json(run / "best.pt2.json")["verified"]
    message = stopped(run, "--restart", "net=timm/test_resnot", exit_code=2)
    assert "net 'timm/test_resnot': unknown; did you mean timm/test_resnet" in message
