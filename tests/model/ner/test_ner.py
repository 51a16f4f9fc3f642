"""The tagger: batches, net, loss and word vectors against independent computations; and whole runs."""

import pytest
import torch
import torch.nn.functional as F
from seqeval.metrics import f1_score
from torch import nn

import evaluate
import train
import utils
from fiveline.tasks import fetch_facts
from model.ner import net, serve
from model.ner.data_loader import fetch_dataset
from model.ner.params import Params
from tests.support.data import read_csv, refusal
from tests.support.runs import finish, write_params
from tests.support.tasks import PROJECT

CORPUS = PROJECT / "data/ner_small"
FULL = {"char_channels": 6, "bidirectional": True, "num_layers": 2, "embedding_dim": 8, "lstm_hidden_dim": 8}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A dataset of the first 40 sentences of each split of the shipped one."""
    folder = tmp_path_factory.mktemp("corpus")
    for split in ("train", "val", "test"):
        (folder / split).mkdir()
        for name in ("sentences.txt", "labels.txt"):
            lines = (CORPUS / split / name).read_text(encoding="utf-8").splitlines()[:40]
            (folder / split / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def with_facts(folder, **values):
    return fetch_facts(folder, Params(**values))


# ---- batches


def test_batch_is_every_sentence_padded_to_the_longest(corpus):
    params = with_facts(corpus, char_channels=4, max_word_len=6)
    dataset = fetch_dataset("val", corpus, params)
    lines = (corpus / "val/sentences.txt").read_text(encoding="utf-8").splitlines()
    tag_lines = (corpus / "val/labels.txt").read_text(encoding="utf-8").splitlines()
    chosen = [7, 39, 0, 3]
    inputs, labels = dataset.__getitems__(chosen)
    assert inputs["words"].shape == labels.shape == (4, max(len(lines[i].split()) for i in chosen))
    assert inputs["words"].dtype == labels.dtype == torch.int64
    assert dataset.lengths == [len(line.split()) for line in lines]
    for row, i in enumerate(chosen):
        tokens, tags = lines[i].split(), tag_lines[i].split()
        known = [token if token in params.words else "UNK" for token in tokens]
        padding = labels.shape[1] - len(tokens)
        assert [params.words[n] for n in inputs["words"][row]] == known + ["<pad>"] * padding
        assert labels[row].tolist() == [params.tags.index(tag) for tag in tags] + [-100] * padding
        for place, token in enumerate(tokens):
            numbers = [n for n in inputs["chars"][row, place].tolist() if n]
            characters = params.facts["characters"]
            assert [characters[n] for n in numbers] == [c if c in characters else "UNK" for c in token[:6]]
        assert inputs["chars"][row, len(tokens) :].sum() == 0
    alone, label = dataset[7]
    assert torch.equal(alone["words"], inputs["words"][0, : len(label)])


def test_word_dropout_is_of_the_epoch_and_the_sentence_alone(corpus):
    params = with_facts(corpus, word_dropout_rate=0.3)
    dataset = fetch_dataset("train", corpus, params)
    plain = fetch_dataset("train", corpus, with_facts(corpus))
    unknown = params.words.index("UNK")

    def words(indices, epoch):
        dataset.set_epoch(epoch)
        return dataset.__getitems__(indices)[0]["words"]

    whole = words(list(range(40)), 1)
    true = plain.__getitems__(list(range(40)))[0]["words"]
    is_token = true != params.words.index("<pad>")
    assert torch.equal(whole == unknown, (whole != true))
    assert 0.2 < (whole == unknown).sum() / is_token.sum() < 0.4 and not (whole == unknown)[~is_token].any()
    alone = words([5], 1)[0]
    assert torch.equal(alone, whole[5, : len(alone)])
    assert not torch.equal(words(list(range(40)), 2), whole)
    unseen = fetch_dataset("train", corpus, params)  # where no epoch of training begins, as in evaluation
    assert torch.equal(unseen.__getitems__(list(range(40)))[0]["words"], true)


# ---- the net


def test_outputs_do_not_depend_on_the_rest_of_the_batch(corpus):
    params = with_facts(corpus, **FULL)
    dataset, model = fetch_dataset("val", corpus, params), net.Net(params).eval()
    outputs = model(dataset.__getitems__(list(range(40)))[0])
    for i, length in enumerate(dataset.lengths):
        alone = model(dataset.__getitems__([i])[0])
        assert alone.shape == (1, length, len(params.tags))
        torch.testing.assert_close(outputs[i, :length], alone[0], rtol=1e-4, atol=1e-6)


def test_two_directions_are_what_a_packed_lstm_of_pytorch_computes(corpus):
    params = with_facts(corpus, bidirectional=True)
    inputs, labels = fetch_dataset("val", corpus, params).__getitems__(list(range(8)))
    model = net.Net(params).eval()
    both = nn.LSTM(50, 50, batch_first=True, bidirectional=True)
    both.load_state_dict(
        model.lstm.state_dict() | {f"{name}_reverse": w for name, w in model.lstm_reverse.state_dict().items()}
    )
    lengths = (labels != -100).sum(dim=1)
    packed = nn.utils.rnn.pack_padded_sequence(model.embedding(inputs["words"]), lengths, True, enforce_sorted=False)
    hidden, _ = nn.utils.rnn.pad_packed_sequence(both(packed)[0], batch_first=True)
    is_token = labels != -100
    torch.testing.assert_close(model(inputs)[is_token], model.fc(hidden)[is_token])


def test_loss_is_the_cross_entropy_over_tokens():
    torch.manual_seed(0)
    outputs = torch.randn(6, 9, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(5, (6, 9))
    for row in range(6):
        labels[row, row + 2 :] = -100
    ours, theirs = net.loss_fn(outputs, labels), F.cross_entropy(outputs.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, outputs)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_word_vectors_of_a_file_are_the_start(corpus, tmp_path):
    path = tmp_path / "vectors.txt"
    lines = ["the 1 2 3", ". . . 9 9 9", "wrenford 4 5 6", "Wren 7 8 9", "unheard 1 1 1"]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert net.read_vectors(path, ["Wrenford", "the", "Wren", "none"], 3) == {
        "Wrenford": [4, 5, 6], "the": [1, 2, 3], "Wren": [7, 8, 9],
    }  # fmt: skip
    path.write_text("5 3\n" + "\n".join(lines), encoding="utf-8")  # word2vec's first line

    def initialize(embedding_dim, path=path):
        net.Net(with_facts(corpus, embedding_dim=embedding_dim, embedding_file=str(path))).initialize()

    assert "has vectors for 0 of" in refusal(initialize, 2)
    assert "vectors.txt:2: expected 50 finite numbers after" in refusal(initialize, 50)
    assert "nowhere.txt: cannot be read" in refusal(initialize, 3, "nowhere.txt")
    for numbers in ("1 2", "1 nan 3", "1 x 3", "1 2 inf"):
        path.write_text(f"b 1 2 3\nthe {numbers}\n", encoding="utf-8")
        assert "vectors.txt:2: expected 3 finite numbers after 'the" in refusal(initialize, 3)


def test_predictions_name_the_tags_of_each_sentence():
    params = Params().with_facts({"tags": ["O", "B-A"]})
    outputs = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [9.0, 0.0]]])
    labels = torch.tensor([[0, 0], [1, -100]])
    rows = serve.predictions(outputs, labels, params)
    assert [(row["prediction"], row["label"]) for row in rows] == [("O B-A", "O O"), ("O", "B-A")]
    probability = torch.softmax(outputs, dim=2)
    assert rows[0]["confidence"] == pytest.approx(float(probability[0].max(dim=1).values.mean()))
    assert rows[0]["loss"] == pytest.approx(float(F.cross_entropy(outputs[0], labels[0])))
    assert rows[1]["loss"] == pytest.approx(float(F.cross_entropy(outputs[1, :1], labels[1, :1])))
    assert serve.predictions(outputs, None, params)[1].keys() == {"prediction", "confidence"}


# ---- whole runs


def run(model_dir, data_dir, *words, **values):
    folder = write_params(model_dir, **{"task": "ner", "num_epochs": 2, "data_dir": str(data_dir), **values})
    return finish(folder, *words)


def test_run_learns_and_is_scored_as_seqeval_scores_its_predictions(tmp_path, corpus):
    settings = {"bidirectional": True, "char_channels": 10, "word_dropout_rate": 0.1, "dropout_rate": 0.1}
    model_dir = run(tmp_path / "run", corpus, num_epochs=8, learning_rate=0.02, batch_size=8, **settings)
    history = utils.read_lines(model_dir / "history.jsonl")
    assert history[-1]["train"]["f1"] > 0.5 > history[0]["train"]["f1"]
    evaluate.main(["--model_dir", str(model_dir), "--split", "val"])
    best, again = (utils.read_json(model_dir / f"metrics_val_best{end}.json") for end in ("_weights", ""))
    assert again == pytest.approx(best) and again["f1"] == max(row["val"]["f1"] for row in history)
    rows = read_csv(model_dir / "predictions_val_best.csv")
    assert len(rows) == 40 and rows[4]["id"] == "val/sentences.txt:5"
    labels, predicted = ([row[name].split() for row in rows] for name in ("label", "prediction"))
    assert "\n".join(map(" ".join, labels)) + "\n" == (corpus / "val/labels.txt").read_text(encoding="utf-8")
    assert f1_score(labels, predicted) == pytest.approx(again["f1"])


def test_run_starts_from_word_vectors_and_is_scored_without_them(tmp_path, corpus):
    path = tmp_path / "vectors.txt"
    path.write_text("the 1 2 3\n", encoding="utf-8")
    settings = {"embedding_dim": 3, "embedding_file": str(path), "num_epochs": 1, "learning_rate": 1e-9}
    model_dir = run(tmp_path / "run", corpus, **settings)
    assert f"{path} has vectors for" in (model_dir / "train.log").read_text(encoding="utf-8")
    state = utils.read_checkpoint(model_dir / "last.pth.tar")
    row = state["state_dict"]["embedding.weight"][state["facts"]["words"].index("the")]
    torch.testing.assert_close(row, torch.tensor([1.0, 2.0, 3.0]))
    path.unlink()
    evaluate.main(["--model_dir", str(model_dir)])
    assert "vectors.txt: cannot be read" in refusal(train.main, ["--model_dir", str(model_dir), "--restart"])


def test_stopped_run_continues_to_the_same_bits_with_other_workers(tmp_path, corpus):
    settings = {**FULL, "word_dropout_rate": 0.2, "dropout_rate": 0.3, "batch_size": 8}
    whole = run(tmp_path / "whole", corpus, **settings)
    run(tmp_path / "parts", corpus, num_epochs=1, **settings)
    parts = run(tmp_path / "parts", corpus, num_workers=1, **settings)
    first, second = (utils.read_checkpoint(folder / "last.pth.tar")["state_dict"] for folder in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_shipped_hyperparameters_reach_what_the_readme_says(tmp_path):
    values = utils.read_values(PROJECT / "experiments/ner/params.json")[0]
    model_dir = run(tmp_path / "run", CORPUS, **values)
    evaluate.main(["--model_dir", str(model_dir)])
    assert utils.read_json(model_dir / "metrics_test_best.json")["f1"] > 0.70
