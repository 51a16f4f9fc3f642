"""A language model and a text classifier from training to every script that comes after it."""

import csv
import io
import json
import math
import sys
from itertools import pairwise

import pytest

import evaluate
import export
import fiveline
import predict
import synthesize_results
import utils
from tests.support.data import read_csv, write_csv
from tests.support.runs import assert_same_bits, finish, read_state, write_params

TEXT = "the cat sat on the mat and the dög sat on the log\n" * 40
SMALL = {"task": "text", "context_length": 16, "num_layers": 1, "num_heads": 2, "width": 16, "num_epochs": 1}


def trained(folder, data, *words, **values):
    return finish(write_params(folder / "run", **{**SMALL, "data_dir": str(data), **values}), *words)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("next")
    for split in ("train", "val", "test"):
        (folder / f"{split}.txt").write_text(TEXT, encoding="utf-8")
    return trained(folder, folder, tokens_per_epoch=20_000, learning_rate=1e-2)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label")
    rows = [(f"{a}s {i} like {b}s", a) for i in range(40) for a, b in (("cat", "dog"), ("dog", "cat"))]
    for split in ("train", "val", "test"):
        write_csv(folder / f"{split}.csv", [("text", "label"), *rows])
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


def test_predict_continues_a_prompt(language_model, tmp_path, capsys, monkeypatch):
    flags = "--max_new_tokens", "40", "--temperature", "0"
    text = generated(language_model, tmp_path, capsys, "the cat ", *flags)
    assert text.startswith("the cat ") and len(text) == len("the cat ") + 40 + 1
    assert sum(word in TEXT.split() for word in text.split()) > len(text.split()) / 2
    shown = []
    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "isatty", lambda: True)
        patch.setattr(sys.stdout, "flush", lambda: shown.append(len(sys.stdout.getvalue())))
        assert generated(language_model, tmp_path, capsys, "the cat ", *flags) == text
    assert [after - before for before, after in pairwise(shown)].count(1) == 40 + 1, "not character by character"
    one, same, other = (
        generated(language_model, tmp_path, capsys, "the ", "--temperature", "2", "--seed", seed) for seed in "112"
    )
    assert one == same != other
    generated(language_model, tmp_path, capsys, "the ", "--max_new_tokens", "5", "--output", str(tmp_path / "o.jsonl"))
    row = json.loads((tmp_path / "o.jsonl").read_text())
    assert row["prompt"] == "the " and len(row["prediction"]) == 5
    (row,) = fiveline.load(language_model).predict(tmp_path / "prompt.txt")
    assert row["prompt"] == "the " and len(row["prediction"]) == 200


def test_mistakes_in_the_settings_of_generation(language_model, tmp_path, capsys):
    mistakes = {
        "--top_k 0": "expected 1 or more",
        "--temperature -1": "expected 0 or more",
        "--probabilities": "classes",
    }
    for words, message in mistakes.items():
        with pytest.raises(utils.InputError, match=message):
            generated(language_model, tmp_path, capsys, "the ", *words.split())
    with pytest.raises(utils.InputError, match=r"prompt.txt: the prompt is empty"):
        generated(language_model, tmp_path, capsys, "")
    extremes = [generated(language_model, tmp_path, capsys, "the ", *words) for words in (
        ("--temperature", "1e-40"), ("--temperature", "0"), ("--temperature", "0", "--seed", str(2**64)),
    )]  # fmt: skip
    assert len(set(extremes)) == 1


def test_a_prompt_comes_from_standard_input_as_from_a_file(language_model, tmp_path, capsys, monkeypatch):
    def typed(data, *inputs):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape"))
        predict.main(["--model_dir", str(language_model), "--input", *inputs, "--temperature", "0"])
        return capsys.readouterr().out

    assert typed(b"\xef\xbb\xbfthe\r\ncat", "-") == generated(
        language_model, tmp_path, capsys, "the\r\ncat", "--temperature", "0"
    )
    for data, inputs, message in ((b"the \xff", "-", "-: not a UTF-8 text"), (b"the", "--", "only once")):
        with pytest.raises(utils.InputError, match=message):
            typed(data, *inputs)


