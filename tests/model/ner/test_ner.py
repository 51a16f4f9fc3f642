"""The tagger: batches, net, loss and metrics against independent computations, CS230's checkpoints, and whole runs."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from seqeval.metrics import f1_score, precision_score, recall_score
from torch import nn

import evaluate
import train
import utils
from fiveline.loader import fetch_dataloader
from fiveline.metrics import MetricSums
from model.ner import net, serve
from model.ner.data_loader import fetch_dataset, fetch_facts
from model.ner.entities import EntityCounter
from model.ner.params import Params

PROJECT = Path(__file__).resolve().parents[3]
CORPUS = PROJECT / "data/ner_small"
CS230_PARAMS = {
    "learning_rate": 1e-3, "batch_size": 5, "num_epochs": 10, "lstm_hidden_dim": 50, "embedding_dim": 50,
    "save_summary_steps": 100, "task": "ner",
}  # fmt: skip
FULL = {"char_channels": 6, "bidirectional": True, "num_layers": 2, "embedding_dim": 8, "lstm_hidden_dim": 8}


@pytest.fixture
def corpus(tmp_path):
    """A dataset of the first 40 sentences of each split of the shipped one."""
    for split in ("train", "val", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for name in ("sentences.txt", "labels.txt"):
            lines = (CORPUS / split / name).read_text(encoding="utf-8").splitlines()[:40]
            (tmp_path / "data" / split / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "data"


def with_facts(folder, **values):
    params = Params(**values)
    return params.with_facts(fetch_facts(folder, params))


def with_tags(tags):
    return Params().with_facts({"tags": tags})


def logits_of(predicted, num_tags):
    """Return outputs whose largest logit is the predicted tag's."""
    return F.one_hot(predicted, num_tags).float()


# ---- batches


@pytest.mark.parametrize("char_channels", [0, 4])
def test_batch_is_every_sentence_padded_to_the_longest(corpus, char_channels):
    params = with_facts(corpus, char_channels=char_channels, max_word_len=6)
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
        if char_channels:
            for place, token in enumerate(tokens):
                numbers = [n for n in inputs["chars"][row, place].tolist() if n]
                characters = params.facts["characters"]
                assert [characters[n] for n in numbers] == [c if c in characters else "UNK" for c in token[:6]]
            assert inputs["chars"][row, len(tokens) :].sum() == 0
    assert ("chars" in inputs) == bool(char_channels)
    alone, label = dataset[7]
    assert torch.equal(alone["words"], inputs["words"][0, : len(label)])


def test_every_sentence_is_trained_on_once_in_batches_of_similar_length(corpus):
    params = with_facts(CORPUS, batch_size=32)
    for split in ("train", "test"):
        loader = fetch_dataloader(split, CORPUS, params, training=split == "train")
        dataset = fetch_dataset(split, CORPUS, params)
        seen, num_places = [], 0
        for inputs, labels in loader:
            num_places += labels.numel()
            lengths = (labels != -100).sum(dim=1).tolist()
            seen += [tuple(words[:length].tolist()) for words, length in zip(inputs["words"], lengths, strict=True)]
        expected = [tuple(dataset[i][0]["words"].tolist()) for i in range(len(dataset))]
        assert sorted(seen) == sorted(expected)
        assert (seen == expected) == (split == "test")
        if split == "train":
            assert num_places < 1.2 * sum(dataset.lengths)


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
    params = with_facts(corpus, embedding_dim=3, embedding_file=str(path))
    model = net.Net(params)
    model.initialize()
    assert model.embedding.weight[params.words.index("the")].tolist() == [1, 2, 3]
    for embedding_dim, message in (
        (2, "has vectors for 0 of"),
        (50, "vectors.txt:2: expected 50 finite numbers after"),
    ):
        with pytest.raises(utils.InputError, match=message):
            net.Net(with_facts(corpus, embedding_dim=embedding_dim, embedding_file=str(path))).initialize()
    with pytest.raises(utils.InputError, match="nowhere.txt: cannot be read"):
        net.Net(with_facts(corpus, embedding_file="nowhere.txt")).initialize()
    path.write_text("b 1 2 3\nthe 1 2\n", encoding="utf-8")
    with pytest.raises(utils.InputError, match="expected 3 finite numbers after 'the'"):
        model.initialize()


