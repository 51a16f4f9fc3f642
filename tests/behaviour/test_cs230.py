"""CS230's projects, from a fresh clone on: its params files, its data as it is there, its commands, its checkpoints."""

import json
import math
import runpy
import shlex
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import build_vocab
import evaluate
import predict
import train
import utils
from fiveline.tasks import fetch_params
from tests.support.data import read_csv
from tests.support.tasks import PROJECT, need, needs

pytestmark = needs("ner")
NLP = """{
    "learning_rate": 1e-2,
    "batch_size": 5,
    "num_epochs": 2,

    "lstm_hidden_dim": 50,
    "embedding_dim": 50,

    "save_summary_steps": 100
}
"""
VISION = """{
    "learning_rate": 1e-3,
    "batch_size": 32,
    "num_epochs": 1,
    "dropout_rate":0.8, 
    "num_channels": 4,
    "save_summary_steps": 100,
    "num_workers": 4
}
"""  # noqa: W291
SENTENCES = {
    "train": (
        "Iran sent troops .\nThe European Union met in Rome .\nAnn sleeps",
        "B-geo O O O\nO B-org I-org O O B-geo O\nB-per O",
    ),
    "val": ("Mary Ann met troops .\nRome sleeps", "B-per I-per O O O\nB-geo O"),
    "test": ("Ann met Mary Jane in Iran .", "B-per O B-per I-per O B-geo O"),
}  # fmt: skip


@pytest.fixture
def nlp(tmp_path):
    """CS230's `pytorch/nlp` before build_vocab.py: no words.txt, no tags.txt, no line end after the last sentence."""
    for split, texts in SENTENCES.items():
        folder = tmp_path / "data/small" / split
        folder.mkdir(parents=True)
        for name, text in zip(("sentences.txt", "labels.txt"), texts, strict=True):
            (folder / name).write_text(text)
    (tmp_path / "experiments/base_model").mkdir(parents=True)
    (tmp_path / "experiments/base_model/params.json").write_text(NLP)
    return tmp_path


@pytest.fixture
def type_command(monkeypatch, capsys):
    """Return a function that runs a script as if it was typed in some folder, and returns its output."""

    def run(line, cwd, exit_code=0):
        name, *words = shlex.split(line)
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [name, *words])
        try:
            if name == "build_vocab.py":
                build_vocab.main(words)
            else:
                runpy.run_path(str(PROJECT / name), run_name="__main__")
        except (utils.InputError, SystemExit) as stop:
            code = stop.exit_code if isinstance(stop, utils.InputError) else stop.code or 0
            assert code == exit_code, stop
            return str(stop) + capsys.readouterr().err
        assert exit_code == 0
        return capsys.readouterr().out

    return run


def read_splits(data_dir, kind):
    return {split: [line.split(" ") for line in (data_dir / split / f"{kind}.txt").read_text().split("\n")]
            for split in SENTENCES}  # fmt: skip


# ---- which of the two examples it is


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (json.loads(NLP), "ner"),
        (json.loads(VISION), "vision"),
        ({"learning_rate": 1e-3, "num_epochs": 2, "dropout_rate": 0.3}, "vision"),  # a key of every task
        ({}, "vision"),
        ({"target": "y", "hidden_size": 3}, "tabular"),
        ({**json.loads(NLP), "task": "ner"}, "ner"),
    ],
)
def test_the_task_of_a_params_file_is_recognised_by_its_keys(tmp_path, values, task):
    need(task)
    (tmp_path / "params.json").write_text(json.dumps(values))
    params = fetch_params(tmp_path)
    assert params.task == task and params.learning_rate == values.get("learning_rate", 1e-3)
    assert params.warnings() == []


@needs("vision")
def test_a_task_that_is_named_beats_the_keys(tmp_path):
    (tmp_path / "params.json").write_text(NLP)
    for words in (["task=vision"], ["--task", "vision"]):
        with pytest.raises(utils.InputError, match="unknown key 'lstm_hidden_dim'"):
            train.main(["--model_dir", str(tmp_path), *words])
    (tmp_path / "params.json").write_text('{"lstm_hidden_dim": 50, "embeding_dim": 50, "bidirectional": true}')
    with pytest.raises(
        utils.InputError, match=r"\(task ner, recognised by its keys\): unknown key 'embeding_dim'; did you mean 'emb"
    ):
        fetch_params(tmp_path)


# ---- a fresh clone of pytorch/nlp