def test_pieces_are_scored_by_byte_and_generate(model_of_pieces, tmp_path, capsys):
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(model_of_pieces.parent / "tokenizer.json"))
    pieces = tokenizer.encode(TEXT).ids
    metrics = utils.read_json(model_of_pieces / "metrics_val_best_weights.json")
    num_bytes = len(TEXT.encode()) - len(tokenizer.decode(pieces[:1]).encode())  # the first piece is not predicted
    bits = metrics["loss"] * (len(pieces) - 1) / math.log(2)
    assert metrics["bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-5) and len(pieces) < num_bytes / 2
    (model_of_pieces.parent / "tokenizer.json").rename(tmp_path / "elsewhere.json")  # the checkpoint holds it
    text = generated(model_of_pieces, tmp_path, capsys, "the cat", "--max_new_tokens", "20", "--temperature", "0")
    (tmp_path / "elsewhere.json").rename(model_of_pieces.parent / "tokenizer.json")
    assert text.startswith("the cat") and sum(word in TEXT.split() for word in text.split()) > len(text.split()) / 2


def test_predict_labels_lines(classifier, tmp_path, capsys):
    with pytest.raises(utils.Stop, match="1 of 3 inputs are broken"):
        generated(classifier, tmp_path, capsys, "cats 7 like dogs\n\ndogs 8 like cats\n", "--probabilities")
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["text"] for row in rows] == ["cats 7 like dogs", "", "dogs 8 like cats"]
    assert float(rows[0]["probability_cat"]) + float(rows[0]["probability_dog"]) == pytest.approx(1)
    path = tmp_path / "new.jsonl"
    path.write_text('{"text": "cats 7"}\nbroken\n{"text": "dogs 8"}\n')
    with pytest.raises(utils.Stop, match="1 of 3 inputs are broken"):
        predict.main(["--model_dir", str(classifier), "--input", str(path)])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["text"] for row in rows] == ["cats 7", "", "dogs 8"]
    assert rows[1]["error"].startswith(f"{path}:2: expected a row of a .jsonl file")
    with pytest.raises(utils.InputError, match="generates no text; leave the flag out"):
        generated(classifier, tmp_path, capsys, "cats", "--top_k", "3")


def test_a_run_counted_in_steps_continues_to_the_same_bits(language_model, tmp_path):
    values = {"evaluate_every_steps": 3, "warmup_steps": 4, "batch_size": 4, "optimizer": "muon", "decay_all": False}
    whole = trained(tmp_path / "whole", language_model.parent, **values, num_steps=6)
    stopped = trained(tmp_path / "stopped", language_model.parent, **values, num_steps=3)
    assert [row["epoch"] for row in utils.read_lines(whole / "history.jsonl")] == [1, 2]
    finish(stopped, "num_steps=6")
    assert_same_bits(read_state(whole)["state_dict"], read_state(stopped)["state_dict"])
    with pytest.raises(utils.InputError, match="expected a multiple of evaluate_every_steps"):
        finish(whole, "num_steps=7")


def test_a_start_that_cannot_be_meant_is_warned_of(language_model, tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text(TEXT.replace("a", "z"), encoding="utf-8")
    run = trained(tmp_path, tmp_path, "--restore_file", str(language_model / "best.pth.tar"), warmup_epochs=2)
    log = (run / "train.log").read_text(encoding="utf-8")
    assert "the checkpoint was trained with other characters; --restart and pretrained=" in log
    assert "the learning rate stays below learning_rate=0.001" in log


@pytest.mark.slow
@pytest.mark.parametrize("run", ["language_model", "model_of_pieces", "classifier"])
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_exported_programs_agree(run, kind, request):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    folder = request.getfixturevalue(run)
    export.main(["--model_dir", str(folder), "--format", kind])
    assert (folder / f"best.{kind}").exists()


def test_the_page_shows_the_worst_predictions(language_model, classifier):
    for run in (language_model, classifier):
        evaluate.main(["--model_dir", str(run)])
    rows = read_csv(language_model / "predictions_test_best.csv")
    synthesize_results.main(["--parent_dir", str(language_model.parent), "--html"])
    assert all("⟧ predicted ⟦" in row["worst"] and float(row["worst_loss"]) > 0 for row in rows)
    assert "sat␣on" in rows[0]["label"].replace(" ", "")
    assert "⟧ predicted ⟦" in (language_model.parent / "results.html").read_text(encoding="utf-8")
    assert {row["label"] for row in read_csv(classifier / "predictions_test_best.csv")} == {"cat", "dog"}
