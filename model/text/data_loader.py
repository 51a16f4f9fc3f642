"""Text as examples: windows of tokens and their next tokens, or labelled texts."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from fiveline.device import epoch_draws
from fiveline.metrics import IGNORED_LABEL
from model.text import readers
from model.text.params import Params
from model.text.readers import UNKNOWN
from utils import InputError


def fetch_facts(data_dir: Path, params: Params) -> dict[str, Any]:
    """Return the vocabulary of train: `characters`, and `token_bytes`, the length of each token; for `label` `classes`.

    The number of a token is its position. For `label`, the last token is the padding, `pad`.
    """
    texts: Sequence[str] = ()
    facts: dict[str, Any] = {}
    if params.target == "label":
        _, texts, labels = readers.read_labelled("train", data_dir, params)
        facts["classes"] = sorted(set(labels))
        if len(facts["classes"]) < 2:
            raise InputError(
                f"{data_dir}: train has {len(facts['classes'])} label(s), expected two or more; is label_column right?"
            )
    if params.tokens == "characters":
        found = set().union(*texts) if params.target == "label" else readers.train_characters(data_dir, params)
        facts["characters"] = "".join([UNKNOWN, *sorted(found - {UNKNOWN})])
        lengths = [len(character.encode()) for character in facts["characters"]]
    elif params.tokens == "bytes":
        lengths = [1] * 256
    else:
        lengths = _piece_lengths(readers.fetch_tokenizer(params))
    if params.target == "label":
        facts["pad"], lengths = len(lengths), [*lengths, 0]
    return {**facts, "token_bytes": lengths}


def _piece_lengths(tokenizer: Any) -> list[int]:
    """Return the bytes of each piece. In a byte-level tokenizer, each character of a piece stands for a byte."""
    is_byte_level = (json.loads(tokenizer.to_str()).get("decoder") or {}).get("type") == "ByteLevel"
    pieces = [
        tokenizer.id_to_token(i) if is_byte_level else tokenizer.decode([i]) for i in range(tokenizer.get_vocab_size())
    ]
    return [len(piece) if is_byte_level else len(piece.encode()) for piece in pieces]


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of a long text; the label of each token is the next one.

    In training, windows start at random places, which depend on seed, epoch and index. Otherwise they follow each
    other, so that each token but the first is a label exactly once; the last window is filled up.
    """

    def __init__(self, tokens: np.ndarray, params: Params) -> None:
        self.tokens, self.params = tokens, params
        self.length = min(params.context_length, len(tokens) - 1)
        self.starts = np.arange(0, len(tokens) - 1, self.length)

    def set_epoch(self, epoch: int) -> None:
        """Draw the windows of a training epoch."""
        number = max(1, (self.params.tokens_per_epoch or len(self.tokens)) // self.length)
        coarse, fine = epoch_draws(self.params.seed, epoch, number, 2).double().numpy().T
        draws = coarse + fine * 2**-24  # the 24 bits of one draw do not reach each place of a long text
        self.starts = (draws * (len(self.tokens) - self.length)).astype(np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, labels = self.__getitems__([index])
        return inputs[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return tokens and next tokens, (number of windows, length) each, int64."""
        places = self.starts[list(indices)][:, None] + np.arange(self.length + 1)  # (number of windows, length + 1)
        is_there = places < len(self.tokens)
        window = torch.from_numpy(self.tokens[np.minimum(places, len(self.tokens) - 1)].astype(np.int64))
        labels = window[:, 1:].where(torch.from_numpy(is_there[:, 1:]), IGNORED_LABEL)
        return window[:, :-1], labels


class LabelledTexts(Dataset[tuple[Tensor, int]]):
    """Texts with the number of their class."""

    def __init__(self, split: str, data_dir: Path, params: Params) -> None:
        self.ids, self.texts, labels = readers.read_labelled(split, data_dir, params)
        classes = {name: number for number, name in enumerate(params.facts["classes"])}
        unknown = [i for i, label in enumerate(labels) if label not in classes]
        if unknown:
            i = unknown[0]
            raise InputError(f"{data_dir}/{self.ids[i]}: the label {labels[i]!r} does not occur in train")
        self.params, self.labels = params, [classes[label] for label in labels]
        self.examples = [encode_text(text, params) for text in self.texts]
        self.lengths = [len(example) for example in self.examples]
        num_cut = sum(length == params.context_length for length in self.lengths)
        if num_cut:
            logging.info(
                f"- {split}: {num_cut} of {len(self)} texts reach context_length={params.context_length}, and may be cut"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.examples[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return texts, (number of texts, longest), with padding at their ends, and classes, (number of texts,)."""
        return pad([self.examples[i] for i in indices], self.params), torch.tensor([self.labels[i] for i in indices])


def encode_text(text: str, params: Params) -> Tensor:
    """Return the tokens of a text, (length,), int64; it is cut after context_length."""
    encode = readers.fetch_encoder(params, params.facts.get("characters", ""))
    numbers = np.asarray(encode(text), np.int64)[: params.context_length]
    return torch.from_numpy(numbers if len(numbers) else np.zeros(1, np.int64))


def pad(examples: Sequence[Tensor], params: Params) -> Tensor:
    """Return texts as a batch, (number of texts, longest), with padding at their ends."""
    return pad_sequence(list(examples), batch_first=True, padding_value=params.facts["pad"])


def fetch_dataset(split: str, data_dir: Path, params: Params) -> Dataset[Any]:
    """Return windows of a split for target `next`, labelled texts for `label`.

    Raises:
        InputError: files are missing or broken
    """
    if params.target == "label":
        return LabelledTexts(split, data_dir, params)
    return Windows(readers.read_tokens(split, data_dir, params), params)
