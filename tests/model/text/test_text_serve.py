"""A language model and a text classifier from training to every script that comes after it."""

import csv
import json
import math
import shutil

import pytest
import torch

import evaluate
import export
import predict
import synthesize_results
import train
import utils

TEXT = "the cat sat on the mat and the dog sat on the log\n" * 40
SMALL = {"task": "text", "context_length": 16, "num_layers": 1, "num_heads": 2, "width": 16, "num_epochs": 1}


def trained(folder, data, **values):
    run = folder / "run"
    run.mkdir()
    (run / "params.json").write_text(json.dumps({**SMALL, "data_dir": str(data), **values}))
    train.main(["--model_dir", str(run)])
    return run


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("next")
    for split in ("train", "val", "test"):
        (folder / f"{split}.txt").write_text(TEXT)
    return trained(folder, folder, tokens_per_epoch=20_000, learning_rate=1e-2)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label")
    for split in ("train", "val", "test"):
        rows = [(f"cats {i} like dogs", "cat") for i in range(40)] + [(f"dogs {i} like cats", "dog") for i in range(40)]
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    return trained(folder, folder, target="label", monitor="macro_f1", num_epochs=4, context_length=32)


@pytest.fixture(scope="module")
def model_of_pieces(tmp_path_factory, language_model):
    tokenizers = pytest.importorskip("tokenizers", reason="pip install tokenizers, which is optional")
    folder, data = tmp_path_factory.mktemp("pieces"), language_model.parent
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train([str(data / "train.txt")], vocab_size=290)
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {"tokens": "pieces", "tokenizer_file": str(folder / "tokenizer.json"), "learning_rate": 1e-2}
    return trained(folder, data, tokens_per_epoch=20_000, **values)


def generated(run, folder, capsys, prompt, *flags):
    (folder / "prompt.txt").write_text(prompt)
    predict.main(["--model_dir", str(run), "--input", str(folder / "prompt.txt"), *flags])
    return capsys.readouterr().out


def test_predict_continues_a_prompt(language_model, tmp_path, capsys):
    text = generated(language_model, tmp_path, capsys, "the cat ", "--max_new_tokens", "40", "--temperature", "0")
    assert text.startswith("the cat ") and len(text) == len("the cat ") + 40 + 1
    words = text.split()
    assert sum(word in TEXT.split() for word in words) > len(words) / 2
    one, same, other = (
        generated(language_model, tmp_path, capsys, "the ", "--temperature", "2", "--seed", seed) for seed in "112"
    )
    assert one == same != other


def test_predict_writes_continuations_into_a_file(language_model, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    generated(language_model, tmp_path, capsys, "the ", "--max_new_tokens", "5", "--output", str(output))
    row = json.loads(output.read_text())
    assert row["prompt"] == "the " and len(row["prediction"]) == 5


def test_pieces_are_scored_by_byte_generate_and_continue(model_of_pieces, tmp_path, capsys):
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(model_of_pieces.parent / "tokenizer.json"))
    pieces = tokenizer.encode(TEXT).ids
    metrics = utils.read_json(model_of_pieces / "metrics_val_best_weights.json")
    num_bytes = len(TEXT.encode()) - len(tokenizer.decode(pieces[:1]).encode())  # the first piece is not predicted
    bits = metrics["loss"] * (len(pieces) - 1) / math.log(2)
    assert metrics["bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-5) and len(pieces) < num_bytes / 2
    run = tmp_path / "run"
    shutil.copytree(model_of_pieces, run)
    train.main(["--model_dir", str(run), "num_epochs=2"])
    after = utils.read_json(run / "metrics_val_best_weights.json")
    assert after["bits_per_byte"] < metrics["bits_per_byte"]
    (model_of_pieces.parent / "tokenizer.json").rename(tmp_path / "elsewhere.json")  # the checkpoint holds it
    capsys.readouterr()
    text = generated(run, tmp_path, capsys, "the cat", "--max_new_tokens", "20", "--temperature", "0")
    (tmp_path / "elsewhere.json").rename(model_of_pieces.parent / "tokenizer.json")
    words = text.split()
    assert text.startswith("the cat") and sum(word in TEXT.split() for word in words) > len(words) / 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--top_k", "0"], "--top_k 0: expected 1 or more"), (["--temperature", "-1"], "expected 0 or more")],
)
def test_mistakes_in_the_settings_of_generation(language_model, tmp_path, capsys, flags, message):
    with pytest.raises(utils.InputError, match=message):
        generated(language_model, tmp_path, capsys, "the ", *flags)
    with pytest.raises(utils.InputError, match="the prompt is empty"):
        generated(language_model, tmp_path, capsys, "")


