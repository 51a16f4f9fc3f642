"""Predictions agree with evaluation, for any number of inputs, and whatever is wrong with some of them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import fiveline
import predict
import utils
from fiveline.device import count_batches
from fiveline.loader import fetch_dataloader
from fiveline.serving.output import margin, rounded, to_lines
from tests.support.data import read_csv, refusal, write_csv
from tests.support.photos import make_folders
from tests.support.runs import finish, stopped, write_params
from tests.support.tasks import PROJECT, SHIPPED, needs

pytestmark = needs(*SHIPPED)
NER = PROJECT / "data/ner_small"
RUNS = {
    "vision": {
        "image_size": 12, "num_channels": 4, "normalize": "train", "batch_size": 16, "shift": 1, "cache": "memory",
        "learning_rate": 0.02,
    },
    "ner": {
        "task": "ner", "data_dir": str(NER), "batch_size": 67, "embedding_dim": 12,
        "lstm_hidden_dim": 12, "bidirectional": True, "char_channels": 6, "word_dropout_rate": 0.1,
    },
    "number": {
        "task": "tabular", "target": "price", "target_type": "number", "id_column": "name", "batch_size": 16,
    },
}  # fmt: skip
INPUTS = {"vision": "vision_data/test", "ner": NER / "test/sentences.txt", "number": "number_data/test.csv"}
COLUMNS = {
    "vision": ["prediction", "confidence"], "ner": ["tokens", "prediction", "confidence"],
    "number": ["prediction", "lower", "upper"],
}  # fmt: skip
DRAW = np.random.default_rng(0)


def write_images(folder):
    """Three classes, each brighter than the one before, with 11 images in each split."""
    lowest = iter(np.tile(np.repeat(np.uint8([0, 80, 160]), 11), 3))
    make_folders(folder, dict.fromkeys("012", 11), lambda: DRAW.integers(0, 90, (9, 14, 3), np.uint8) + next(lowest))


def write_rows(folder):
    """Rows with numbers that are missing, a column of names, and one that names the row."""
    for split, number in {"train": 80, "val": 20, "test": 33}.items():
        rows = [["name", "size", "port", "weight", "price"]]
        for i, (size, weight, noise) in enumerate(DRAW.normal(5, 2, (number, 3)).round(3)):
            port, weight = ["Cork", "Lima", "Oslo", "NA"][i % 4], "" if i % 7 == 3 else weight
            rows.append([f"{split}_{i}", size, port, weight, round(3 * size + 10 * (port == "Lima") + noise, 3)])
        write_csv(folder / f"{split}.csv", rows)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each kind, trained for one epoch and evaluated on its test split."""
    folder = tmp_path_factory.mktemp("predict")
    for name, params in RUNS.items():
        data_dir = folder / f"{name}_data"
        data_dir.mkdir()
        {"vision": write_images, "number": write_rows}.get(name, lambda _: None)(data_dir)
        finish(write_params(folder / name, **{"num_epochs": 1, "data_dir": str(data_dir), **params}))
        evaluate.main(["--model_dir", str(folder / name)])
    return folder


def evaluated(run, column="prediction"):
    return [row[column] for row in read_csv(run / "predictions_test_best.csv")]


def run_predict(model_dir, *words, exit_code=0):
    """Call the script as the shell does; return the rows of its --output, or the message of a mistake."""
    output = model_dir.parent / "predictions.csv"
    output.unlink(missing_ok=True)
    if exit_code == 0:
        predict.main(["--model_dir", str(model_dir), "--output", str(output), *map(str, words)])
    else:
        message = stopped(model_dir, "--output", output, *words, exit_code=exit_code, main=predict.main)
        if exit_code == 2:
            assert not output.exists()
            return message
        assert "inputs are broken; see `error` in their rows" in message
    return read_csv(output)


@pytest.mark.parametrize("name", RUNS)
def test_predictions_on_the_test_split_are_evaluations_to_the_bit_in_the_same_batches(runs, name):
    expected = read_csv(runs / name / "predictions_test_best.csv")
    size, remainder = divmod(len(expected), count_batches(len(expected), RUNS[name]["batch_size"]))
    rows = run_predict(runs / name, "--input", runs / INPUTS[name], "--batch_size", size)
    assert len(rows) == len(expected) > 2 * RUNS[name]["batch_size"] and remainder == 0
    assert list(rows[0]) == ["id", *COLUMNS[name], "error"]
    for row, other in zip(rows, expected, strict=True):
        assert row["id"].endswith(other["id"]) and not row["error"] and row["prediction"] == other["prediction"]
        if "confidence" in row:  # predict.py writes 6 digits
            assert row["confidence"] == str(min(float(f"{float(other['confidence']):.6g}"), 0.999999))


