"""What comes after training: predictions in words, new sentences, how to use an exported net."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.ner import readers, schemes
from model.ner.params import Params
from model.ner.schemes import OUTSIDE
from utils import InputError

if TYPE_CHECKING:
    from torch import Tensor

READS = ("split_seed", "val_fraction", "token_column", "tag_column", "tag_scheme")  # what `fetch_inputs` looks at
READS_STDIN = True


def predictions(outputs: Tensor, labels: Tensor | None, params: Params) -> list[dict[str, Any]]:
    """Return one dict a sentence: the predicted tags and their mean probability; with labels, also tags and mean loss.

    Logits are (batch_size, max_len, num_tags). Where `labels` is None, all sentences have max_len tokens.
    """
    import torch.nn.functional as F

    def names(numbers: Tensor) -> str:
        return " ".join(params.tags[number] for number in numbers.tolist())

    confidences, predicted = outputs.softmax(dim=2).max(dim=2)  # both (batch_size, max_len)
    known = predicted if labels is None else labels
    losses = F.cross_entropy(outputs.transpose(1, 2), known, reduction="none")  # (batch_size, max_len)
    rows = []
    for i, mask in enumerate(known >= 0):
        row = {"prediction": names(predicted[i][mask]), "confidence": float(confidences[i][mask].mean())}
        if labels is not None:
            row |= {"label": names(labels[i][mask]), "loss": float(losses[i][mask].mean())}
        rows.append(row)
    return rows


def probabilities(outputs: Tensor, labels: Tensor | None, params: Params) -> list[dict[str, list[float]]]:
    """Return one dict a sentence: tag -> its probability for each token. Arguments: as of `predictions`."""
    masks = [slice(None)] * len(outputs) if labels is None else labels >= 0  # (batch_size, max_len)
    every = zip(outputs.softmax(dim=2), masks, strict=True)
    return [dict(zip(params.tags, each[mask].T.tolist(), strict=True)) for each, mask in every]


def fetch_unlabelled(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, list[str] | InputError]]:
    """Yield file:line and the tokens of each sentence of UTF-8 files (`-`: standard input), or what is wrong with it.

    A file with the suffix of a column file (except .txt), or with tags in its first lines, is read as a column file, as
    a whole. Any other file has one sentence per line, and is read line by line.
    """
    for path in paths:
        try:
            with contextlib.nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb") as file:
                # only three lines from a terminal or a pipe: someone may be typing and waiting for an answer
                head = list(itertools.islice(file, 100 if path.is_file() else 3))
                if path.suffix in readers.COLUMN_SUFFIXES[1:] or _has_columns(head, params):
                    lines = readers.decode_lines(b"".join([*head, *file]), str(path))
                    found = readers.read_columns(lines, str(path), params, is_tagged=False)
                    yield from zip(found.ids, found.tokens, strict=True)
                else:
                    yield from _read_lines(itertools.chain(head, file), str(path))
        except InputError as error:  # noqa: PERF203
            yield str(path), error
        except OSError as error:
            yield str(path), InputError(f"{path}: cannot be read ({error.strerror})")


def _has_columns(head: Sequence[bytes], params: Params) -> bool:
    """Return whether the first three tokens have known tags: `O` among them, or two different ones."""
    texts = [line.decode("utf-8", "replace").strip() for line in head]
    rows = [text.split("\t" if "\t" in text else None) for text in texts if readers.is_token(text)][:3]
    width = max(map(len, rows), default=0)
    if len(rows) < 2 or width < 2 or width > min(map(len, rows)) or not -width <= params.tag_column < width:
        return False
    tags = {row[params.tag_column] for row in rows}
    are_known = all(tag in params.tags or readers.A_TAG.fullmatch(tag) for tag in tags)
    return are_known and (OUTSIDE in tags or len(tags) > 1)


def _read_lines(lines: Iterable[bytes], path: str) -> Iterator[tuple[str, list[str] | InputError]]:
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            yield where, readers.split_tokens("".join(readers.decode_lines(line, path, number)), where)
        except InputError as error:  # noqa: PERF203
            yield where, error


def show_unlabelled(example: list[str]) -> dict[str, str]:
    """Return the tokens as a text that is split at spaces like the tags; spaces inside a token become no-break ones."""
    return {"tokens": " ".join(token.replace(" ", "\u00a0") for token in example)}


def collate_unlabelled(examples: Sequence[list[str]], params: Params) -> tuple[dict[str, Tensor], Tensor]:
    """Return a batch of sentences. Its labels only mark the padding, with -100."""
    from model.ner.data_loader import TaggedSentences

    tags = [[OUTSIDE] * len(tokens) for tokens in examples]
    sentences = readers.Sentences([""] * len(tags), list(examples), tags)
    return TaggedSentences(sentences, params).__getitems__(range(len(tags)))


def describe_inputs(params: Params) -> dict[str, Any]:
    """Return how sentences become inputs and outputs become answers, for code outside this project."""
    facts: dict[str, Any] = {"words": params.words, "classes": params.tags}
    steps = [
        "split the sentence at spaces into tokens",
        f"words: each token's position in `words`; an unknown token has the position of {params.facts['unk_word']!r}",
        f"fill up shorter sentences of a batch at their ends with the position of {params.facts['pad_word']!r}",
    ]
    if params.char_channels:
        facts["characters"] = params.facts["characters"]
        steps.append(
            f"chars: the positions in `characters` of each token's first {params.max_word_len} characters, 1 for an "
            "unknown one; fill up shorter tokens, and padding, with 0"
        )
    axes = {"words": ["batch_size", "max_len"], "chars": ["batch_size", "max_len", "max_word_len"]}
    outputs = "logits of `classes` for each token; softmax over the last axis gives probabilities; ignore padding"
    return {"steps": steps, "axes": axes, "outputs": outputs, **facts}


def fetch_inputs(ids: Collection[str], split: str, data_dir: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Return id -> {"tokens": [...]} for a split's sentences; ids that the split lacks are left out."""
    sentences = readers.read_split(split, data_dir, params)
    tokens = dict(zip(sentences.ids, sentences.tokens, strict=True))
    return {name: {"tokens": tokens[name]} for name in ids if name in tokens}


