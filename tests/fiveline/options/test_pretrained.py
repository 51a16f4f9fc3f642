"""`pretrained: path`: weights of files and of other runs, the layer that stays new, and what is refused."""

import hashlib
import json
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
from model.vision.net import Net
from model.vision.params import Params
from tests.support.data import refusal
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


def resnet_params(path, **values):
    params = Params(net="resnet18", image_size=32, pretrained=str(path), **values)
    return params.with_facts({"classes": [str(i) for i in range(10)], "class_counts": [1] * 10})


def initialized(params):
    """The net of a new run, and what run.json says of its weights."""
    torch.manual_seed(2)
    model = Net(params)
    head = model.state_dict()["fc.weight"].clone()
    record = pretrained.initialize(model, params, pretrained.read_source(params))
    return model.state_dict(), head, record


def assert_all_but_the_head(state, theirs, head):
    assert torch.equal(state["fc.weight"], head) and state["fc.weight"].shape[0] == 10
    names = [name for name in theirs if not name.startswith("fc.")]
    assert len(names) == 120 and all(torch.equal(state[name], theirs[name]) for name in names)


def test_a_run_begins_with_torchvisions_file_except_for_its_head(resnet, make_run):
    path, theirs = resnet
    values = {"net": "resnet18", "image_channels": 3, "image_size": 32, "num_epochs": 1}
    own = finish(make_run(pretrained=str(path), freeze_backbone=True, **values))
    state, record = read_state(own)["state_dict"], utils.read_json(own / "run.json")
    assert all(torch.equal(state[name], entry) for name, entry in theirs.items() if not name.startswith("fc."))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["pretrained"] == {"source": str(path), "sha256": digest, "new": ["fc.weight", "fc.bias"]}
    line = f"Loaded 120 of 122 tensors from {path}; new: fc.weight, fc.bias"
    assert line in (own / "train.log").read_text()


@pytest.mark.parametrize("kind", ["wrapped", "compiled", "half", "safetensors", "no counters"])
def test_files_of_other_code_give_the_same_bits(resnet, tmp_path, kind):
    state, path = resnet[1], tmp_path / "weights.pt"
    if kind == "safetensors":
        path = tmp_path / "weights.safetensors"
        pytest.importorskip("safetensors.torch").save_file(state, path)
    elif kind == "no counters":
        torch.save({name: entry for name, entry in state.items() if "num_batches" not in name}, path)
    elif kind == "half":
        torch.save({name: entry.bfloat16() for name, entry in state.items()}, path)
        state = {name: entry.bfloat16().to(entry.dtype) for name, entry in state.items()}
    else:
        prefix, key = {"wrapped": ("module.", "model"), "compiled": ("module._orig_mod.", "model_state_dict")}[kind]
        torch.save({key: {prefix + name: entry for name, entry in state.items()}, "epoch": 3}, path)
    found, head, record = initialized(resnet_params(path))
    assert_all_but_the_head(found, state, head)
    assert record["new"] == ["fc.weight", "fc.bias"]


