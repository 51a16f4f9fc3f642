"""Predictions agree with evaluation, for any number of inputs, and whatever is wrong with some of them."""

import csv
import json
import os
import shutil
import subprocess
import sys
import types
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import fiveline
import predict
import train
import utils
from fiveline.device import count_batches
from fiveline.loader import fetch_dataloader
from fiveline.serving import unlabelled
from fiveline.serving.output import margin, rounded, to_lines
from fiveline.serving.trained import fetch_trained
from fiveline.tasks import fetch_serve
from tests.support.data import read_csv
from tests.support.runs import finish, write_params
from tests.support.tasks import PROJECT, SHIPPED, needs


def write_images(folder):
    """Digits as files of several formats and sizes, in folders of their classes."""
    for split, number in {"train": 60, "val": 20, "test": 33}.items():
        with np.load(PROJECT / f"data/digits/{split}.npz") as arrays:
            for i, (pixels, label) in enumerate(zip(arrays["images"][:number], arrays["labels"], strict=False)):
                path = folder / split / str(label % 3) / "deeper" / f"{i}.{['png', 'jpg', 'bmp'][i % 3]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).resize((10 + i, 12)).save(path)


def write_rows(folder):
    """Rows with numbers that are missing, a column of names, and one that names the row."""
    generator = np.random.default_rng(0)
    for split, number in {"train": 80, "val": 20, "test": 33}.items():
        lines = ["name,size,port,weight,price"]
        for i in range(number):
            size, weight = generator.normal(5, 2, 2).round(3)
            port = ["Cork", "Lima", "Oslo", "NA"][i % 4]
            price = round(3 * size + (10 if port == "Lima" else 0) + generator.normal(), 3)
            lines.append(f"{split}_{i},{size},{port},{'' if i % 7 == 3 else weight},{price}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


RUNS = {
    "vision": {
        "image_size": 12, "num_channels": 4, "normalize": "train", "batch_size": 16, "shift": 1, "cache": "memory",
    },
    "ner": {
        "task": "ner", "data_dir": str(PROJECT / "data/ner_small"), "batch_size": 67, "embedding_dim": 12,
        "lstm_hidden_dim": 12, "bidirectional": True, "char_channels": 6, "word_dropout_rate": 0.1,
    },
    "classes": {"task": "tabular", "data_dir": str(PROJECT / "data/digits_rows"), "batch_size": 64},
    "number": {
        "task": "tabular", "target": "price", "target_type": "number", "id_column": "name", "batch_size": 16,
    },
}  # fmt: skip
pytestmark = needs(*SHIPPED)


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


TEST_INPUTS = {
    "vision": "vision_data/test", "ner": PROJECT / "data/ner_small/test/sentences.txt",
    "classes": PROJECT / "data/digits_rows/test.csv", "number": "number_data/test.csv",
}  # fmt: skip


def run_predict(model_dir, *words, exit_code=None):
    """Call the script as the shell does; returns the rows of its --output, read back."""
    output = model_dir.parent / "predictions.csv"
    output.unlink(missing_ok=True)
    command = ["--model_dir", str(model_dir), "--output", str(output), *map(str, words)]
    if exit_code is None:
        predict.main(command)
    else:
        with pytest.raises(utils.Stop) as caught:
            predict.main(command)
        assert caught.value.exit_code == exit_code
        if exit_code == 2:
            assert not output.exists()
            return str(caught.value)
        assert "inputs are broken; see `error` in their rows" in str(caught.value)
    return read_csv(output)


def hide(monkeypatch, task, name):
    """Let the task's serve.py lack a function."""
    without = {key: value for key, value in vars(fetch_serve(task)).items() if key != name}
    monkeypatch.setattr(predict, "fetch_serve", lambda _: types.SimpleNamespace(**without))


COLUMNS = {name: ["prediction", "confidence"] for name in ("vision", "ner", "classes")}
COLUMNS |= {"number": ["prediction", "lower", "upper"], "ner": ["tokens", "prediction", "confidence"]}


@pytest.mark.parametrize("name", RUNS)
def test_predictions_on_the_test_split_are_evaluations_to_the_bit_in_the_same_batches(runs, name):
    expected = read_csv(runs / name / "predictions_test_best.csv")
    size, remainder = divmod(len(expected), count_batches(len(expected), RUNS[name]["batch_size"]))
    assert remainder == 0
    rows = run_predict(runs / name, "--input", runs / TEST_INPUTS[name], "--batch_size", size)
    assert len(rows) == len(expected) > 2 * RUNS[name]["batch_size"]
    assert list(rows[0]) == ["id", *COLUMNS[name], "error"]
    for row, other in zip(rows, expected, strict=True):
        assert row["id"].endswith(other["id"]) and not row["error"] and row["prediction"] == other["prediction"]
        if "confidence" in row:  # predict.py writes 6 digits
            assert row["confidence"] == str(min(float(f"{float(other['confidence']):.6g}"), 0.999999))


def test_predictions_hardly_depend_on_the_batch_size_and_json_lines_hold_the_same(runs, capsys):
    output = runs / "predictions.jsonl"
    command = ["--model_dir", str(runs / "ner"), "--input", str(TEST_INPUTS["ner"]), "--output", str(output)]
    predict.main([*command, "--batch_size", "1"])
    rows, expected = utils.read_lines(output), read_csv(runs / "ner/predictions_test_best.csv")
    said = capsys.readouterr()
    assert said.out == "" and f"- wrote {output} ({len(rows)} rows)\n" in said.err
    assert all(list(row) == ["id", "tokens", "prediction", "confidence"] for row in rows)  # nothing that is empty
    assert [row["tokens"] for row in rows] == TEST_INPUTS["ner"].read_text(encoding="utf-8").splitlines()
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected]
    assert [row["confidence"] for row in rows] == pytest.approx(
        [float(row["confidence"]) for row in expected], abs=1e-6
    )