def test_tags_that_train_lacks_are_scored_as_errors(nlp, caplog):
    """`data/small` of CS230 has I-per in val and test alone."""
    words = ["--model_dir", str(nlp / "experiments/base_model"), "--data_dir", str(nlp / "data/small")]
    train.main([*words, "num_epochs=30"])
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["- WARNING: tags of val that train lacks count as errors there: I-per"]
    for split in ("val", "test"):
        evaluate.main([*words, "--split", split])
        rows = read_csv(nlp / f"experiments/base_model/predictions_{split}_best.csv")
        labels = [tag for row in rows for tag in row["label"].split()]
        predicted = [tag for row in rows for tag in row["prediction"].split()]
        assert labels == [tag for tags in read_splits(nlp / "data/small", "labels")[split] for tag in tags]
        assert "I-per" in labels and "I-per" not in predicted
        values = utils.read_json(nlp / f"experiments/base_model/metrics_{split}_best.json")
        hits = sum(label == tag for label, tag in zip(labels, predicted, strict=True))
        assert values["accuracy"] == pytest.approx(hits / len(labels)) and math.isfinite(values["loss"])


def test_val_that_is_cut_from_train_may_have_a_tag_of_its_own(nlp):
    shutil.rmtree(nlp / "data/small/val")
    labels = nlp / "data/small/train/labels.txt"
    for i in range(3):  # whichever sentence is cut off, its tag is nowhere else
        lines = labels.read_text().split("\n")
        lines[i] = lines[i].replace("B-", f"B-only{i}-").replace("I-", f"I-only{i}-")
        labels.write_text("\n".join(lines))
    train.main(["--model_dir", str(nlp / "experiments/base_model"), "--data_dir", str(nlp / "data/small")])
    assert "has no val split" in (nlp / "experiments/base_model/train.log").read_text()


def cs230_vocabulary(data_dir, kind, splits):
    """What CS230's build_vocab.py counts, in the order of first occurrence."""
    counts = Counter()
    for split in splits:
        for tokens in read_splits(data_dir, kind)[split]:
            counts.update(tokens)
    return list(counts)


def test_build_vocab_writes_cs230s_files(nlp, type_command):
    type_command("build_vocab.py --data_dir data/small --min_count_word 1 --min_count_tag 1", nlp)
    data_dir = nlp / "data/small"
    words = (data_dir / "words.txt").read_text().splitlines()
    tags = (data_dir / "tags.txt").read_text().splitlines()
    assert words == [*cs230_vocabulary(data_dir, "sentences", ["train"]), "<pad>", "UNK"]
    assert tags == cs230_vocabulary(data_dir, "labels", SENTENCES)  # of all splits
    sizes = json.loads((data_dir / "dataset_params.json").read_text())
    assert sizes == {
        "train_size": 3, "dev_size": 2, "test_size": 1, "vocab_size": len(words), "number_of_tags": len(tags),
        "pad_word": "<pad>", "pad_tag": "O", "unk_word": "UNK",
    }  # fmt: skip
    missing = type_command("build_vocab.py", nlp / "experiments", exit_code=2)
    assert "data/small: there is no such data directory" in missing


@pytest.mark.parametrize(("encoding", "name"), [("utf-8", ""), ("utf-8-sig", ""), ("windows-1252", "Sentence: 1")])
def test_kaggles_corpus_is_read_and_written_where_cs230_does(tmp_path, type_command, encoding, name):
    """It may have been saved again as UTF-8, or by pandas' ffill, with the sentence's name in every row."""
    missing = type_command("build_kaggle_dataset.py", tmp_path, exit_code=2)
    assert "data/kaggle/ner_dataset.csv: there is no such file" in missing
    folder = tmp_path / "data/kaggle"
    folder.mkdir(parents=True)
    rows = f"Sentence #,Word,POS,Tag\nSentence: 1,Zoë,NNP,B-per\n{name},sleeps,VBZ,O\nSentence: 2,“Paris”,NNP,B-geo\n"
    (folder / "ner_dataset.csv").write_bytes(rows.encode(encoding))
    type_command("build_kaggle_dataset.py", tmp_path)
    paths = [folder / split / "sentences.txt" for split in ("train", "val", "test")]
    sentences = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted(sentences) == ["Zoë sleeps", "“Paris”"]


def test_build_dataset_names_the_command_that_needs_no_copy(tmp_path, type_command):
    printed = type_command("build_dataset.py --data_dir 'my data/SIGNS' --output_dir data/64x64_SIGNS", tmp_path, 2)
    assert "python train.py --data_dir 'my data/SIGNS' --model_dir experiments/base_model val_fraction=0.2" in printed


# ---- checkpoints of nets that are not ours


class TheirTagger(nn.Module):
    """A net of CS230's keys."""

    def __init__(self, num_words, num_tags):
        super().__init__()
        self.embedding = nn.Embedding(num_words, 50)
        self.lstm = nn.LSTM(50, 50, batch_first=True)
        self.fc = nn.Linear(50, num_tags)

    def forward(self, s):
        s, _ = self.lstm(self.embedding(s))
        return F.log_softmax(self.fc(s.reshape(-1, s.shape[2])), dim=1)