def test_what_is_no_file_of_this_nets_weights_is_refused(resnet, tmp_path):
    path, state = resnet
    files = {name: tmp_path / f"{name}.pth" for name in ("whole", "other", "short", "pickled", "shape", "numbers")}
    torch.save(models.resnet34().state_dict(), files["other"])
    files["short"].write_bytes(path.read_bytes()[:-1000])
    torch.save(torch.nn.Linear(1, 1), files["pickled"])
    torch.save({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, files["shape"])
    torch.save({"epoch": 3, "lr": 0.1}, files["numbers"])
    (tmp_path / "none.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    expected = {
        files["whole"]: "there is no such file",
        files["other"]: 'net than the params describe: Unexpected key(s) in state_dict: "layer1.2.conv1.weight"',
        files["short"]: "damaged (its checksum does not fit its ",
        files["pickled"]: "refused, it holds more than tensors and plain values: torch.nn.modules.linear.Linear",
        files["shape"]: "size mismatch for conv1.weight: copying a param with shape torch.Size([64, 1, 7, 7])",
        files[
            "numbers"
        ]: "expected tensors by name, alone or under state_dict, model, model_state_dict; found epoch (int)",
        tmp_path: "best.pth.tar: there is no such file",
    }
    for place, message in expected.items():
        found = refusal(initialized, resnet_params(place))
        assert found.startswith(f"pretrained: {place}") and message in found, found


def test_a_run_begins_with_another_run_of_other_classes(make_run, tmp_path):
    first = finish(make_run("first", num_epochs=1))
    theirs = read_state(first, "best")["state_dict"]
    with np.load(tmp_path / "data/train.npz") as arrays:
        whole = dict(arrays)
    more = tmp_path / "more"
    more.mkdir()
    for names, classes in (("abcd", 4), ("cab", 3), ("012", 3)):  # another number; another order; the same
        labels = np.arange(40) % classes
        for split in ("train", "val"):
            np.savez(more / f"{split}.npz", images=whole["images"], labels=labels, classes=list(names))
        rate = {"freeze_backbone": True} if names == "cab" else {"learning_rate": 1e-30}
        second = finish(make_run(names, data_dir=str(more), pretrained=str(first), num_epochs=1, **rate))
        state = read_state(second)["state_dict"]
        same = {name for name in state if name.endswith(("weight", "bias")) and torch.equal(state[name], theirs[name])}
        new = {name for name in state if name.endswith(("weight", "bias"))} - same
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
    finish(second)
    assert utils.read_json(second / "run.json")["pretrained"] == record
    assert "there is no such file" in stopped(second, "--restart", exit_code=2)


@needs("ner")
def test_words_keep_their_vectors_in_a_run_on_other_sentences(tmp_path):
    words = {"one": ("alpha beta gamma", "B-X O O"), "two": ("delta gamma alpha", "B-X B-Y O")}
    runs = []
    for name, (sentence, tags) in words.items():
        for split in ("train", "val"):
            folder = tmp_path / f"data_{name}" / split
            folder.mkdir(parents=True)
            (folder / "sentences.txt").write_text(f"{sentence}\n" * 4)
            (folder / "labels.txt").write_text(f"{tags}\n" * 4)
        values = {"task": "ner", "data_dir": str(tmp_path / f"data_{name}"), "num_epochs": 1, "learning_rate": 1e-30}
        values |= {"pretrained": str(tmp_path / "one")} if runs else {}
        (tmp_path / name).mkdir()
        (tmp_path / name / "params.json").write_text(json.dumps(values))
        finish(tmp_path / name)
        runs.append(read_state(tmp_path / name))
    one, two = runs
    vectors = [dict(zip(each["facts"]["words"], each["state_dict"]["embedding.weight"], strict=True)) for each in runs]
    for word in vectors[1]:
        is_known = word in vectors[0]
        assert is_known == (word != "delta")
        assert not is_known or torch.equal(vectors[0][word], vectors[1][word])
    assert torch.equal(one["state_dict"]["lstm.weight_hh_l0"], two["state_dict"]["lstm.weight_hh_l0"])
    assert utils.read_json(tmp_path / "two/run.json")["pretrained"]["new"] == ["fc.weight", "fc.bias"]
    assert "embedding.weight: 4 of 5 words" in (tmp_path / "two/train.log").read_text()


@needs("tabular")
def test_features_keep_their_weights_in_a_run_on_other_columns(tmp_path):
    generator = np.random.default_rng(0)
    states = []
    for name, columns, classes in (("one", "abc", "xy"), ("two", "dcb", "xyz")):
        folder = tmp_path / f"data_{name}"
        folder.mkdir()
        rows = [[*generator.random(3).round(3).tolist(), classes[i % len(classes)]] for i in range(60)]
        lines = [",".join([*columns, "kind"]), *(",".join(map(str, row)) for row in rows)]
        (folder / "data.csv").write_text("\n".join(lines))
        values = {"task": "tabular", "target": "kind", "data_dir": str(folder), "num_epochs": 1, "learning_rate": 1e-30}
        values |= {"pretrained": str(tmp_path / "one"), "seed": 7} if states else {}
        (tmp_path / name).mkdir()
        (tmp_path / name / "params.json").write_text(json.dumps(values))
        finish(tmp_path / name)
        states.append(read_state(tmp_path / name)["state_dict"])
    first, second = states[0]["linear1.weight"], states[1]["linear1.weight"]
    assert torch.equal(first[:, [2, 1]], second[:, [1, 2]]) and not torch.equal(first[:, 0], second[:, 0])
    assert torch.equal(states[0]["linear1.bias"], states[1]["linear1.bias"])
    assert states[1]["linear2.weight"].shape[0] == 3
    message = stopped(tmp_path / "two", "--restart", "pretrained=true", exit_code=2)
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


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    for name in ("timm", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    params = Params(net="timm/resnet10t").with_facts({"classes": ["a", "b"]})
    assert refusal(Net, params).endswith("timm is not installed; pip install timm")
    (tmp_path / "x.safetensors").touch()
    assert refusal(initialized, resnet_params(tmp_path / "x.safetensors")).endswith("pip install safetensors")
