"""Predictions in words, new texts, generated text, exported nets; and hyperparameters for new data."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.text import readers
from model.text.params import Params
from model.text.tokens import decoded, fetch_encoder, shown_tokens
from utils import InputError, files_below

if TYPE_CHECKING:
    from torch import Tensor

READS = ("target", "text_column", "label_column", "val_fraction", "test_fraction")  # what `fetch_inputs` depends on
READS_STDIN = True
TEXTS = {"text", "sentence", "review", "content", "comment", "message", "tweet", "document", "body", "description"}
LABELS = {"label", "labels", "class", "target", "sentiment", "category", "polarity", "rating", "stars"}
PLAIN = {".txt", ".md", ".rst", ".tex", ".py", ".c", ".h", ".cpp", ".js", ".ts", ".java", ".go", ".rs", ".html"}
Suggested = dict[str, tuple[Any, str]]


def predictions(outputs: Tensor, labels: Tensor | None, params: Params) -> list[dict[str, Any]]:
    """Return one dict per text or window: prediction, confidence, and, unless labels is None, label and loss.

    For `next`, prediction and label are tokens that are separated by spaces, and the numbers are means over them.
    `worst` is the token with the highest loss in the second half of a window, after the text before it.
    """
    import torch.nn.functional as F

    names = params.facts["classes"] if params.target == "label" else shown_tokens(params)
    confidences, predicted = outputs.softmax(-1).max(-1)  # (B,) or (B, L)
    known = predicted if labels is None else labels
    losses = F.cross_entropy(outputs.movedim(-1, 1), known, reduction="none")  # the same
    rows: list[dict[str, Any]] = []
    for i, is_scored in enumerate(known >= 0):
        found, true = ([names[n] for n in each[i][is_scored].flatten().tolist()] for each in (predicted, known))
        row = {"prediction": " ".join(found), "confidence": float(confidences[i][is_scored].mean())}
        if labels is not None:
            row |= {"label": " ".join(true), "loss": float(losses[i][is_scored].mean())}
            if params.target == "next":
                half = len(true) // 2
                t = half + int(losses[i][is_scored][half:].argmax())
                row["worst"] = f"{''.join(true[max(0, t - 60) : t])}⟦{true[t]}⟧ predicted ⟦{found[t]}⟧"
                row["worst_loss"] = float(losses[i][is_scored][t])
        rows.append(row)
    return rows


def probabilities(outputs: Tensor, _: Tensor | None, params: Params) -> list[dict[str, float]]:
    """Return the probability of each class, one dict per text."""
    return [dict(zip(params.facts["classes"], row, strict=True)) for row in outputs.softmax(-1).tolist()]


def fetch_unlabelled(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, str | InputError]]:
    """Yield the texts in files (`-`: standard input) with their names, or an InputError for a broken one."""
    for path in paths:
        try:
            for number, row in readers.read_rows(path, params.text_column):
                name = f"{path}:{number}"
                try:
                    yield name, readers.cell(row, params.text_column, name)
                except InputError as error:  # noqa: PERF203
                    yield name, error
        except (InputError, OSError) as error:  # noqa: PERF203
            yield str(path), InputError(str(error))


def show_unlabelled(example: str) -> dict[str, str]:
    """Return the column that shows a new text beside its prediction."""
    return {"text": example}


def collate_unlabelled(examples: Sequence[str], params: Params) -> tuple[Tensor, None]:
    """Return the tokens of texts to label, (B, L)."""
    from torch.nn.utils.rnn import pad_sequence

    from model.text.data_loader import encode_texts

    return pad_sequence(encode_texts(examples, params), True, params.facts["pad"]), None


def fetch_generator(model: Any, params: Params) -> Callable[..., Iterator[str]] | None:
    """Return a function that continues a prompt; None for target=label."""
    from model.text.generate import generate

    def continued(prompt: str, max_new_tokens: int = 200, **settings: Any) -> Iterator[str]:
        new = generate(model.eval(), [*map(int, fetch_encoder(params)(prompt))], **{"seed": params.seed, **settings})
        return decoded(islice(new, max_new_tokens), params)

    return continued if params.target == "next" else None


def describe_inputs(params: Params) -> dict[str, Any]:
    """Return how text becomes inputs and outputs become answers, for code outside this project."""
    how = {
        "bytes": "the bytes of the text in UTF-8",
        "characters": "each character's position in `characters`; 0 if it is not there",
        "pieces": "the ids that the `tokenizers` library gives with the tokenizer in `tokenizer`, no special tokens",
    }[params.tokens]
    ending = f"give {params.context_length} tokens; fill up a shorter text at its end with any token"
    outputs = "logits of the token that follows each token; read them at the last token of the text"
    if params.target == "label":
        ending = f"cut each text after {params.context_length - 1} tokens, add `end`, and pad shorter ones with `pad`"
        outputs = "logits of `classes` for each text; softmax over the last axis gives probabilities"
    facts = {name: fact for name, fact in params.facts.items() if name != "token_bytes"}
    return {"steps": [how, ending], "axes": {"inputs": ["batch_size", "length"]}, "outputs": outputs, **facts}


def fetch_inputs(ids: Collection[str], split: str, data_dir: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Return id -> {"row": {"text": ...}} of labelled texts. (The labels of windows are their text.)"""
    if params.target == "next":
        return {}
    texts = dict(zip(*readers.read_labelled(split, data_dir, params)[:2], strict=True))
    return {name: {"row": {"text": texts[name]}} for name in ids if name in texts}


