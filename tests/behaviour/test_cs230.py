"""CS230's projects, from a fresh clone on: its params files, its data as it is there, its commands, its checkpoints."""

import itertools
import json
import subprocess
import sys

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
from tests.support.photos import save_picture
from tests.support.runs import write_params
from tests.support.tasks import PROJECT, need, needs

pytestmark = needs("ner")
NLP = {
    "learning_rate": 1e-2, "batch_size": 5, "num_epochs": 2, "lstm_hidden_dim": 50, "embedding_dim": 50,
    "save_summary_steps": 100,
}  # fmt: skip
VISION = {
    "learning_rate": 1e-3, "batch_size": 32, "num_epochs": 1, "dropout_rate": 0.8, "num_channels": 4,
    "save_summary_steps": 100, "num_workers": 4,
}  # fmt: skip
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
        (tmp_path / "data/small" / split).mkdir(parents=True)
        for name, text in zip(("sentences.txt", "labels.txt"), texts, strict=True):
            (tmp_path / "data/small" / split / name).write_text(text)
    write_params(tmp_path / "experiments/base_model", **NLP)
    return tmp_path


def lines_of(kind, splits):
    """Return the tokens (kind 0) or tags (kind 1) of each sentence of some splits."""
    return [line.split(" ") for split in splits for line in SENTENCES[split][kind].split("\n")]


def cs230_vocabulary(kind, splits):
    """Return the words or tags that CS230's build_vocab.py counts, in the order of first occurrence."""
    return list(dict.fromkeys(itertools.chain(*lines_of(kind, splits))))


TABULAR = {"target": "y", "hidden_size": 3}


@pytest.mark.parametrize(("task", "values"), [("ner", NLP), ("vision", VISION), ("vision", {}), ("tabular", TABULAR)])
def test_the_task_of_a_params_file_is_recognised_by_its_keys(tmp_path, task, values):
    need(task)
    params = fetch_params(write_params(tmp_path, **values))
    assert params.task == task and params.learning_rate == values.get("learning_rate", 1e-3)
    assert params.warnings() == []


@needs("vision")
def test_a_task_that_is_named_beats_the_keys(tmp_path):
    write_params(tmp_path, **NLP)
    for words in (["task=vision"], ["--task", "vision"]):
        with pytest.raises(utils.InputError, match="unknown key 'lstm_hidden_dim'"):
            train.main(["--model_dir", str(tmp_path), *words])
    with pytest.raises(utils.InputError, match=r"\(task ner, recognised by its keys\): unknown key 'embeding_dim'"):
        fetch_params(write_params(tmp_path, **NLP, embeding_dim=50))


def test_build_vocab_writes_cs230s_files(nlp):
    data_dir = nlp / "data/small"
    build_vocab.main(["--data_dir", str(data_dir), "--min_count_word", "1", "--min_count_tag", "1"])
    words, tags = ((data_dir / name).read_text().splitlines() for name in ("words.txt", "tags.txt"))
    assert words == [*cs230_vocabulary(0, ["train"]), "<pad>", "UNK"]
    assert tags == cs230_vocabulary(1, SENTENCES)  # of all splits
    assert json.loads((data_dir / "dataset_params.json").read_text()) == {
        "train_size": 3, "dev_size": 2, "test_size": 1, "vocab_size": len(words), "number_of_tags": len(tags),
        "pad_word": "<pad>", "pad_tag": "O", "unk_word": "UNK",
    }  # fmt: skip


