"""Bugs that people make in language models are planted, and sanity_check.py finds each and names its cause."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sanity_check
from fiveline.tasks import fetch_params
from model.text import data_loader, readers
from model.text import net as text_net
from tests.support.data import write_csv
from tests.support.runs import write_params
from tests.support.tasks import PROJECT

SMALL = {"task": "text", "context_length": 32, "num_layers": 2, "num_heads": 2, "width": 32, "batch_size": 8,
         "learning_rate": 3e-3, "optimizer": "adamw"}  # fmt: skip
ROTARY = {"positions": "rotary"}
LABELS = {"target": "label", "positions": "rotary"}
SOURCE = (PROJECT / "data/python_source/train.txt").read_text(encoding="utf-8")
TEXTS = {"train": SOURCE[:12_000], "val": SOURCE[12_000:15_000], "test": SOURCE[15_000:18_000]}


@pytest.fixture
def find(tmp_path):
    """Return a function that makes one check of a small run, whose data are short texts or labelled lines."""
    for split, text in TEXTS.items():
        (tmp_path / f"{split}.txt").write_text(text)

    def check(name, **params):
        lines = [*dict.fromkeys(line.strip() for line in SOURCE[:100_000].splitlines() if len(line.split()) > 3)]
        for place, split in enumerate(TEXTS):
            rows = [[line, "comment" if line.startswith("#") else "code"] for line in lines[place::3][:200]]
            write_csv(tmp_path / f"{split}.csv", [["text", "label"], *rows])
        folder = write_params(tmp_path / "run", **{**SMALL, "data_dir": str(tmp_path), **params})
        context = sanity_check.fetch_context(fetch_params(folder), torch.device("cpu"))
        return sanity_check.look(sanity_check.choose(name)[0][1], context)

    return check


# --- the bugs: functions of pytest's monkeypatch


def replaced(owner, name, make):
    """Return a function that puts `make(original)` in the place of owner.name."""
    return lambda patch: patch.setattr(owner, name, make(getattr(owner, name)))


def windows(inputs, labels):
    """Let slices of the tokens, one more than the net sees, be inputs and labels."""

    def make(original):
        def fetch(self, indices):
            first, second = original(self, indices)
            tokens = torch.cat([first, second[:, -1:].clamp(min=0)], dim=1)
            return tokens[:, inputs], tokens[:, labels]

        return fetch

    return replaced(data_loader.Windows, "__getitems__", make)


def net_with(change):
    return replaced(text_net.Net, "reset_weights", lambda reset: lambda net: (reset(net), change(net)))


def attention(weights):
    """Let `weights(scores)` make the weights of attention, from scores of (..., L, L)."""

    def attend(q, k, v, *_, **__):
        return weights(q @ k.mT / q.shape[-1] ** 0.5) @ v

    return replaced(F, "scaled_dot_product_attention", lambda _: attend)


def masked(scores, mask=torch.tril):
    return scores.masked_fill(~mask(torch.ones_like(scores, dtype=torch.bool)), -torch.inf)


def read_the_last_place(self, tokens):
    """Read the last place of the batch, which is padding in a shorter text."""
    return self.classifier(self.transformer(tokens, tokens.ne(self.pad)[:, None, None])[:, -1])


def bug(name, check, words, *plants, status="FAIL", marks=(), **params):
    return pytest.param(check, words, plants, status, params, id=name, marks=marks)


SEEN, UNUSED = "the net sees the tokens that it must predict", "positions are unused"
COPIED = windows(slice(-1), slice(-1))
LARGE = net_with(lambda net: nn.init.normal_(net.transformer.wte.weight, std=1.0))
NOT_ROTATED = replaced(text_net, "rotated", lambda _: lambda x, *_: x)
BUGS = [
    bug("labels that are the inputs", "visible_answers", "the labels are the input tokens themselves", COPIED),
    bug("labels shifted by two", "visible_answers", "the one at distance +2, not the next one",
        windows(slice(-2), slice(2, None))),
    bug("labels shifted backwards", "visible_answers", "at distance -1", windows(slice(1, None), slice(-1))),
    bug("no causal mask", "visible_answers", SEEN, attention(lambda scores: scores.softmax(-1))),
    bug("softmax over the queries", "visible_answers", SEEN, attention(lambda scores: masked(scores).softmax(-2))),
    bug("the mask hides what may be seen", "token_order", "no output depends on an earlier token",
        attention(lambda scores: masked(masked(scores), torch.triu).softmax(-1))),
    bug("attention over the batch", "own_example", "outputs differ by",  # MultiheadAttention without batch_first
        replaced(text_net.Attention, "forward",
                 lambda attend: lambda self, x, *_: attend(self, x.transpose(0, 1)).transpose(0, 1))),
    bug("positions not added", "gradients", "no gradient at all: transformer.wpe.weight",
        net_with(lambda net: net.transformer.wpe.register_forward_hook(lambda *args: torch.zeros_like(args[2])))),
    bug("one position for all tokens", "token_order", UNUSED,
        net_with(lambda net: net.transformer.wpe.register_forward_pre_hook(lambda _, args: (args[0] * 0,)))),
    bug("queries and keys not rotated", "token_order", UNUSED, NOT_ROTATED, **ROTARY),
    bug("not rotated, with attention written out", "token_order", UNUSED, NOT_ROTATED,
        attention(lambda scores: masked(scores).softmax(-1)), **ROTARY),
    bug("a tied embedding that begins as PyTorch's", "initial_loss", "far above a guess", LARGE),
    bug("an answer that the first net knows", "initial_loss", "below what a net that has learnt nothing can reach",
        COPIED, LARGE),
    bug("the loss counts padding", "unscored_labels", "labels of -100 (padding) are counted: with and without them",
        replaced(text_net, "loss_fn", lambda _: lambda x, labels: F.cross_entropy(x.mT, labels.clamp(min=0)))),
    bug("the accuracy counts padding", "unscored_labels", "accuracy",
        replaced(text_net, "metrics", lambda _: {"accuracy": lambda logits, labels: (
            (logits.argmax(-1) == labels).sum(), torch.ones_like(labels).sum())})),
    bug("the same windows in each epoch", "augmentation", "the same in each epoch",
        replaced(data_loader, "epoch_draws", lambda draw: lambda seed, _, *rest: draw(seed, 1, *rest)), status="WARN"),
    bug("padding is seen", "own_example", "outputs differ by", net_with(lambda net: setattr(net, "pad", -1)), **LABELS),
    bug("padding is read", "own_example", "outputs differ by",
        replaced(text_net.Net, "forward", lambda _: read_the_last_place), **LABELS),
    bug("a classifier without positions", "token_order", UNUSED, NOT_ROTATED, status="WARN", **LABELS),
    bug("a vocabulary of val alone", "labels_fit", "nothing holds on val",
        replaced(readers, "read_tokens", lambda read: lambda split, *_: (read(split, *_) + (split == "val")) % 60),
        marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("check", "words", "plants", "status", "params"), BUGS)
def test_a_bug_of_a_language_model_is_found(find, monkeypatch, check, words, plants, status, params):
    for plant in plants:
        plant(monkeypatch)
    finding = find(check, **params)
    assert (finding.status, words in finding.explanation) == (status, True), finding
    assert finding.advice and "stopped by" not in finding.explanation


@pytest.mark.parametrize(
    ("start", "length", "tokens"), [(0, 32, 12000), (7, 32, 12000), (1, 16, 50000), (1, 48, 50000)]
)
def test_text_of_train_in_val_is_found_wherever_its_windows_begin(find, tmp_path, start, length, tokens):
    params = {"context_length": length, "tokens_per_epoch": tokens}  # an epoch may be longer than train
    assert find("leaks", **params).status == "PASS"
    (tmp_path / "val.txt").write_text(TEXTS["train"][4_000 + start : 9_000])
    finding = find("leaks", **params)
    assert (finding.status, "text of train is in another split" in finding.explanation) == ("FAIL", True), finding


FAST = ("input_scale,label_counts,leaks,visible_answers,augmentation,hyperparameters,initial_loss,logits,token_order,"
        "gradients,zero_grad,eval_mode,own_example,repeatable,batch_size,unscored_labels")  # fmt: skip


@pytest.mark.parametrize(
    "params", [pytest.param({}, marks=pytest.mark.slow), ROTARY, LABELS], ids=["learned", "rotary", "label"]
)
def test_a_net_without_bugs_raises_no_alarm(find, params):
    found = {name: find(name, **params) for name in FAST.split(",")}
    assert {name: finding for name, finding in found.items() if finding.status != "PASS"} == {}


@pytest.mark.parametrize(
    ("experiment", "words"),
    [pytest.param("text_characters", "context_length=32 width=32 num_layers=1 num_heads=2", marks=pytest.mark.slow),
     pytest.param("text_labels", "width=16 num_layers=1 num_heads=2", marks=pytest.mark.thorough)],
)  # fmt: skip
def test_a_shipped_experiment_is_free_of_alarms(experiment, words, caplog):
    folder = PROJECT / "experiments" / experiment
    data_dir = str(PROJECT / fetch_params(folder).data_dir)
    words = ["--model_dir", str(folder), "--data_dir", data_dir, "--device", "cpu", *words.split()]
    found = sanity_check.main(words)["findings"]
    assert {row["check"]: row["explanation"] for row in found if row["status"] != "PASS"} == {}
    assert "WARNING" not in caplog.text


class Encoder(nn.Module):
    """PyTorch's own layers as a language model, with or without positions."""

    def __init__(self, params, has_positions):
        super().__init__()
        self.embedding, self.places = nn.Embedding(len(params.facts["token_bytes"]), 32), nn.Embedding(32, 32)
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), 2)
        self.has_positions = has_positions

    def forward(self, tokens):
        x = self.embedding(tokens) + self.has_positions * self.places.weight[: tokens.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.layers(x, mask=mask, is_causal=True) @ self.embedding.weight.T


@pytest.mark.parametrize(("has_positions", "status"), [(True, "PASS"), (False, "FAIL")])
def test_positions_are_found_in_layers_of_pytorch(find, monkeypatch, has_positions, status):
    monkeypatch.setattr(text_net, "Net", functools.partial(Encoder, has_positions=has_positions))
    assert (find("token_order").status, find("visible_answers").status) == (status, "PASS")