@pytest.mark.parametrize("name", RUNS)
def test_a_run_loaded_in_python_predicts_the_same_rows(runs, name):
    output, path = runs / "predictions.jsonl", str(runs / TEST_INPUTS[name])
    predict.main(["--model_dir", str(runs / name), "--input", path, "--output", str(output)])
    assert fiveline.load(runs / name).predict(path) == utils.read_lines(output)


def test_the_target_is_not_needed_nor_is_any_column_that_the_net_does_not_see(runs, tmp_path):
    whole = read_csv(runs / "number_data/test.csv")
    path = tmp_path / "new.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["comment", "port", "size", "weight"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "comment": 'bought in "May",\nas it seems'} for row in whole)
    rows = run_predict(runs / "number", "--input", path)
    expected = read_csv(runs / "number/predictions_test_best.csv")
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected]
    assert [row["id"] for row in rows[:2]] == [f"{path}:1", f"{path}:2"]


@pytest.mark.parametrize("name", ["vision", "ner"])
def test_probabilities_of_each_class_are_those_of_the_net(runs, name):
    model_dir = runs / name
    rows = run_predict(model_dir, "--input", runs / TEST_INPUTS[name], "--probabilities")
    params, _, model = fetch_trained(model_dir, model_dir / "best.pth.tar", [])
    names = [column.removeprefix("probability_") for column in rows[0] if column.startswith("probability_")]
    assert names == (params.tags if name == "ner" else params.classes)
    expected = []
    with torch.no_grad():
        for inputs, labels in fetch_dataloader("test", Path(params.data_dir), params):
            probabilities = zip(model.eval()(inputs).softmax(dim=-1), labels, strict=True)
            expected += [each[label != -100].reshape(-1, len(names)) for each, label in probabilities]
    for row, probabilities in zip(rows, expected, strict=True):
        ours = np.array([[float(text) for text in row[f"probability_{each}"].split(" ")] for each in names]).T
        assert ours == pytest.approx(probabilities.numpy(), rel=1e-4, abs=1e-6)
        assert [names[i] for i in ours.argmax(axis=1)] == row["prediction"].split(" ")
        assert float(row["confidence"]) == pytest.approx(ours.max(axis=1).mean(), abs=1e-5)


def test_probabilities_have_six_digits_and_never_become_certain():
    values = [0.5, 1.0, 0.0, 0.9999997, 0.123456789, 1.23456789e-9, [0.9999999, 0.25]]
    found = [rounded({"id": 0.123456789, "prediction": 0.123456789, "probability_a": value}) for value in values]
    texts = ["0.5", "1.0", "0.0", "0.999999", "0.123457", "1.23457e-09", "0.999999 0.25"]
    assert [str(row["probability_a"]) for row in found] == texts
    assert all(row["id"] == row["prediction"] == 0.123456789 for row in found)


