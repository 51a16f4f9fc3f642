"""`train.py --init` looks at data of each kind, writes a params.json that fits it, and logs why."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import evaluate
import train
import utils
from fiveline.tasks import fetch_dataset, fetch_facts, fetch_params
from tests.support.data import refusal, write_csv
from tests.support.photos import make_folders
from tests.support.runs import finish
from tests.support.tasks import PROJECT, SHIPPED, needs

pytestmark = needs(*SHIPPED)
RANDOM = np.random.default_rng(0)


def init(tmp_path, *words):
    """Return the hyperparameters that --init writes for the folder `data`, after reading the data with them."""
    train.main(["--init", str(tmp_path / "run"), "--data_dir", str(tmp_path / "data"), *words])
    params = fetch_params(tmp_path / "run")
    assert len(fetch_dataset("train", tmp_path / "data", fetch_facts(tmp_path / "data", params))) > 0
    assert params.data_dir == str(tmp_path / "data") and params.warnings() == []
    return utils.read_json(tmp_path / "run/params.json")


def mistake(tmp_path, *words):
    return refusal(train.main, ["--init", str(tmp_path / "run"), "--data_dir", str(tmp_path / "data"), *words])


def write_splits(folder, suffix, text):
    folder.mkdir()
    for split in ("train", "val"):
        (folder / f"{split}.{suffix}").write_text(text, encoding="utf-8")


def write_images(folder, classes="ab", size=(300, 200), is_grey=False):
    def draw():
        picture = Image.fromarray(RANDOM.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        return np.asarray(picture.convert("L").convert("RGB") if is_grey else picture)  # three channels in any case

    make_folders(folder, classes, draw, splits=["train"], suffix="jpg")


@pytest.mark.parametrize(
    ("classes", "size", "is_grey", "side", "channels", "is_mirrored"),
    [
        (["cat", "dog"], (300, 200), False, 64, 3, True),
        (["cat", "dog"], (40, 48), False, 40, 3, True),
        (["cat", "dog"], (40, 48), True, 40, 1, False),
        (["cat", "dog"], (300, 200), True, 64, 1, True),
        (["A", "B"], (300, 200), False, 64, 3, False),
    ],
)
def test_photos_are_mirrored_and_writing_is_not(tmp_path, classes, size, is_grey, side, channels, is_mirrored):
    write_images(tmp_path / "data", classes, size, is_grey)
    expected = {"image_size": side, "image_channels": channels, "horizontal_flip": is_mirrored}
    assert init(tmp_path).items() >= {"task": "vision", "num_epochs": 30, **expected}.items()


def test_a_pretrained_net_gets_what_it_can_use(tmp_path):
    write_images(tmp_path / "data", is_grey=True)
    values = init(tmp_path, "net=resnet18", "pretrained=true", "normalize=imagenet", "image_size=224")
    assert values.items() >= {"image_size": 224, "image_channels": 3, "learning_rate": 3e-4}.items()
    assert "dropout_rate" not in values


def test_arrays_of_mnists_size_are_read_as_they_are_and_each_reason_is_logged(tmp_path):
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data/train.npz", images=np.zeros((12_000, 28, 28), np.uint8), labels=np.arange(12_000) % 10)
    values, log = init(tmp_path), (tmp_path / "run/train.log").read_text()
    expected = {"image_size": 28, "image_channels": 1, "horizontal_flip": False, "dropout_rate": 0.2}
    assert values.items() >= {**expected, "batch_size": 64, "num_epochs": 18}.items()
    for name in values.keys() - {"task", "data_dir"}:
        assert f"- {name}: {json.dumps(values[name])}, " in log
    assert "task vision, 10,800 examples" in log


def test_a_table_gets_its_target_and_leaves_out_what_names_a_row_and_the_command_line_wins(tmp_path):
    header = ["PassengerId", "age", "port", "name", "kind", "price"]
    rows = [[i, i % 70, ["Cork", "Lima"][i % 2], f"Name {i}", i % 3, i * 1.25] for i in range(200)]
    write_csv(tmp_path / "data/data.csv", [header, *rows])
    assert init(tmp_path).items() >= {
        "task": "tabular", "target": "price", "target_type": "number", "id_column": "PassengerId",
        "features": ["age", "port", "kind"], "delimiter": ",", "hidden_sizes": [32, 16],
    }.items()  # fmt: skip
    (tmp_path / "run/params.json").unlink()
    values = init(tmp_path, "target=kind", "num_epochs=3", "--task", "tabular")
    assert (values["target"], values["target_type"], values["num_epochs"]) == ("kind", "classes", 3)


@pytest.mark.parametrize(
    ("header", "cells", "target", "kind"),
    [
        ("Class;size", lambda i: f"{i % 3};{i}", "Class", "classes"),
        ("label\tsize", lambda i: f"{i % 30}\t{i}", "label", "number"),
        ("size,colour", lambda i: f"{i},{['red', 'blue'][i % 2]}", "colour", "classes"),
    ],
)
def test_the_target_is_known_by_its_name_or_is_the_last_column(tmp_path, header, cells, target, kind):
    write_splits(tmp_path / "data", "csv", "\n".join([f"\ufeff{header}", *map(cells, range(90))]))
    assert init(tmp_path).items() >= {"target": target, "target_type": kind}.items()


SENTENCES = {
    "bio": ("conll", "New B-LOC\nYork I-LOC\nis O\n\nAnn B-PER\nran O\n\n", {}),
    "iob1": ("txt", "New I-LOC\nYork I-LOC\nis O\n\nAnn I-PER\nBob B-PER\nran O\n\n", {"tag_scheme": "iob1"}),
    "bioes": ("bio", "New B-LOC\nYork E-LOC\nis O\n\nAnn S-PER\nran O\n\n", {}),
    "plain": ("tsv", "New\tADJ\nYork\tNOUN\n\nAnn\tNOUN\nran\tVERB\n\n", {"monitor": "accuracy"}),
    "conllu": (
        "conllu", "# text = Ann ran\n1\tAnn\tann\tNOUN\tNN\n2\tran\trun\tVERB\tVBD\n\n",
        {"token_column": 1, "tag_column": 3, "monitor": "accuracy"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("header", "number", "expected"),
    [
        (["text", "label"], 8, "task text"),  # few rows, so few different texts
        (["id", "sentiment", "text"], 60, "task text"),  # a name of a label that only the task text knows
        (["mood", "text"], 60, "text_column=NAME label_column=NAME"),
        (["text", "size", "label"], 60, "tabular and text can read it; choose one: --task NAME"),
    ],
)
def test_a_table_of_texts_is_left_to_the_task_text(tmp_path, capsys, header, number, expected):
    cells = [{"text": f"a film with {i} dull scenes too many", "id": i} for i in range(number)]
    rows = [[row.get(name, i % 2) for name in header] for i, row in enumerate(cells)]
    write_csv(tmp_path / "data/train.csv", [header, *rows])
    command = ["--init", str(tmp_path / "run"), "--data_dir", str(tmp_path / "data")]
    if expected.startswith("task"):
        train.main(command)
        assert f"data: {expected}, " in capsys.readouterr().out
        return
    message = refusal(train.main, command)
    assert expected in message and ("choose" in message or "found texts in 'text'; type target=NAME" in message)


@pytest.mark.parametrize("name", SENTENCES)
def test_tagged_sentences_get_their_columns_and_their_scheme(tmp_path, name):
    suffix, text, expected = SENTENCES[name]
    write_splits(tmp_path / "data", suffix, text * 5)
    values = init(tmp_path)
    chosen = {key: values[key] for key in ("token_column", "tag_column", "tag_scheme", "monitor") if key in values}
    assert (values["task"], chosen) == ("ner", expected)


def test_data_that_no_task_or_more_than_one_can_read_is_refused_and_nothing_is_overwritten(tmp_path):
    data, path = tmp_path / "data", tmp_path / "run/params.json"
    assert f"expected the folder that holds it, found {data}" in mistake(tmp_path)
    data.mkdir()
    (data / "notes.pdf").write_text("x")
    message = mistake(tmp_path)
    for text in ("no task can read it", "it holds notes.pdf", "train/<class>/*.jpg", "train.csv", "sentences.txt"):
        assert text in message
    assert "did you mean 'vision'" in mistake(tmp_path, "--task", "vison")
    (data / "train.csv").write_text("size,price\n1,5\n2,6\n")
    assert "learning_rat" in mistake(tmp_path, "learning_rat=3")
    assert "found no --data_dir" in refusal(train.main, ["--init", str(tmp_path / "run")])
    write_images(data)
    assert "tabular and vision can read it; choose one: --task NAME" in mistake(tmp_path)
    assert not path.parent.exists()
    assert init(tmp_path, "--task", "vision")["task"] == "vision"
    before = path.read_bytes()
    assert "params.json exists, and --init overwrites nothing" in mistake(tmp_path)
    assert path.read_bytes() == before
    path.rename(path.with_suffix(".yaml"))
    assert "params.yaml exists" in mistake(tmp_path) and not path.exists()


LEAST = {
    "digits": {"accuracy": 0.98}, "digits_rows": {"accuracy": 0.97}, "ner_small": {"f1": 0.75}, "diabetes": {"r2": 0.5},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST)
def test_the_suggested_run_reaches_about_what_the_shipped_one_reaches(tmp_path, name):
    shutil.copytree(PROJECT / "data" / name, tmp_path / "data")
    init(tmp_path)
    evaluate.main(["--model_dir", str(finish(tmp_path / "run"))])
    values = utils.read_json(tmp_path / "run/metrics_test_best.json")
    assert all(values[metric] >= least for metric, least in LEAST[name].items())