def test_run_starts_from_word_vectors_and_is_scored_without_them(tmp_path, corpus):
    path = tmp_path / "vectors.txt"
    path.write_text("the 1 2 3\n", encoding="utf-8")
    model_dir = run(
        tmp_path, corpus, "run", embedding_dim=3, embedding_file=str(path), num_epochs=1, learning_rate=1e-9
    )
    assert f"{path} has vectors for" in (model_dir / "train.log").read_text(encoding="utf-8")
    state = utils.read_checkpoint(model_dir / "last.pth.tar")
    row = state["state_dict"]["embedding.weight"][state["facts"]["words"].index("the")]
    torch.testing.assert_close(row, torch.tensor([1.0, 2.0, 3.0]))
    path.unlink()
    evaluate.main(["--model_dir", str(model_dir)])
    with pytest.raises(utils.InputError, match="vectors.txt: cannot be read"):
        train.main(["--model_dir", str(model_dir), "--restart"])


# ---- metrics


def random_tags(generator, tags, most=12):
    return [[generator.choice(tags) for _ in range(generator.randint(1, most))] for _ in range(generator.randint(1, 8))]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.filterwarnings("ignore::Warning")
def test_entities_are_counted_as_seqeval_does(seed):
    generator = random.Random(seed)
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "I-ORG"][: 3 + seed % 4]
    labels = random_tags(generator, tags)
    close = generator.random()
    predicted = [[tag if generator.random() < close else generator.choice(tags) for tag in line] for line in labels]
    numbers = {tag: number for number, tag in enumerate(tags)}
    sums = MetricSums(net.metrics(with_tags(tags)))
    for start in range(0, len(labels), 3):  # in batches
        rows = range(start, min(start + 3, len(labels)))
        shape = (len(rows), max(len(labels[i]) for i in rows))
        label_batch, output_batch = torch.full(shape, -100), torch.randint(len(tags), shape)  # at padding, anything
        for row, i in enumerate(rows):
            label_batch[row, : len(labels[i])] = torch.tensor([numbers[tag] for tag in labels[i]])
            output_batch[row, : len(labels[i])] = torch.tensor([numbers[tag] for tag in predicted[i]])
        sums.add(logits_of(output_batch, len(tags)), label_batch, torch.tensor(0.0))
    values = sums.result()
    expected = {
        "precision": precision_score(labels, predicted, zero_division=0),
        "recall": recall_score(labels, predicted, zero_division=0),
        "f1": f1_score(labels, predicted, zero_division=0),
        "accuracy": np.mean(np.array(sum(labels, [])) == np.array(sum(predicted, []))),
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_nothing_found_is_precision_zero():
    metrics = net.metrics(with_tags(["O", "B-A"]))
    sums = MetricSums(metrics)
    sums.add(logits_of(torch.zeros(1, 3, dtype=torch.int64), 2), torch.tensor([[0, 1, 0]]), torch.tensor(1.0))
    assert sums.result() == pytest.approx({"accuracy": 2 / 3, "precision": 0, "recall": 0, "f1": 0, "loss": 1})


def test_tags_without_prefix_count_as_runs():
    count = EntityCounter(["NOUN", "VERB", "O"], "plain").count
    outputs = logits_of(torch.tensor([[0, 0, 1, 2, 1]]), 3)
    assert count(outputs, torch.tensor([[0, 0, 1, 1, 2]])).tolist() == [5, 3, 2, 3, 1]


def test_predictions_name_the_tags_of_each_sentence():
    params = with_tags(["O", "B-A"])
    outputs = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [9.0, 0.0]]])
    labels = torch.tensor([[0, 0], [1, -100]])
    rows = serve.predictions(outputs, labels, params)
    assert [(row["prediction"], row["label"]) for row in rows] == [("O B-A", "O O"), ("O", "B-A")]
    probability = torch.softmax(outputs, dim=2)
    assert rows[0]["confidence"] == pytest.approx(float(probability[0].max(dim=1).values.mean()))
    assert rows[0]["loss"] == pytest.approx(float(F.cross_entropy(outputs[0], labels[0])))
    assert rows[1]["loss"] == pytest.approx(float(F.cross_entropy(outputs[1, :1], labels[1, :1])))
    assert serve.predictions(outputs, None, params)[1].keys() == {"prediction", "confidence"}