def test_rows_as_csv_and_json_lines():
    rows = [{"id": "a", "error": "x"}, {"id": "b", "prediction": "cat", "confidence": 0.5}, {"id": "c", "error": "y"}]
    assert "".join(to_lines(rows, ".csv")) == "id,prediction,confidence,error\na,,,x\nb,cat,0.5,\nc,,,y\n"
    assert "".join(to_lines(rows[:1], ".csv")) == "id,prediction,error\na,,x\n"
    rows = [{"id": name, "prediction": 1.5} for name in ("line\nend", "\udcff", "é")]
    assert [json.loads(line) for line in to_lines(rows, ".jsonl")] == rows


def test_a_column_file_is_read_as_evaluation_reads_it_and_is_recognised(tmp_path):
    """It has comments, and tokens that hold spaces. Its tags show what it is; without tags, its name does."""
    text = "# sent_id = {}\nin\tIN\tO\nNew York\tNNP\tB-LOC\n\n# id {}\tx=y\n#\tSYM\tO\n5\tCD\tO\n\n"
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.conll").write_text("".join(text.format(i, i) for i in range(20)))
    params = {"task": "ner", "data_dir": str(tmp_path), "num_epochs": 1, "batch_size": 7}
    run, copy, path = write_params(tmp_path / "run", **params), tmp_path / "new.txt", tmp_path / "new.conll"
    train.main(["--model_dir", str(run)])
    evaluate.main(["--model_dir", str(run)])
    shutil.copyfile(tmp_path / "test.conll", copy)
    rows, expected = run_predict(run, "--input", copy), read_csv(run / "predictions_test_best.csv")
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected] and len(rows) == 40
    assert [row["id"].rpartition(":")[2] for row in rows] == [row["id"].rpartition(":")[2] for row in expected]
    assert [row["tokens"] for row in rows] == ["in New\u00a0York", "# 5"] * 20
    assert all(len(row["tokens"].split(" ")) == len(row["prediction"].split(" ")) for row in rows)
    path.write_text("in\tO\nRome O\n")
    rows = run_predict(run, "--input", path, copy, exit_code=1)
    assert rows[0]["error"].startswith(f"{path}:2: 1 columns, expected 2") and rows[1]["tokens"] == "in New\u00a0York"


# --- broken inputs


