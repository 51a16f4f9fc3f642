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
from tests.support.data import write_csv
from tests.support.runs import finish
from tests.support.tasks import PROJECT, SHIPPED, needs

pytestmark = needs(*SHIPPED)
RANDOM = np.random.default_rng(0)


def init(tmp_path, *words):
    """Return the hyperparameters that --init writes for the folder `data`, after reading the data with them."""
    train.main(["--init", str(tmp_path / "run"), "--data_dir", str(tmp_path / "data"), *words])
    values = json.loads((tmp_path / "run/params.json").read_text())
    params = fetch_params(tmp_path / "run")
    assert len(fetch_dataset("train", tmp_path / "data", fetch_facts(tmp_path / "data", params))) > 0
    assert params.data_dir == str(tmp_path / "data") and params.warnings() == []
    return values


def refusal(tmp_path, *words):
    with pytest.raises(utils.InputError) as error:
        train.main(["--init", str(tmp_path / "run"), "--data_dir", str(tmp_path / "data"), *words])
    assert not (tmp_path / "run").exists()
    return str(error.value)


def write_images(folder, classes, size, is_grey=False):
    for name in classes:
        (folder / "train" / name).mkdir(parents=True)
        for i in range(3):
            pixels = RANDOM.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).convert("L" if is_grey else "RGB")
            picture.convert("RGB").save(folder / "train" / name / f"{i}.jpg")  # a grey photo often has three channels


@pytest.mark.parametrize(
    ("classes", "size", "is_grey", "expected"),
    [
        (["cat", "dog"], (300, 200), False, {"image_size": 64, "image_channels": 3, "horizontal_flip": True}),
        (["cat", "dog"], (40, 48), False, {"image_size": 40, "image_channels": 3, "horizontal_flip": True}),
        (["cat", "dog"], (40, 48), True, {"image_size": 40, "image_channels": 1, "horizontal_flip": False}),
        (["cat", "dog"], (300, 200), True, {"image_size": 64, "image_channels": 1, "horizontal_flip": True}),
        (["A", "B"], (300, 200), False, {"image_size": 64, "image_channels": 3, "horizontal_flip": False}),
    ],
)
def test_photos_are_mirrored_and_writing_is_not(tmp_path, classes, size, is_grey, expected):
    write_images(tmp_path / "data", classes, size, is_grey)
    assert init(tmp_path).items() >= {"task": "vision", "num_epochs": 30, **expected}.items()


def test_a_pretrained_net_gets_what_it_can_use(tmp_path):
    write_images(tmp_path / "data", ["cat", "dog"], (300, 200), is_grey=True)
    values = init(tmp_path, "net=resnet18", "pretrained=true", "normalize=imagenet", "image_size=224")
    assert (values["image_size"], values["image_channels"], values["learning_rate"]) == (224, 3, 3e-4)
    assert "dropout_rate" not in values


def test_arrays_of_mnists_size_are_read_as_they_are(tmp_path, caplog):
    (tmp_path / "data").mkdir()
    labels = np.arange(12_000) % 10
    np.savez(tmp_path / "data/train.npz", images=np.zeros((12_000, 28, 28), np.uint8), labels=labels)
    caplog.set_level("INFO")
    values = init(tmp_path)
    assert (values["image_size"], values["image_channels"], values["horizontal_flip"]) == (28, 1, False)
    assert (values["dropout_rate"], values["batch_size"], values["num_epochs"]) == (0.2, 64, 18)
    log = (tmp_path / "run/train.log").read_text()
    for name, value in values.items():
        if name not in ("task", "data_dir"):
            assert f"- {name}: {json.dumps(value)}, " in log
    assert "task vision, 10,800 examples" in log


def rows_of(number=200):
    """Return rows whose columns are an id, a number, a word, a name of its own, a class in numbers, and a price."""
    header = ["PassengerId", "age", "port", "name", "kind", "price"]
    rows = [[i, i % 70, ["Cork", "Lima"][i % 2], f"Name {i}", i % 3, i * 1.25] for i in range(number)]
    return [header, *rows]