class TheirClassifier(nn.Module):
    """A net of CS230's keys."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width * 2, 3, padding=1), nn.BatchNorm2d(width * 2)
        self.conv3, self.bn3 = nn.Conv2d(width * 2, width * 4, 3, padding=1), nn.BatchNorm2d(width * 4)
        self.fc1, self.fcbn1 = nn.Linear(8 * 8 * width * 4, width * 4), nn.BatchNorm1d(width * 4)
        self.fc2 = nn.Linear(width * 4, 6)

    def forward(self, s):
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            s = F.relu(F.max_pool2d(norm(conv(s)), 2))
        s = F.relu(self.fcbn1(self.fc1(s.reshape(-1, 8 * 8 * self.width * 4))))
        return F.log_softmax(self.fc2(s), dim=1)


def save_theirs(model, folder):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    state = {"epoch": 3, "state_dict": model.state_dict(), "optim_dict": optimizer.state_dict()}
    for name in ("best", "last"):
        torch.save(state, folder / f"{name}.pth.tar")


@torch.no_grad()
@pytest.mark.parametrize("has_files", [True, False])
def test_a_tagger_of_theirs_is_scored_as_they_would(nlp, has_files):
    data_dir, model_dir = nlp / "data/small", nlp / "experiments/base_model"
    splits = SENTENCES if has_files else ["train"]  # without their files, our vocabulary has to be theirs
    words = [*cs230_vocabulary(data_dir, "sentences", splits), "<pad>", "UNK"]
    tags = cs230_vocabulary(data_dir, "labels", SENTENCES)
    if has_files:
        (data_dir / "words.txt").write_text("".join(f"{word}\n" for word in words))
        (data_dir / "tags.txt").write_text("".join(f"{tag}\n" for tag in tags))
    torch.manual_seed(0)
    model = TheirTagger(len(words), len(tags)).eval()
    save_theirs(model, model_dir)
    evaluate.main(["--model_dir", str(model_dir), "--data_dir", str(data_dir)])
    losses, hits = [], []
    tokens, labels = (read_splits(data_dir, kind)["test"] for kind in ("sentences", "labels"))
    for sentence, its_tags in zip(tokens, labels, strict=True):
        numbers = [words.index(word if word in words else "UNK") for word in sentence]
        outputs = model(torch.tensor([numbers])).numpy()
        wanted = [tags.index(tag) for tag in its_tags]
        losses += (-outputs[range(len(wanted)), wanted]).tolist()
        hits += (outputs.argmax(axis=1) == wanted).tolist()
    values = utils.read_json(model_dir / "metrics_test_best.json")
    assert values["loss"] == pytest.approx(np.mean(losses)) and values["accuracy"] == pytest.approx(np.mean(hits))
    inputs, predicted = data_dir / "test/sentences.txt", nlp / "predicted.csv"
    with pytest.raises(utils.InputError, match="does not name the data it was trained on; give --data_dir"):
        predict.main(["--model_dir", str(model_dir), "--input", str(data_dir / "test/sentences.txt")])
    words = ["--model_dir", model_dir, "--data_dir", data_dir, "--input", inputs, "--output", predicted]
    predict.main([str(word) for word in words])
    found = [row["prediction"].split() for row in read_csv(predicted)]
    assert found == [[tags[number] for number in outputs.argmax(axis=1)]]


@needs("vision")
@torch.no_grad()
def test_a_classifier_of_theirs_is_scored_as_they_would(tmp_path):
    generator = np.random.default_rng(0)
    names = [f"{i % 6}_IMG_{i}.jpg" for i in range(18)]
    for split in ("train", "val", "test"):
        folder = tmp_path / "data" / f"{split}_signs"
        folder.mkdir(parents=True)
        for name in names:
            Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / name)
    model_dir = tmp_path / "base_model"
    model_dir.mkdir()
    (model_dir / "params.json").write_text(VISION)
    torch.manual_seed(0)
    model = TheirClassifier(4)
    model(torch.rand(16, 3, 64, 64))  # so that its running statistics differ from a new net's
    save_theirs(model.eval(), model_dir)
    evaluate.main(["--model_dir", str(model_dir), "--data_dir", str(tmp_path / "data"), "num_workers=0"])
    pixels = [np.asarray(Image.open(tmp_path / "data/test_signs" / name)) / 255 for name in sorted(names)]
    outputs = model(torch.tensor(np.stack(pixels), dtype=torch.float32).permute(0, 3, 1, 2)).numpy()
    labels = [int(name[0]) for name in sorted(names)]
    values = utils.read_json(model_dir / "metrics_test_best.json")
    assert values["loss"] == pytest.approx(-outputs[range(18), labels].mean(), rel=1e-5)
    assert values["accuracy"] == pytest.approx((outputs.argmax(axis=1) == labels).mean())