def test_predict_labels_lines(classifier, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("cats 7 like dogs\n\ndogs 8 like cats\n")
    with pytest.raises(utils.Stop, match="1 of 3 inputs are broken"):
        predict.main(["--model_dir", str(classifier), "--input", str(tmp_path / "lines.txt"), "--probabilities"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["text"] for row in rows] == ["cats 7 like dogs", "", "dogs 8 like cats"]
    assert float(rows[0]["probability_cat"]) + float(rows[0]["probability_dog"]) == pytest.approx(1)
    with pytest.raises(utils.InputError, match="generates nothing; leave the flag out"):
        generated(classifier, tmp_path, capsys, "cats", "--top_k", "3")


def test_a_run_begins_with_the_weights_of_a_file_as_hugging_face_writes_it(language_model, tmp_path):
    from safetensors.torch import save_file

    weights = utils.read_checkpoint(language_model / "best.pth.tar")["state_dict"]
    is_conv1d = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    published = {name: w.T.contiguous() if name.endswith(is_conv1d) else w for name, w in weights.items()}
    save_file(
        {**published, "lm_head.weight": weights["transformer.wte.weight"].clone()}, tmp_path / "model.safetensors"
    )
    values = {"pretrained": str(tmp_path / "model.safetensors"), "learning_rate": 1e-9, "tokens_per_epoch": 100}
    run = trained(tmp_path, language_model.parent, **values)
    found, expected = (utils.read_json(each / "metrics_val_best_weights.json") for each in (run, language_model))
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_run_counted_in_steps_continues_to_the_same_bits(language_model, tmp_path):
    values = {"evaluate_every_steps": 3, "warmup_steps": 4, "batch_size": 4, "optimizer": "muon", "decay_all": False}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        whole = trained(tmp_path / name, language_model.parent, **values, num_steps=3 if name == "stopped" else 6)
    history = [json.loads(line) for line in (tmp_path / "whole/run/history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [1, 2]
    train.main(["--model_dir", str(whole), "num_steps=6"])
    states = [
        utils.read_checkpoint(tmp_path / name / "run/last.pth.tar")["state_dict"] for name in ("whole", "stopped")
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    with pytest.raises(utils.InputError, match="expected a multiple of evaluate_every_steps"):
        train.main(["--model_dir", str(whole), "num_steps=7"])


@pytest.mark.slow
@pytest.mark.parametrize("run", ["language_model", "model_of_pieces", "classifier"])
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_exported_programs_agree(run, kind, request):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    folder = request.getfixturevalue(run)
    export.main(["--model_dir", str(folder), "--format", kind])
    assert (folder / f"best.{kind}").exists()


@pytest.mark.parametrize("run", ["language_model", "classifier"])
def test_the_page_shows_the_worst_predictions(run, request):
    folder = request.getfixturevalue(run)
    evaluate.main(["--model_dir", str(folder)])
    rows = list(csv.DictReader((folder / "predictions_test_best.csv").open(newline="", encoding="utf-8")))
    synthesize_results.main(["--parent_dir", str(folder.parent), "--html"])
    page = (folder.parent / "results.html").read_text(encoding="utf-8")
    if run == "language_model":
        assert all("⟧ predicted ⟦" in row["worst"] and float(row["worst_loss"]) > 0 for row in rows)
        assert "sat␣on" in rows[0]["label"].replace(" ", "") and "⟧ predicted ⟦" in page
    else:
        assert {row["label"] for row in rows} == {"cat", "dog"}