def test_a_table_gets_its_target_and_leaves_out_what_names_a_row(tmp_path):
    write_csv(tmp_path / "data/data.csv", rows_of())
    assert init(tmp_path).items() >= {
        "task": "tabular", "target": "price", "target_type": "number", "id_column": "PassengerId",
        "features": ["age", "port", "kind"], "delimiter": ",", "hidden_sizes": [32, 16],
    }.items()  # fmt: skip


def test_what_the_command_line_gives_beats_the_suggestion(tmp_path):
    write_csv(tmp_path / "data/data.csv", rows_of())
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
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        text = "\n".join([header, *(cells(i) for i in range(90))])
        (tmp_path / f"data/{split}.csv").write_text(text, encoding="utf-8-sig")
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


@pytest.mark.parametrize("name", SENTENCES)
def test_tagged_sentences_get_their_columns_and_their_scheme(tmp_path, name):
    suffix, text, expected = SENTENCES[name]
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"data/{split}.{suffix}").write_text(text * 5)
    values = init(tmp_path)
    assert values["task"] == "ner" and {key: values[key] for key in sorted(expected)} == dict(sorted(expected.items()))
    assert {"token_column", "tag_column", "tag_scheme", "monitor"} & values.keys() == expected.keys()


def test_nothing_is_overwritten(tmp_path):
    shutil.copytree(PROJECT / "data/digits", tmp_path / "data")
    init(tmp_path)
    before = (tmp_path / "run/params.json").read_bytes()
    command = ["--init", str(tmp_path / "run"), "--data_dir", str(tmp_path / "data")]
    with pytest.raises(utils.InputError, match="params.json exists, and --init overwrites nothing"):
        train.main(command)
    assert (tmp_path / "run/params.json").read_bytes() == before
    (tmp_path / "run/params.json").rename(tmp_path / "run/params.yaml")
    with pytest.raises(utils.InputError, match="params.yaml exists"):
        train.main(command)
    assert not (tmp_path / "run/params.json").exists()


def test_unknown_data_is_refused_with_what_was_found_and_expected(tmp_path):
    assert "there is no folder" in refusal(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/notes.pdf").write_text("x")
    message = refusal(tmp_path)
    for text in ("no task can read it", "it holds notes.pdf", "train/<class>/*.jpg", "train.csv", "sentences.txt"):
        assert text in message
    assert "did you mean 'vision'" in refusal(tmp_path, "--task", "vison")
    (tmp_path / "data/data.csv").write_text("size,price\n1,5\n")
    assert "learning_rat" in refusal(tmp_path, "learning_rat=3")
    with pytest.raises(utils.InputError, match="needs --data_dir"):
        train.main(["--init", str(tmp_path / "run")])


def test_data_that_two_tasks_can_read_needs_a_choice(tmp_path):
    shutil.copytree(PROJECT / "data/digits", tmp_path / "data")
    shutil.copy(PROJECT / "data/digits_rows/train.csv", tmp_path / "data")
    assert "tabular and vision can read it; choose one: --task NAME" in refusal(tmp_path)
    assert init(tmp_path, "--task", "vision")["task"] == "vision"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "least"),
    [
        ("digits", "accuracy", 0.98),
        ("ner_small", "f1", 0.75),
        ("diabetes", "r2", 0.5),
        ("digits_rows", "accuracy", 0.97),
    ],
)
def test_the_suggested_run_reaches_about_what_the_shipped_one_reaches(tmp_path, name, metric, least):
    shutil.copytree(PROJECT / "data" / name, tmp_path / "data")
    init(tmp_path)
    evaluate.main(["--model_dir", str(finish(tmp_path / "run"))])
    assert utils.read_json(tmp_path / "run/metrics_test_best.json")[metric] >= least
