"""Bugs that people make in language models are planted, and sanity_check.py finds each and names its cause."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sanity_check
from fiveline.tasks import fetch_params
from model.text import data_loader
from model.text import net as text_net
from tests.support.data import write_csv
from tests.support.runs import write_params
from tests.support.tasks import PROJECT

SMALL = {"task": "text", "context_length": 32, "num_layers": 2, "num_heads": 2, "width": 32, "batch_size": 8,
         "learning_rate": 3e-3, "optimizer": "adamw"}  # fmt: skip
LABELS = {**SMALL, "target": "label", "positions": "rotary"}
SOURCE = (PROJECT / "data/python_source/train.txt").read_text(encoding="utf-8")
SIZES = {"train": 12_000, "val": 3_000, "test": 3_000}


@pytest.fixture
def text_dir(tmp_path):
    """Return the folder of a short text whose splits follow each other."""
    start = 0
    for split, size in SIZES.items():
        (tmp_path / f"{split}.txt").write_text(SOURCE[start : start + size])
        start += size
    return tmp_path


@pytest.fixture
def find(text_dir, tmp_path):
    """Return a function that makes one check of a small run."""

    def check(name, **params):
        if params.get("target") == "label":
            lines = [*dict.fromkeys(line.strip() for line in SOURCE.splitlines() if len(line.split()) > 3)]
            for place, split in enumerate(SIZES):
                rows = [[line, "comment" if line.startswith("#") else "code"] for line in lines[place::3][:200]]
                write_csv(tmp_path / f"{split}.csv", [["text", "label"], *rows])
        folder = write_params(tmp_path / "run", **{"data_dir": str(text_dir), **params})
        context = sanity_check.fetch_context(fetch_params(folder), torch.device("cpu"))
        return sanity_check.look(sanity_check.choose(name)[0][1], context)

    return check


# --- the bugs; `patch` is pytest's monkeypatch


def change_windows(patch, change):
    """Let `change(tokens)`, one more than the net sees, decide inputs and labels."""
    original = data_loader.Windows.__getitems__

    def fetch(self, indices):
        inputs, labels = original(self, indices)
        return change(torch.cat([inputs, labels[:, -1:].clamp(min=0)], dim=1))

    patch.setattr(data_loader.Windows, "__getitems__", fetch)


def change_net(patch, change):
    original = text_net.Net.__init__

    def init(self, params):
        original(self, params)
        with torch.no_grad():
            change(self)

    patch.setattr(text_net.Net, "__init__", init)


def attend(patch, weights):
    """Let `weights(scores)` make the weights of attention, from scores of (..., L, L)."""

    def attention(q, k, v, *_, **__):
        return weights(q @ k.mT / q.shape[-1] ** 0.5) @ v

    patch.setattr(F, "scaled_dot_product_attention", attention)


def seen(scores, mask):
    return scores.masked_fill(~mask(torch.ones_like(scores, dtype=torch.bool)), -torch.inf)


def attend_over_the_batch(patch):
    """As nn.MultiheadAttention does without batch_first=True."""
    original = text_net.Attention.forward
    patch.setattr(text_net.Attention, "forward", lambda self, x, *_: original(self, x.transpose(0, 1)).transpose(0, 1))


def forget_positions(patch):
    change_net(patch, lambda net: net.transformer.wpe.register_forward_hook(lambda *args: torch.zeros_like(args[2])))


def repeat_one_position(patch):
    change_net(
        patch, lambda net: net.transformer.wpe.register_forward_pre_hook(lambda _, args: (torch.zeros_like(args[0]),))
    )


def forget_to_rotate(patch):
    patch.setattr(text_net, "rotated", lambda x, *_: x)


def draw_large_embeddings(patch, std=1.0):
    change_net(patch, lambda net: nn.init.normal_(net.transformer.wte.weight, std=std))


def copy_the_inputs(patch):
    change_windows(patch, lambda tokens: (tokens[:, :-1], tokens[:, :-1]))
    draw_large_embeddings(patch)


def drop_in_evaluation(patch):
    change_net(patch, lambda net: net.transformer.wte.register_forward_hook(lambda *args: F.dropout(args[2], 0.1)))


def count_padding(patch):
    patch.setattr(
        text_net,
        "loss_fn",
        lambda outputs, labels: F.cross_entropy(outputs.flatten(0, 1), labels.flatten().clamp(min=0)),
    )


def count_correct_padding(patch):
    def accuracy(outputs, labels):
        return (outputs.argmax(-1) == labels).sum(), torch.ones_like(labels).sum()

    patch.setattr(text_net, "metrics", {"accuracy": accuracy})


def repeat_the_windows(patch):
    original = data_loader.epoch_draws
    patch.setattr(data_loader, "epoch_draws", lambda seed, epoch, *rest: original(seed, 1, *rest))


def show_padding(patch):
    change_net(patch, lambda net: setattr(net, "pad", -1))


def read_the_last_place(patch):
    """Let the classifier read the last place of the batch, which is padding in a shorter text."""

    def forward(self, tokens):
        return self.classifier(self.transformer(tokens, tokens.ne(self.pad)[:, None, None])[:, -1])

    patch.setattr(text_net.Net, "forward", forward)


def return_probabilities(patch):
    original = text_net.Net.forward
    patch.setattr(text_net.Net, "forward", lambda self, *args: original(self, *args).softmax(-1))


def number_val_by_itself(patch):
    """Give each token of val another number than train does."""
    original = data_loader.fetch_dataset

    def fetch_dataset(split, data_dir, params):
        dataset = original(split, data_dir, params)
        if split == "val":
            dataset.tokens = (dataset.tokens + 1) % len(params.facts["token_bytes"])
        return dataset

    patch.setattr(data_loader, "fetch_dataset", fetch_dataset)


ROTARY = {**SMALL, "positions": "rotary"}
BUGS = {  # the cause: how to plant it, and the params, the check, its status and what it says
    "labels that are the inputs": (
        lambda patch: change_windows(patch, lambda tokens: (tokens[:, :-1], tokens[:, :-1])), SMALL,
        "visible_answers", "FAIL", "the labels are the input tokens themselves"),
    "labels shifted by two": (
        lambda patch: change_windows(patch, lambda tokens: (tokens[:, :-2], tokens[:, 2:])), SMALL,
        "visible_answers", "FAIL", "the label of a token is the one at distance +2, not the next one"),
    "labels shifted backwards": (
        lambda patch: change_windows(patch, lambda tokens: (tokens[:, 1:], tokens[:, :-1])), SMALL,
        "visible_answers", "FAIL", "at distance -1"),
    "no causal mask": (
        lambda patch: attend(patch, lambda scores: scores.softmax(-1)), SMALL,
        "visible_answers", "FAIL", "the net sees the tokens that it must predict"),
    "the mask transposed": (
        lambda patch: attend(patch, lambda scores: seen(scores, torch.triu).softmax(-1)), SMALL,
        "visible_answers", "FAIL", "the net sees the tokens that it must predict"),
    "softmax over the queries": (
        lambda patch: attend(patch, lambda scores: seen(scores, torch.tril).softmax(-2)), SMALL,
        "visible_answers", "FAIL", "the net sees the tokens that it must predict"),
    "attention over the batch": (
        attend_over_the_batch, SMALL, "own_example", "FAIL", "outputs differ by"),
    "the mask hides what may be seen": (
        lambda patch: attend(patch, lambda scores: seen(seen(scores, torch.tril), torch.triu).softmax(-1)), SMALL,
        "token_order", "FAIL", "no output depends on an earlier token"),
    "positions not added": (
        forget_positions, SMALL, "gradients", "FAIL", "no gradient at all: transformer.wpe.weight"),
    "one position for all tokens": (
        repeat_one_position, SMALL, "token_order", "FAIL", "positions are unused"),
    "queries and keys not rotated": (
        forget_to_rotate, ROTARY, "token_order", "FAIL", "positions are unused"),
    "not rotated, with attention written out": (
        lambda patch: (forget_to_rotate(patch), attend(patch, lambda scores: seen(scores, torch.tril).softmax(-1))),
        ROTARY, "token_order", "FAIL", "positions are unused"),
    "a tied embedding that begins as PyTorch's": (
        draw_large_embeddings, SMALL, "initial_loss", "FAIL", "far above a guess"),
    "an answer that the first net knows": (
        copy_the_inputs, SMALL, "initial_loss", "FAIL", "below what a net that has learnt nothing can reach"),
    "softmax before the loss": (
        return_probabilities, SMALL, "logits", "FAIL", "softmax is applied twice"),
    "the loss counts padding": (
        count_padding, SMALL, "unscored_labels", "FAIL", "labels of -100 (padding) are counted: with and without them"),
    "the accuracy counts padding": (
        count_correct_padding, SMALL, "unscored_labels", "FAIL", "accuracy"),
    "dropout in evaluation": (
        drop_in_evaluation, SMALL, "repeatable", "FAIL", "a second time, val has other metrics"),
    "the same windows in each epoch": (
        repeat_the_windows, SMALL, "augmentation", "WARN", "the same in each epoch"),
    "padding is seen": (show_padding, LABELS, "own_example", "FAIL", "outputs differ by"),
    "padding is read": (read_the_last_place, LABELS, "own_example", "FAIL", "outputs differ by"),
    "a classifier without positions": (
        forget_to_rotate, LABELS, "token_order", "WARN", "positions are unused"),
}  # fmt: skip


@pytest.mark.parametrize(("plant", "params", "check", "status", "words"), BUGS.values(), ids=BUGS)
def test_a_bug_of_a_language_model_is_found(find, monkeypatch, plant, params, check, status, words):
    plant(monkeypatch)
    finding = find(check, **params)
    assert (finding.status, words in finding.explanation) == (status, True), finding
    assert finding.advice and "stopped by" not in finding.explanation


@pytest.mark.slow
def test_a_vocabulary_of_val_alone_is_found(find, monkeypatch):
    number_val_by_itself(monkeypatch)
    finding = find("labels_fit", **SMALL)
    assert (finding.status, "nothing holds on val" in finding.explanation) == ("FAIL", True), finding


@pytest.mark.parametrize("offset", [0, 7])
def test_text_of_train_in_val_is_found_wherever_its_windows_begin(find, text_dir, offset):
    assert find("leaks", **SMALL).status == "PASS"
    train = (text_dir / "train.txt").read_text()
    (text_dir / "val.txt").write_text(train[4_000 + offset : 7_000])
    finding = find("leaks", **SMALL)
    assert (finding.status, "text of train is in another split" in finding.explanation) == ("FAIL", True), finding


@pytest.mark.parametrize("context_length", [16, 48])
def test_windows_that_overlap_are_no_reason_to_miss_a_leak(find, text_dir, context_length):
    """An epoch may have more tokens than train."""
    settings = {**SMALL, "context_length": context_length, "tokens_per_epoch": 50_000}
    assert find("leaks", **settings).status == "PASS"
    (text_dir / "val.txt").write_text((text_dir / "train.txt").read_text()[3_001:9_000])
    assert find("leaks", **settings).status == "FAIL"


FAST = ("input_scale,label_counts,leaks,visible_answers,augmentation,hyperparameters,initial_loss,logits,token_order,"
        "gradients,zero_grad,eval_mode,own_example,repeatable,batch_size,unscored_labels")  # fmt: skip


@pytest.mark.parametrize(
    "params", [pytest.param(SMALL, marks=pytest.mark.slow), ROTARY, LABELS], ids=["learned", "rotary", "label"]
)
def test_a_net_without_bugs_raises_no_alarm(find, params):
    found = {name: find(name, **params) for name in FAST.split(",")}
    assert {name: finding for name, finding in found.items() if finding.status != "PASS"} == {}


@pytest.mark.parametrize(
    ("experiment", "words"),
    [pytest.param("text_characters", "context_length=32 width=32 num_layers=1 num_heads=2", marks=pytest.mark.slow),
     pytest.param("text_labels", "width=16 num_layers=1 num_heads=2", marks=pytest.mark.thorough)],
)  # fmt: skip
def test_a_shipped_experiment_is_free_of_alarms(experiment, words):
    folder = PROJECT / "experiments" / experiment
    data_dir = str(PROJECT / fetch_params(folder).data_dir)
    words = ["--model_dir", str(folder), "--data_dir", data_dir, "--device", "cpu", *words.split()]
    found = sanity_check.main(words)["findings"]
    assert {row["check"]: row["explanation"] for row in found if row["status"] != "PASS"} == {}


class Encoder(nn.Module):
    """PyTorch's own layers as a language model, with or without positions."""

    def __init__(self, params, has_positions=True):
        super().__init__()
        self.embedding = nn.Embedding(len(params.facts["token_bytes"]), 32)
        self.places = nn.Embedding(32, 32) if has_positions else None
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.1, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, len(params.facts["token_bytes"]))

    def forward(self, tokens):
        x = self.embedding(tokens)
        if self.places is not None:
            x = x + self.places(torch.arange(tokens.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layers(x, mask=mask, is_causal=True))


@pytest.mark.parametrize(("has_positions", "status"), [(True, "PASS"), (False, "FAIL")])
def test_positions_are_found_in_layers_of_pytorch(find, monkeypatch, has_positions, status):
    monkeypatch.setattr(text_net, "Net", functools.partial(Encoder, has_positions=has_positions))
    assert find("token_order", **SMALL).status == status
    assert find("visible_answers", **SMALL).status == "PASS"