def test_builders_write_where_cs230_does_or_say_what_to_type_instead(tmp_path):
    folder = tmp_path / "data/kaggle"
    folder.mkdir(parents=True)
    (folder / "ner_dataset.csv").write_text("Sentence #,Word,POS,Tag\nSentence: 1,Ann,NNP,B-per\n,sleeps,VBZ,O\n")
    command = "error: data/64x64_SIGNS is not needed"
    for script, code, printed in (("build_kaggle_dataset.py", 0, ""), ("build_dataset.py", 2, command)):
        done = subprocess.run([sys.executable, PROJECT / script], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code and printed in done.stderr
    assert any("Ann sleeps" in (folder / split / "sentences.txt").read_text() for split in SENTENCES)


class TheirTagger(nn.Module):
    def __init__(self, num_words, num_tags):
        super().__init__()
        self.embedding = nn.Embedding(num_words, 50)
        self.lstm = nn.LSTM(50, 50, batch_first=True)
        self.fc = nn.Linear(50, num_tags)

    def forward(self, s):
        s, _ = self.lstm(self.embedding(s))
        return F.log_softmax(self.fc(s.reshape(-1, s.shape[2])), dim=1)


class TheirClassifier(nn.Module):
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
    weights = {name: entry for name, entry in model.state_dict().items() if "num_batches" not in name}  # as PyTorch 0.4
    state = {"epoch": 3, "state_dict": weights, "optim_dict": optimizer.state_dict()}
    for name in ("best", "last"):
        torch.save(state, folder / f"{name}.pth.tar")


@torch.no_grad()
@pytest.mark.parametrize("has_files", [True, False])
def test_a_tagger_of_theirs_is_scored_as_they_would(nlp, has_files):
    data_dir, model_dir = nlp / "data/small", nlp / "experiments/base_model"
    splits = SENTENCES if has_files else ["train"]  # without their files, our vocabulary has to be theirs
    words = [*cs230_vocabulary(0, splits), "<pad>", "UNK"]
    tags = cs230_vocabulary(1, SENTENCES)
    if has_files:
        (data_dir / "words.txt").write_text("".join(f"{word}\n" for word in words))
        (data_dir / "tags.txt").write_text("".join(f"{tag}\n" for tag in tags))
    torch.manual_seed(0)
    model = TheirTagger(len(words), len(tags)).eval()
    save_theirs(model, model_dir)
    evaluate.main(["--model_dir", str(model_dir), "--data_dir", str(data_dir)])
    losses, hits = [], []
    for sentence, its_tags in zip(lines_of(0, ["test"]), lines_of(1, ["test"]), strict=True):
        numbers = [words.index(word if word in words else "UNK") for word in sentence]
        outputs = model(torch.tensor([numbers])).numpy()
        wanted = [tags.index(tag) for tag in its_tags]
        losses += (-outputs[range(len(wanted)), wanted]).tolist()
        hits += (outputs.argmax(axis=1) == wanted).tolist()
    values = utils.read_json(model_dir / "metrics_test_best.json")
    assert values["loss"] == pytest.approx(np.mean(losses)) and values["accuracy"] == pytest.approx(np.mean(hits))
    words = ["--model_dir", str(model_dir), "--input", str(data_dir / "test/sentences.txt")]
    with pytest.raises(utils.InputError, match="does not name the data it was trained on; give --data_dir"):
        predict.main(words)
    predict.main([*words, "--data_dir", str(data_dir), "--output", str(nlp / "predicted.csv")])
    found = [row["prediction"].split() for row in read_csv(nlp / "predicted.csv")]
    assert found == [[tags[number] for number in outputs.argmax(axis=1)]]


@needs("vision")
@torch.no_grad()
def test_a_classifier_of_theirs_is_scored_as_they_would(tmp_path):
    generator = np.random.default_rng(0)
    names = sorted(f"{i % 6}_IMG_{i}.jpg" for i in range(18))
    for split in ("train", "val", "test"):
        for name in names:
            pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            save_picture(tmp_path / f"data/{split}_signs" / name, pixels)
    model_dir = write_params(tmp_path / "base_model", **VISION)
    torch.manual_seed(0)
    model = TheirClassifier(4)
    model(torch.rand(16, 3, 64, 64))  # so that its running statistics differ from a new net's
    save_theirs(model.eval(), model_dir)
    evaluate.main(["--model_dir", str(model_dir), "--data_dir", str(tmp_path / "data"), "num_workers=0"])
    pixels = [np.asarray(Image.open(tmp_path / "data/test_signs" / name)) / 255 for name in names]
    outputs = model(torch.tensor(np.stack(pixels), dtype=torch.float32).permute(0, 3, 1, 2)).numpy()
    labels = [int(name[0]) for name in names]
    values = utils.read_json(model_dir / "metrics_test_best.json")
    assert values["loss"] == pytest.approx(-outputs[range(18), labels].mean(), rel=1e-5)
    assert values["accuracy"] == pytest.approx((outputs.argmax(axis=1) == labels).mean())