@pytest.mark.parametrize("name", RUNS)
def test_rows_hardly_depend_on_the_batch_size_and_json_lines_and_python_have_the_same(runs, name, capsys):
    output, path = runs / "predictions.jsonl", str(runs / INPUTS[name])
    predict.main(["--model_dir", str(runs / name), "--input", path, "--output", str(output), "--batch_size", "1"])
    rows, said = utils.read_lines(output), capsys.readouterr()
    assert said.out == "" and f"- wrote {output} ({len(rows)} rows)\n" in said.err
    for row, other in zip(fiveline.load(runs / name).predict(path), rows, strict=True):
        assert list(row) == list(other) == ["id", *COLUMNS[name]]  # nothing that is empty
        assert row == pytest.approx(other, abs=1e-4 if name == "number" else 2e-6)
    if name == "ner":
        assert [row["tokens"] for row in rows] == INPUTS["ner"].read_text("utf-8").splitlines()


def test_the_target_is_not_needed_nor_is_any_column_that_the_net_does_not_see(runs, tmp_path):
    path, names = tmp_path / "new.csv", ["comment", "port", "size", "weight"]
    rows = [{**row, "comment": 'bought in "May",\nas it seems'} for row in read_csv(runs / INPUTS["number"])]
    write_csv(path, [names, *([row[name] for name in names] for row in rows)])
    rows = run_predict(runs / "number", "--input", path)
    assert [row["prediction"] for row in rows] == evaluated(runs / "number")
    assert [row["id"] for row in rows[:2]] == [f"{path}:1", f"{path}:2"]


@pytest.mark.parametrize("name", ["vision", "ner"])
def test_probabilities_of_each_class_are_those_of_the_net(runs, name):
    rows, run = run_predict(runs / name, "--input", runs / INPUTS[name], "--probabilities"), fiveline.load(runs / name)
    names = [column.removeprefix("probability_") for column in rows[0] if column.startswith("probability_")]
    assert names == run.params.facts.get("tags", run.classes)
    expected = []
    with torch.no_grad():
        for inputs, labels in fetch_dataloader("test", Path(run.params.data_dir), run.params):
            probabilities = zip(run.model(inputs).softmax(dim=-1), labels, strict=True)
            expected += [each[label != -100].reshape(-1, len(names)) for each, label in probabilities]
    for row, probabilities in zip(rows, expected, strict=True):
        ours = np.array([[float(text) for text in row[f"probability_{each}"].split(" ")] for each in names]).T
        assert ours == pytest.approx(probabilities.numpy(), rel=1e-4, abs=1e-6)
        assert [names[i] for i in ours.argmax(axis=1)] == row["prediction"].split(" ")
        assert float(row["confidence"]) == pytest.approx(ours.max(axis=1).mean(), abs=1e-5)


def test_rows_as_csv_and_json_lines():
    """Probabilities have six digits, and never become certain."""
    values = [0.5, 1.0, 0.0, 0.9999997, 0.123456789, 1.23456789e-9, [0.9999999, 0.25]]
    found = [rounded({"prediction": 0.123456789, "probability_a": value}) for value in values]
    texts = ["0.5", "1.0", "0.0", "0.999999", "0.123457", "1.23457e-09", "0.999999 0.25"]
    assert [(row["prediction"], str(row["probability_a"])) for row in found] == [(0.123456789, text) for text in texts]
    rows = [{"id": "a", "error": "x"}, {"id": "b", "prediction": "cat", "confidence": 0.5}, {"id": "c", "error": "y"}]
    assert "".join(to_lines(rows, ".csv")) == "id,prediction,confidence,error\na,,,x\nb,cat,0.5,\nc,,,y\n"
    assert "".join(to_lines(rows[:1], ".csv")) == "id,prediction,error\na,,x\n"
    rows = [{"id": name} for name in ("line\nend", "\udcff", "é")]
    assert [json.loads(line) for line in to_lines(rows, ".jsonl")] == rows


# --- in Python


def layers(run):
    return {line.split()[0]: re.split(r"  +", line) for line in str(run).splitlines()[3:-1]}


