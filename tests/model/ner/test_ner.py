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
from model.ner import net
from model.ner.data_loader import fetch_dataset
from model.ner.params import Params
from tests.support.data import read_csv, refusal
from tests.support.runs import finish, write_params
from tests.support.tasks import PROJECT

CORPUS = PROJECT / "data/ner_small"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A dataset of the first 40 sentences of each split of the shipped one."""
    folder = tmp_path_factory.mktemp("corpus")
    for path in CORPUS.glob("*/*.txt"):
        (folder / path.parent.name).mkdir(exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:40]
        (folder / path.parent.name / path.name).write_text("".join(lines), encoding="utf-8")
    return folder


def with_facts(folder, **values):
    return fetch_facts(folder, Params(**values))


def test_batch_is_every_sentence_padded_to_the_longest(corpus):
    params = with_facts(corpus, char_channels=4, max_word_len=6)
    dataset, characters = fetch_dataset("val", corpus, params), params.facts["characters"]
    paths = (corpus / f"val/{name}.txt" for name in ("sentences", "labels"))
    sentences, labels = ([line.split() for line in path.read_text("utf-8").splitlines()] for path in paths)
    chosen = [7, 39, 0, 3]
    inputs, numbers = dataset.__getitems__(chosen)
    assert inputs["words"].dtype == numbers.dtype == torch.int64 and dataset.lengths == [*map(len, sentences)]
    for row, i in enumerate(chosen):
        padding = max(len(sentences[j]) for j in chosen) - len(sentences[i])
        known = [token if token in params.words else "UNK" for token in sentences[i]]
        assert [params.words[n] for n in inputs["words"][row]] == known + ["<pad>"] * padding
        assert numbers[row].tolist() == [params.tags.index(tag) for tag in labels[i]] + [-100] * padding
        shown = [[characters[n] for n in places if n] for places in inputs["chars"][row].tolist()]
        spelt = [[c if c in characters else "UNK" for c in token[:6]] for token in sentences[i]]
        assert shown == spelt + [[]] * padding
    assert torch.equal(dataset[7][0]["words"], inputs["words"][0, : len(sentences[7])])


def test_word_dropout_is_of_the_epoch_and_the_sentence_alone(corpus):
    params, every = with_facts(corpus, word_dropout_rate=0.3), list(range(40))
    dataset, unknown = fetch_dataset("train", corpus, params), params.words.index("UNK")

    def words(indices, epoch):
        dataset.set_epoch(epoch)
        return dataset.__getitems__(indices)[0]["words"]

    true = dataset.__getitems__(every)[0]["words"]  # where no epoch of training begins, as in evaluation
    assert torch.equal(true, fetch_dataset("train", corpus, with_facts(corpus)).__getitems__(every)[0]["words"])
    whole, is_token = words(every, 1), true != params.words.index("<pad>")
    assert torch.equal(whole == unknown, whole != true) and not (whole == unknown)[~is_token].any()
    assert 0.2 < (whole == unknown).sum() / is_token.sum() < 0.4
    alone = words([5], 1)[0]
    assert torch.equal(alone, whole[5, : len(alone)]) and not torch.equal(words(every, 2), whole)


def test_two_directions_are_what_a_packed_lstm_of_pytorch_computes(corpus):
    params = with_facts(corpus, bidirectional=True)
    inputs, labels = fetch_dataset("val", corpus, params).__getitems__(list(range(8)))
    model, both = net.Net(params).eval(), nn.LSTM(50, 50, batch_first=True, bidirectional=True)
    reverse = {f"{name}_reverse": weight for name, weight in model.lstm_reverse.state_dict().items()}
    both.load_state_dict(model.lstm.state_dict() | reverse)
    is_token = labels != -100
    packed = nn.utils.rnn.pack_padded_sequence(
        model.embedding(inputs["words"]), is_token.sum(dim=1), batch_first=True, enforce_sorted=False
    )
    hidden, _ = nn.utils.rnn.pad_packed_sequence(both(packed)[0], batch_first=True)
    torch.testing.assert_close(model(inputs)[is_token], model.fc(hidden)[is_token])


def test_loss_is_the_cross_entropy_over_tokens():
    outputs = torch.randn(6, 9, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(5, (6, 9)).where(torch.arange(9) < torch.arange(2, 8)[:, None], -100)
    ours, theirs = net.loss_fn(outputs, labels), F.cross_entropy(outputs.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, outputs)[0] for loss in (ours, theirs)))


def test_word_vectors_of_a_file_are_read_or_refused(tmp_path):
    path = tmp_path / "vectors.txt"
    lines = ["the 1 2 3", ". . . 9 9 9", "wrenford 4 5 6", "Wren 7 8 9", "unheard 1 1 1"]
    for first in ([], ["5 3"]):  # word2vec's first line
        path.write_text("\n".join([*first, *lines]), encoding="utf-8")
        found = net.read_vectors(path, ["Wrenford", "the", "Wren", "none"], 3)
        assert found == {"Wrenford": [4, 5, 6], "the": [1, 2, 3], "Wren": [7, 8, 9]}
    for numbers in ("1 2", "1 nan 3", "1 x 3", "1 2 inf"):
        path.write_text(f"b 1 2 3\nthe {numbers}\n", encoding="utf-8")
        assert "vectors.txt:2: expected 3 finite numbers after 'the" in refusal(net.read_vectors, path, ["the"], 3)


def run(model_dir, data_dir, **values):
    return finish(write_params(model_dir, **{"task": "ner", "data_dir": str(data_dir), **values}))


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
    losses = [float(row["loss"]) * len(tags) for row, tags in zip(rows, labels, strict=True)]
    assert sum(losses) / sum(map(len, labels)) == pytest.approx(again["loss"], rel=1e-4)


def test_run_starts_from_word_vectors_and_is_scored_without_them(tmp_path, corpus):
    path = tmp_path / "vectors.txt"
    path.write_text("the 1 2 3\n", encoding="utf-8")
    settings = {"embedding_dim": 3, "embedding_file": str(path), "num_epochs": 1, "learning_rate": 1e-9}
    model_dir = run(tmp_path / "run", corpus, **settings)
    assert f"{path} has vectors for" in (model_dir / "train.log").read_text(encoding="utf-8")
    state, words = utils.read_checkpoint(model_dir / "last.pth.tar"), with_facts(corpus).words
    row = state["state_dict"]["embedding.weight"][words.index("the")]
    torch.testing.assert_close(row, torch.tensor([1.0, 2.0, 3.0]))
    path.unlink()
    evaluate.main(["--model_dir", str(model_dir)])
    restart = ["--model_dir", str(model_dir), "--restart"]
    assert "vectors.txt: cannot be read" in refusal(train.main, restart)
    path.write_text("unheard 1 2 3\n", encoding="utf-8")
    assert "has vectors for 0 of" in refusal(train.main, restart)


@pytest.mark.slow
def test_shipped_hyperparameters_reach_what_the_readme_says(tmp_path):
    values = utils.read_values(PROJECT / "experiments/ner/params.json")[0]
    model_dir = run(tmp_path / "run", CORPUS, **values)
    evaluate.main(["--model_dir", str(model_dir)])
    assert utils.read_json(model_dir / "metrics_test_best.json")["f1"] > 0.70