def suggest(data_dir: Path, params: Params) -> tuple[int, Suggested]:
    """Return the number of windows or texts to train on, and hyperparameters that suit them, each with the reason."""
    is_table = any(name.endswith(readers.TABLES) for name in files_below(data_dir))
    target = params.target if "target" in params.model_fields_set else "label" if is_table else "next"
    params = params.model_copy(update={"target": target})
    number, sample, found = (_look_at_table if target == "label" else _look_at_text)(data_dir, params)
    num_characters, size = len(set().union(*sample)), f"{number:,} examples"
    num_layers, width, dropout_rate = (4, 128, 0.0) if target == "next" and number > 8000 else (2, 64, 0.1)
    if "train" not in {path.stem for path in data_dir.iterdir()}:
        found["test_fraction"] = 0.1, "there is no test split"
    return number, {
        "target": (target, "a table of texts with labels" if target == "label" else "text without labels"),
        "tokens": ("characters" if num_characters <= 256 else "bytes", f"a sample has {num_characters} different ones"),
        "num_layers": (num_layers, size),
        "width": (width, size),
        "dropout_rate": (dropout_rate, size),
        "positions": ("rotary", "trains faster than learned positions"),
        "optimizer": ("muon", "trains a transformer in half the steps of adamw"),
        "learning_rate": (5e-3, "for muon"),
        "clip_grad_norm": (1.0, "single gradients may be very large"),
        **found,
    }


def _look_at_text(data_dir: Path, params: Params) -> tuple[int, list[str], Suggested]:
    paths, is_shared = readers.split_files("train", data_dir, params)
    if other := [path for path in paths if path.suffix not in PLAIN or path.name == "sentences.txt"]:
        raise InputError(f"{other[0]}: expected text alone, for example train.txt")
    sample = next(readers.chunks(paths, params), b"")
    sample = sample.decode(errors="replace") if isinstance(sample, bytes) else sample
    num_words = collections.Counter(len(line.split()) for line in sample.split("\n")[:1000] if line[:1] != "#")
    num_blank, usual = num_words.pop(0, 0), max(num_words, key=num_words.__getitem__, default=0)
    if num_blank > 1 and usual > 1 and num_words[usual] > 0.9 * num_words.total():
        raise InputError(f"{paths[0]}: {usual} columns and blank lines are tagged tokens; expected a text")
    size = sum(path.stat().st_size for path in paths)
    size = readers.part_of("train", size, params).stop if is_shared else size
    length, batch_size, num_epochs = params.context_length, 12, 8
    steps = min(1000, max(400, 20 * size // (length * batch_size))) // num_epochs  # 20 times through a short text
    return size // length, [sample], {
        "context_length": (length, "a longer one is slower, and better"),
        "batch_size": (batch_size, "small, for many steps in a short time"),
        "tokens_per_epoch": (steps * length * batch_size, f"{steps} steps between two evaluations"),
        "num_epochs": (num_epochs, f"{num_epochs * steps:,} steps; a long text deserves more"),
    }  # fmt: skip


def _look_at_table(data_dir: Path, params: Params) -> tuple[int, list[str], Suggested]:
    path = readers.split_files("train", data_dir, params)[0][0]
    row = next((row for _, row in readers.read_rows(path) if None not in row), {})
    text, label = (
        next((name for name in sorted(row, key=given.__ne__) if name == given or name.lower() in usual), None)
        for given, usual in ((params.text_column, TEXTS), (params.label_column, LABELS))
    )
    if text is None or label is None:
        hint = "columns named text and label; text_column=NAME label_column=NAME chooses others"
        raise InputError(f"{path}: it has {', '.join(row)[:80] or 'no rows'}; expected {hint}")
    params = params.model_copy(update={"text_column": text, "label_column": label})
    _, texts, labels = readers.read_labelled("train", data_dir, params)
    longest = int(np.quantile([len(each) for each in texts], 0.95)) + 1
    return len(texts), texts[:1000], {
        "text_column": (text, "by its name"),
        "label_column": (label, f"by its name; it has {len(set(labels))} different values"),
        "monitor": ("accuracy", "the share of texts with the right label"),
        "context_length": (min(512, -(-longest // 8) * 8), f"95% of the texts have {longest:,} characters or less"),
        "num_epochs": (min(20, max(3, 20_000 // len(texts))), "few, because a transformer soon overfits"),
    }  # fmt: skip