def test_an_image_that_cannot_be_read_is_reported_in_its_row_and_the_rest_is_predicted(runs, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(runs / "vision_data/test", folder)
    (folder / "0/aaa.png").write_bytes(b"no image")
    whole = next(folder.glob("1/deeper/*.jpg"))
    (folder / "1/deeper/truncated.jpg").write_bytes(whole.read_bytes()[:200])
    (folder / "notes.txt").write_text("not an image, and not meant as one")
    (folder / ".hidden.png").write_bytes(b"")
    rows = run_predict(runs / "vision", "--input", folder, folder / "notes.txt", exit_code=1)
    broken = [row for row in rows if row["error"]]
    assert [row["id"] for row in broken] == [
        str(folder / name) for name in ("0/aaa.png", "1/deeper/truncated.jpg", "notes.txt")
    ]
    assert all("not a readable image" in row["error"] and not row["prediction"] for row in broken)
    expected = read_csv(runs / "vision/predictions_test_best.csv")
    assert [row["prediction"] for row in rows if not row["error"]] == [row["prediction"] for row in expected]
    names = [row["id"] for row in rows[1:-1]]
    assert names == sorted(names)


def test_broken_sentences_are_reported_in_their_rows(runs, tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_bytes("\ufeffShe moved to  Lima .\r\n\n   \nNo one came .\n".encode() + b"caf\xe9 is closed\nlast one")
    rows = run_predict(runs / "ner", "--input", path, exit_code=1)
    assert [row["id"] for row in rows] == [f"{path}:{i}" for i in range(1, 7)]
    assert [bool(row["error"]) for row in rows] == [False, True, True, False, True, False]
    assert [len(row["prediction"].split()) for row in rows] == [5, 0, 0, 4, 0, 2]
    assert "an empty line" in rows[1]["error"] and "not UTF-8" in rows[4]["error"]
    path.write_text("\n" * 100)
    rows = run_predict(runs / "ner", "--input", path, exit_code=1)
    assert len(rows) == 100 and all(row["error"] and not row["prediction"] for row in rows)


def test_broken_rows_are_reported_in_their_rows(runs, tmp_path):
    path = tmp_path / "rows.csv"
    lines = [b"name,size,port,weight", b"a,4.5,Cork,2", b"b,large,Cork,2", b"c,4.5,Cork", b'd,"4"5,Cork,2', b"",
             b"e,4.5,Atlantis,", b"f,1e99,Cork,2", b"g,4.5,C\xf6rk,2", b"h,4.5,Cork,2", b'i,"4.5,Cork,2']  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    rows = run_predict(runs / "number", "--input", path, exit_code=1)
    assert [row["id"] for row in rows] == ["a", "b", f"{path}:3", f"{path}:4", "e", "f", f"{path}:7", "h", f"{path}:9"]
    assert [row["id"] for row in rows if not row["error"]] == ["a", "e", "h"]
    assert rows[0]["prediction"] == rows[7]["prediction"]
    message = [row["error"].removeprefix(f"{path}, row {i}") for i, row in enumerate(rows, start=1)]
    assert message[1].startswith(" (line 3), column 'size': found 'large', expected a number")
    assert message[2].startswith(" (line 4): found 3 cells, expected 4 as in the header")
    assert "not CSV" in message[3] and "1e99" in message[5] and "not UTF-8" in message[6] and "not CSV" in message[8]


def test_files_that_are_no_tables_are_a_row_each_and_the_others_are_read(runs, tmp_path):
    contents = {"empty.csv": "", "other.csv": "size,weight\n1,2\n", "twice.csv": "size,size,port,weight\n1,2,Cork,2\n",
                "whole.csv": "size,weight,port\n4.5,2,Cork\n"}  # fmt: skip
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    paths = [tmp_path / name for name in contents]
    rows = run_predict(runs / "number", "--input", *paths, tmp_path, exit_code=1)
    assert [row["id"] for row in rows] == [*map(str, paths[:3]), f"{paths[3]}:1", str(tmp_path)]
    assert "empty" in rows[0]["error"] and "no column 'port'" in rows[1]["error"] and "twice" in rows[2]["error"]
    assert rows[3]["prediction"] and not rows[3]["error"] and "Is a directory" in rows[4]["error"]


# --- mistakes in the arguments


def test_mistakes_are_reported_and_no_output_is_touched(runs, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.csv").mkdir()
    rows = tmp_path / "rows.csv"
    shutil.copyfile(runs / TEST_INPUTS["number"], rows)
    (tmp_path / "again.csv").symlink_to(rows)
    before, inputs = rows.read_bytes(), {name: [runs / path] for name, path in TEST_INPUTS.items()}
    for name, words, message in (
        ("ner", [tmp_path / "nope"], "there is no such file or folder"),
        ("vision", [tmp_path / "empty"], "nothing in it"),
        ("ner", [*inputs["ner"], "--batch_size", 0], "batch_size"),
        ("number", [*inputs["number"], "--probabilities"], "this run predicts a number, not classes"),
        ("vision", [*inputs["vision"], "-"], "--input -: vision does not read standard input; name files or folders"),
        ("number", [*inputs["number"], "-"], "--input -: tabular does not read standard input; name files or folders"),
        ("ner", [".", "--output", tmp_path / "table.xlsx"], ".csv or .jsonl"),
        ("ner", [".", "--output", tmp_path / "nowhere/table.csv"], "there is no folder"),
        ("ner", [".", "--output", tmp_path / "folder.csv"], "this is a folder"),
        ("number", [rows, "--output", rows], "it is also an --input"),
        ("number", [rows, "--output", tmp_path / "again.csv"], "it is also an --input"),
    ):
        assert message in run_predict(runs / name, "--input", *words, exit_code=2)
    assert rows.read_bytes() == before
    hide(monkeypatch, "vision", "probabilities")
    message = run_predict(runs / "vision", "--input", *inputs["vision"], "--probabilities", exit_code=2)
    assert "model/vision/serve.py has no probabilities(" in message
    hide(monkeypatch, "tabular", "fetch_unlabelled")
    message = run_predict(runs / "number", "--input", *inputs["number"], exit_code=2)
    assert message.startswith("model/tabular/serve.py: has no fetch_unlabelled(paths, params)")


def test_an_output_of_before_stays_until_the_new_one_is_whole(runs, tmp_path, monkeypatch):
    output = tmp_path / "out.csv"
    output.write_text("of before")
    command = ["--model_dir", str(runs / "ner"), "--input", str(TEST_INPUTS["ner"]), "--output", str(output)]
    with monkeypatch.context() as patch:
        patch.setattr("model.ner.serve.predictions", lambda *_: 1 / 0, raising=False)
        with pytest.raises(ZeroDivisionError):
            predict.main(command)
    assert output.read_text() == "of before" and [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    predict.main(command)
    assert output.read_text().startswith("id,tokens,prediction")


# --- any number of inputs


class Counted:
    """Something of which one can see how many are alive."""


def test_no_more_than_two_batches_are_in_memory():
    alive, most = weakref.WeakSet(), []

    def fetch(paths, params):
        for i in range(10_000):
            example = Counted()
            alive.add(example)
            most.append(len(alive))
            yield str(i), example

    serve = types.SimpleNamespace(fetch_unlabelled=fetch, collate_unlabelled=lambda examples, _: (len(examples), None))
    batches = unlabelled.fetch_unlabelled([], serve, utils.Params(task="counted", batch_size=16))
    first = next(batches)
    assert len(most) == 16  # read as they are asked for
    sizes = [len(first[0]), *(len(rows) for rows, _, _ in batches)]
    assert sizes == [16] * 625 and max(most) <= 2 * 16


@pytest.mark.slow
def test_predictions_come_while_standard_input_is_still_open(runs):
    command = [sys.executable, "predict.py", "--model_dir", str(runs / "ner"), "--input", "-", "--batch_size", "4"]
    process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write("She moved to Lima .\n" * 6)
    process.stdin.flush()
    lines = [process.stdout.readline() for _ in range(5)]
    assert lines[0].startswith("id,tokens,prediction") and lines[4].startswith("-:4,")
    process.stdin.write("And stayed .\n")
    process.stdin.close()
    rest = process.stdout.read().splitlines()
    process.stdout.close()
    assert [line.split(",")[0] for line in rest] == ["-:5", "-:6", "-:7"] and process.wait() == 0


# --- numbers and their intervals


def test_intervals_hold_what_they_say_on_new_examples():
    generator = np.random.default_rng(1)
    coverages = []
    for _ in range(400):
        distances = np.abs(generator.standard_t(3, size=60))
        coverages.append(np.mean(np.abs(generator.standard_t(3, size=200)) <= margin(distances.tolist())))
    # exactly ceil(0.9 * 61) / 61, and the mean of 400 trials has a standard error of about 0.002
    assert np.mean(coverages) == pytest.approx(55 / 61, abs=0.01)
    assert margin([1.0] * 8) is None and margin(list(range(9))) == 8  # eight are too few to say so


def test_intervals_are_there_once_the_checkpoint_has_been_evaluated(runs, tmp_path, capsys):
    rows = run_predict(runs / "number", "--input", runs / TEST_INPUTS["number"])
    inside = [float(row["lower"]) <= float(other["label"]) <= float(row["upper"]) for row, other in
              zip(rows, read_csv(runs / "number/predictions_test_best.csv"), strict=True)]  # fmt: skip
    assert sum(inside) >= 0.9 * len(inside)
    assert "no intervals" not in capsys.readouterr().err
    copy = tmp_path / "copy"
    shutil.copytree(runs / "number", copy)
    os.utime(copy / "predictions_test_best.csv", (0, 0))  # times say nothing: whoever copies may keep them, or not
    assert run_predict(copy, "--input", runs / TEST_INPUTS["number"]) == rows
    state = utils.read_checkpoint(copy / "best.pth.tar")
    utils.write_checkpoint({**state, "epoch": 2}, copy / "best.pth.tar")
    os.utime(copy / "best.pth.tar", (0, 0))
    rows = run_predict(copy, "--input", runs / TEST_INPUTS["number"])
    assert not rows[0]["lower"] and rows[0]["prediction"]
    advice = f"python evaluate.py --model_dir {copy} --restore_file "
    assert f"no intervals: {advice}best finds out" in capsys.readouterr().err
    run_predict(copy, "--input", runs / TEST_INPUTS["number"], "--restore_file", "last")
    assert f"no intervals: {advice}last finds out" in capsys.readouterr().err