# ---- CS230's projects


def write_cs230_project(folder):
    """Write what CS230's code leaves behind: vocabulary files, params.json and best.pth.tar; return the weights."""
    words = ["<pad>", "Ada", "Rome", "met", "fell", "UNK"]  # in an order that our own vocabulary would not have
    tags = ["B-LOC", "O", "B-PER"]
    (folder / "data").mkdir()
    (folder / "data/words.txt").write_text("".join(f"{word}\n" for word in words))
    (folder / "data/tags.txt").write_text("".join(f"{tag}\n" for tag in tags))
    sizes = {
        "train_size": 2, "dev_size": 2, "test_size": 2, "vocab_size": 6, "number_of_tags": 3, "pad_word": "<pad>",
        "pad_tag": "O", "unk_word": "UNK",
    }  # fmt: skip
    (folder / "data/dataset_params.json").write_text(json.dumps(sizes))
    for split in ("train", "val", "test"):
        (folder / "data" / split).mkdir()
        (folder / "data" / split / "sentences.txt").write_text("Ada met Nobody\nRome fell\n")
        (folder / "data" / split / "labels.txt").write_text("B-PER O B-PER\nB-LOC O\n")
    torch.manual_seed(1)
    layers = {"embedding": nn.Embedding(6, 50), "lstm": nn.LSTM(50, 50, batch_first=True), "fc": nn.Linear(50, 3)}
    weights = {f"{name}.{key}": w for name, layer in layers.items() for key, w in layer.state_dict().items()}
    optimizer = torch.optim.Adam(nn.ModuleDict(layers).parameters())
    state = {"epoch": 3, "state_dict": weights, "optim_dict": optimizer.state_dict()}
    (folder / "base_model").mkdir()
    torch.save(state, folder / "base_model/best.pth.tar")
    (folder / "base_model/params.json").write_text(json.dumps(CS230_PARAMS))
    return layers


@torch.no_grad()
def test_a_checkpoint_of_cs230_is_scored_as_computed_by_hand(tmp_path):
    layers = write_cs230_project(tmp_path)
    evaluate.main(["--model_dir", str(tmp_path / "base_model"), "--data_dir", str(tmp_path / "data")])
    values = json.loads((tmp_path / "base_model/metrics_test_best.json").read_text())
    losses, hits = [], []
    for words, labels in (([1, 3, 5], [2, 1, 2]), ([2, 4], [0, 1])):
        hidden, _ = layers["lstm"](layers["embedding"](torch.tensor([words])))
        log_probabilities = F.log_softmax(layers["fc"](hidden)[0], dim=1)
        losses += (-log_probabilities[range(len(words)), labels]).tolist()
        hits += (log_probabilities.argmax(dim=1) == torch.tensor(labels)).tolist()
    assert values["loss"] == pytest.approx(np.mean(losses)) and values["accuracy"] == pytest.approx(np.mean(hits))


def test_defaults_are_cs230s_net(tmp_path):
    write_cs230_project(tmp_path)
    defaults = with_facts(tmp_path / "data")
    params = with_facts(tmp_path / "data", **CS230_PARAMS)
    assert (params.embedding_dim, params.lstm_hidden_dim) == (defaults.embedding_dim, defaults.lstm_hidden_dim)
    shapes = {name: tuple(weight.shape) for name, weight in net.Net(defaults).state_dict().items()}
    assert shapes == {
        "embedding.weight": (6, 50), "lstm.weight_ih_l0": (200, 50), "lstm.weight_hh_l0": (200, 50),
        "lstm.bias_ih_l0": (200,), "lstm.bias_hh_l0": (200,), "fc.weight": (3, 50), "fc.bias": (3,),
    }  # fmt: skip