def test_print_shows_layers_shapes_weights_and_memory(runs):
    run = fiveline.load(runs / "vision")
    printed, rows = str(run), layers(run)
    assert rows["conv1"] == ["conv1", "Conv2d", "(1, 4, 12, 12)", "112"]  # 4 filters of 3 x 3 x 3, and 4 biases
    assert rows["fc2"] == ["fc2", "Linear", "(1, 3)", "51"]
    number = sum(each.numel() for each in run.model.parameters())
    assert sum(int(row[-1].replace(",", "")) for row in rows.values()) == number
    assert f"{number:,} weights, {4 * number / 1e6:.2f} MB" in printed
    assert printed.startswith(f"{run.path}, task vision, on ")
    assert not any(module._forward_hooks for module in run.model.modules()) and not run.model.training
    run.params = run.params.model_copy(update={"data_dir": "gone"})  # then the shapes are not known
    assert layers(run)["conv1"] == ["conv1", "Conv2d", "112"]


def test_a_batch_is_predicted_as_its_rows(runs, tmp_path):
    run = fiveline.load(str(runs / "vision"), "last", device="cpu")
    assert run.path == runs / "vision/last.pth.tar" and run.classes == ["0", "1", "2"] and run.params.batch_size == 16
    inputs, _ = next(iter(fetch_dataloader("test", runs / "vision_data", run.params)))
    rows, outputs = run.predict(inputs), run.model(inputs).softmax(dim=1)
    assert [run.classes.index(row["prediction"]) for row in rows] == outputs.argmax(dim=1).tolist()
    assert [row["confidence"] for row in rows] == pytest.approx(outputs.max(dim=1).values.tolist(), abs=1e-6)
    assert "cat.jpg: there is no such file or folder" in refusal(run.predict, "cat.jpg")
    assert "there is no such checkpoint" in refusal(fiveline.load, tmp_path / "nix")


# --- broken inputs