def suggest(data_dir: Path, params: Params) -> tuple[int, dict[str, tuple[Any, str]]]:
    """Return the number of train sentences, and hyperparameters that suit them, each with the reason."""
    found: dict[str, tuple[Any, str]] = {}
    if (data_dir / "train.conllu").is_file() and "token_column" not in params.model_fields_set:
        found = {"token_column": (1, "FORM in a .conllu file"), "tag_column": (3, "UPOS, the part of speech")}
        params = params.model_copy(update={name: value for name, (value, _) in found.items()})
    train = readers.read_split("train", data_dir, params, is_quiet=True)
    tags = {tag for each in train.tags for tag in each}
    if not 2 <= len(tags) <= 1000:
        raise InputError(f"{data_dir}: train has {len(tags)} different tags, expected 2 to 1000")
    if (scheme := schemes.guess(tags)) == "plain":
        found["monitor"] = ("accuracy", "the tags mark no entities")
    elif scheme == "bio" and any(schemes.from_iob1(each) != each for each in train.tags):
        found["tag_scheme"] = ("iob1", "some entities begin with I-")
    return len(train.ids), {
        **found,
        "embedding_dim": (100, "a common size"),
        "char_channels": (50, "the characters of a word help with words that train lacks"),
        "lstm_hidden_dim": (128, "a common size"),
        "bidirectional": (True, "the words on both sides decide a tag"),
        "dropout_rate": (0.5, "against overfitting"),
        "word_dropout_rate": (0.1, "the net learns what to do with unknown words"),
        "learning_rate": (5e-3, "for adamw with one_cycle"),
        "clip_grad_norm": (1.0, "gradients of an LSTM may become very large"),
    }