# ---- whole runs


def run(tmp_path, corpus, name, *words, **values):
    model_dir = tmp_path / name
    model_dir.mkdir(exist_ok=True)
    settings = {"task": "ner", "num_epochs": 2, "data_dir": str(corpus), **values}
    (model_dir / "params.json").write_text(json.dumps(settings), encoding="utf-8")
    train.main(["--model_dir", str(model_dir), *words])
    return model_dir


def test_run_learns_and_is_scored(tmp_path, corpus):
    settings = {"bidirectional": True, "char_channels": 10, "word_dropout_rate": 0.1, "dropout_rate": 0.1}
    model_dir = run(tmp_path, corpus, "run", num_epochs=12, learning_rate=0.02, batch_size=8, **settings)
    history = utils.read_lines(model_dir / "history.jsonl")
    assert history[-1]["train"]["f1"] > 0.5 > history[0]["train"]["f1"]
    evaluate.main(["--model_dir", str(model_dir), "--split", "val"])
    best = json.loads((model_dir / "metrics_val_best_weights.json").read_text())
    again = json.loads((model_dir / "metrics_val_best.json").read_text())
    assert again == pytest.approx(best) and again["f1"] == max(row["val"]["f1"] for row in history)
    with (model_dir / "predictions_val_best.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and rows[4]["id"] == "val/sentences.txt:5"
    labels = [row["label"].split() for row in rows]
    predicted = [row["prediction"].split() for row in rows]
    assert "\n".join(map(" ".join, labels)) + "\n" == (corpus / "val/labels.txt").read_text(encoding="utf-8")
    assert f1_score(labels, predicted) == pytest.approx(again["f1"])


def test_scores_do_not_depend_on_the_batch_size(tmp_path, corpus):
    model_dir = run(tmp_path, corpus, "run", **FULL, num_epochs=3, learning_rate=0.02)
    values = []
    for batch_size in (1, 7, 100):
        evaluate.main(["--model_dir", str(model_dir), f"batch_size={batch_size}"])
        values.append(json.loads((model_dir / "metrics_test_best.json").read_text()))
    assert values[0] == pytest.approx(values[1]) and values[1] == pytest.approx(values[2])


def test_stopped_run_continues_to_the_same_bits(tmp_path, corpus):
    settings = {**FULL, "word_dropout_rate": 0.2, "dropout_rate": 0.3, "batch_size": 8}
    whole = run(tmp_path, corpus, "whole", num_epochs=3, **settings)
    run(tmp_path, corpus, "parts", num_epochs=1, **settings)
    parts = run(tmp_path, corpus, "parts", num_epochs=3, num_workers=2, **settings)
    first, second = (utils.read_checkpoint(folder / "last.pth.tar")["state_dict"] for folder in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("batch_size", [1, 5, 64])  # 64: more than there are
def test_params_of_cs230_run(tmp_path, corpus, batch_size):
    settings = {**CS230_PARAMS, "batch_size": batch_size, "num_epochs": 1}
    model_dir = run(tmp_path, corpus, "run", **settings)
    row = utils.read_lines(model_dir / "history.jsonl")[0]
    assert 0 <= row["val"]["f1"] <= 1 and row["val"]["loss"] < 3


def test_mistake_in_the_data_ends_with_code_2(corpus, run_script):
    (corpus / "train/labels.txt").write_text("O\n")
    (corpus / "params.json").write_text(json.dumps({"task": "ner", "data_dir": str(corpus)}))
    result = run_script("train.py", "--model_dir", corpus)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "sentences.txt: 40 lines, but labels.txt beside it has 1" in result.stderr


@pytest.mark.slow
def test_shipped_hyperparameters_reach_what_the_readme_says(tmp_path):
    values = utils.read_values(PROJECT / "experiments/ner/params.json")[0]
    model_dir = run(tmp_path, CORPUS, "run", **{**values, "data_dir": str(CORPUS)})
    evaluate.main(["--model_dir", str(model_dir)])
    assert json.loads((model_dir / "metrics_test_best.json").read_text())["f1"] > 0.70