def test_an_image_that_cannot_be_read_is_reported_in_its_row_and_the_rest_is_predicted(runs, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(runs / INPUTS["vision"], folder)
    for name in ("0/aaa.png", "1/truncated.png", "notes.txt", ".hidden.png"):
        (folder / name).write_bytes((folder / "1/3.png").read_bytes()[:200])
    rows = run_predict(runs / "vision", "--input", folder, folder / "notes.txt", exit_code=1)
    broken = [row["id"] for row in rows if "not a readable image" in row["error"] and not row["prediction"]]
    assert broken == [str(folder / name) for name in ("0/aaa.png", "1/truncated.png", "notes.txt")]
    assert [row["prediction"] for row in rows if not row["error"]] == evaluated(runs / "vision")


def test_broken_sentences_are_reported_in_their_rows(runs, tmp_path):
    path, columns = tmp_path / "sentences.txt", tmp_path / "new.conll"
    path.write_bytes("\ufeffShe moved to  Lima .\r\n\n   \nNo one came .\n".encode() + b"caf\xe9 is closed\nlast one")
    columns.write_text("New York\tB-LOC\n")
    *rows, last = run_predict(runs / "ner", "--input", path, columns, exit_code=1)
    assert [row["id"] for row in rows] == [f"{path}:{i}" for i in range(1, 7)]
    assert [bool(row["error"]) for row in rows] == [False, True, True, False, True, False]
    assert [len(row["prediction"].split()) for row in rows] == [5, 0, 0, 4, 0, 2]
    assert last["tokens"] == "New\u00a0York" and len(last["prediction"].split(" ")) == 1


def test_broken_rows_and_tables_are_reported_in_their_rows(runs, tmp_path):
    first = "name,size,port,weight\na,4.5,Cork,2\nb,large,Cork,2\ne,4.5,Atlantis,\n"
    texts = (first, "size\n1\n", "size,weight,port\n4.5,2,Cork\n")
    paths = [tmp_path / f"{number}.csv" for number in range(3)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    rows = run_predict(runs / "number", "--input", *paths, tmp_path, exit_code=1)
    assert [row["id"] for row in rows] == ["a", "b", "e", str(paths[1]), f"{paths[2]}:1", str(tmp_path)]
    errors = {1: "row 2 (line 3), column 'size': found 'large', expected", 3: "no column", 5: "Is a directory"}
    for place, row in enumerate(rows):
        assert errors.get(place, "") in row["error"]
        assert bool(row["error"]) == (place in errors) != bool(row["prediction"])
    assert rows[0]["prediction"] == rows[4]["prediction"]


# --- mistakes in the arguments


def test_mistakes_are_reported_and_no_output_is_touched(runs, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    rows = tmp_path / "rows.csv"
    shutil.copyfile(runs / INPUTS["number"], rows)
    (tmp_path / "again.csv").symlink_to(rows)
    before, inputs = rows.read_bytes(), {name: runs / path for name, path in INPUTS.items()}
    for name, words, message in (
        ("ner", [tmp_path / "nope"], "there is no such file or folder"),
        ("vision", [tmp_path / "empty"], "nothing in it"),
        ("ner", [inputs["ner"], "--batch_size", 0], "batch_size"),
        ("number", [inputs["number"], "--probabilities"], "this run predicts a number, not classes"),
        ("vision", [inputs["vision"], "-"], "--input -: vision does not read standard input; name files or folders"),
        ("ner", [".", "--output", tmp_path / "table.xlsx"], ".csv or .jsonl"),
        ("ner", [".", "--output", tmp_path / f"{'n' * 250}.csv"], "cannot be written (File name too long)"),
        ("number", [rows, "--output", rows], "it is also an --input"),
        ("number", [rows, "--output", tmp_path / "again.csv"], "it is also an --input"),
    ):
        assert message in run_predict(runs / name, "--input", *words, exit_code=2)
    assert rows.read_bytes() == before
    with monkeypatch.context() as patch:  # an older output stays until the new one is complete
        patch.setattr("model.tabular.serve.predictions", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict.main(["--model_dir", str(runs / "number"), "--input", str(inputs["number"]), "--output", str(rows)])
    assert rows.read_bytes() == before and len(list(tmp_path.iterdir())) == 3
    for name, words in (("probabilities", ["--probabilities"]), ("fetch_unlabelled", [])):
        monkeypatch.delattr(f"model.vision.serve.{name}")
        message = run_predict(runs / "vision", "--input", inputs["vision"], *words, exit_code=2)
        assert f"model/vision/serve.py has no {name}(" in message


# --- any number of inputs


@pytest.mark.slow
def test_predictions_come_while_standard_input_is_still_open(runs):
    command = [sys.executable, "predict.py", "--model_dir", str(runs / "ner"), "--input", "-", "--batch_size", "4"]
    process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write("She moved to Lima .\n" * 6)
    process.stdin.flush()
    lines = [process.stdout.readline() for _ in range(5)]
    assert lines[0].startswith("id,tokens,prediction") and lines[4].startswith("-:4,")
    rest, _ = process.communicate("And stayed .\n")
    assert [line.split(",")[0] for line in rest.splitlines()] == ["-:5", "-:6", "-:7"] and process.returncode == 0


# --- numbers and their intervals


def test_intervals_hold_what_they_say_on_new_examples():
    draw = np.random.default_rng(1).standard_t
    coverages = [np.mean(abs(draw(3, size=200)) <= margin(abs(draw(3, size=60)).tolist())) for _ in range(400)]
    # exactly ceil(0.9 * 61) / 61, and the mean of 400 trials has a standard error of about 0.002
    assert np.mean(coverages) == pytest.approx(55 / 61, abs=0.01)
    assert margin([1.0] * 8) is None and margin(list(range(9))) == 8  # eight are too few to say so


def test_intervals_are_there_once_the_checkpoint_has_been_evaluated(runs, tmp_path, capsys):
    words, copy = ["--input", runs / INPUTS["number"]], tmp_path / "copy"
    rows, labels = run_predict(runs / "number", *words), map(float, evaluated(runs / "number", "label"))
    inside = [float(row["lower"]) <= label <= float(row["upper"]) for row, label in zip(rows, labels, strict=True)]
    assert sum(inside) >= 0.9 * len(inside) and "no intervals" not in capsys.readouterr().err
    shutil.copytree(runs / "number", copy)
    os.utime(copy / "predictions_test_best.csv", (0, 0))  # times say nothing: whoever copies may keep them, or not
    assert run_predict(copy, *words) == rows
    state = utils.read_checkpoint(copy / "best.pth.tar")
    utils.write_checkpoint({**state, "epoch": 2}, copy / "best.pth.tar")
    for name in ("best", "last"):
        rows = run_predict(copy, *words, "--restore_file", name)
        assert not rows[0]["lower"] and rows[0]["prediction"]
        advice = f"no intervals: python evaluate.py --model_dir {copy} --restore_file {name} measures"
        assert advice in capsys.readouterr().err
