"""Text as examples: windows of tokens and their next tokens, or labelled texts."""

from __future__ import annotations

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
from model.text.tokens import UNKNOWN, fetch_encoder, fetch_tokenizer, fetch_vocabulary
from utils import InputError


def fetch_facts(data_dir: Path, params: Params) -> dict[str, Any]:
    """Return the vocabulary: `token_bytes`, the length of each token in UTF-8, and `characters` or `tokenizer`.

    For `label` there are two more tokens, `end` and `pad`, and `classes`.
    """
    facts: dict[str, Any] = {}
    if params.target == "label":
        _, texts, labels = readers.read_labelled("train", data_dir, params)
        facts["classes"] = classes = sorted(set(labels))
        if len(classes) < 2:
            raise InputError(f"{data_dir}: train has the labels {classes}; expected two or more, see label_column")
    if params.tokens == "characters":
        found = set().union(*texts) if params.target == "label" else readers.train_characters(data_dir, params)
        facts["characters"] = "".join([UNKNOWN, *sorted(found - {UNKNOWN})])
    elif params.tokens == "pieces":
        facts["tokenizer"] = fetch_tokenizer(params).to_str()
    lengths = [len(token) for token in fetch_vocabulary(params.with_facts(facts))]
    if params.target == "label":
        facts |= {"end": len(lengths), "pad": len(lengths) + 1}
        lengths += [0, 0]
    return {**facts, "token_bytes": lengths}


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of a long text; the label of each token is the next one.

    The windows follow each other, so each token except the first is a label exactly once; the last window is padded.
    In training, windows start at random places, which depend on seed, epoch and index.
    """

    def __init__(self, tokens: np.ndarray, params: Params, num_tokens: int | None = None) -> None:
        """Make the windows; num_tokens is the number of tokens in a training epoch."""
        self.tokens, self.params, self.length = tokens, params, min(params.context_length, len(tokens) - 1)
        if num_tokens is None:
            self.starts = np.arange(0, len(tokens) - 1, self.length)  # (number of windows,)
        else:
            number = max(1, num_tokens // self.length)
            self.starts = np.arange(number) * (len(tokens) - self.length) // number

    def set_epoch(self, epoch: int) -> None:
        """Draw the windows of a training epoch."""
        coarse, fine = epoch_draws(self.params.seed, epoch, len(self), 2).double().numpy().T
        draws = coarse + fine * 2**-24  # a draw has 24 bits, too few for all places of a long text
        self.starts = (draws * (len(self.tokens) - self.length)).astype(np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, labels = self.__getitems__([index])
        return inputs[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return tokens and next tokens, (number of windows, length) each, int64."""
        places = self.starts[list(indices)][:, None] + np.arange(self.length + 1)  # (number of windows, length + 1)
        is_there = torch.from_numpy(places < len(self.tokens))
        windows = torch.from_numpy(self.tokens[np.minimum(places, len(self.tokens) - 1)].astype(np.int64))
        return windows[:, :-1], windows[:, 1:].where(is_there[:, 1:], IGNORED_LABEL)


class LabelledTexts(Dataset[tuple[Tensor, Tensor]]):
    """Texts and their class numbers."""

    def __init__(self, split: str, data_dir: Path, params: Params) -> None:
        self.ids, texts, labels = readers.read_labelled(split, data_dir, params)
        numbers = {name: number for number, name in enumerate(params.facts["classes"])}
        for name, label in zip(self.ids, labels, strict=True):
            if label not in numbers:
                raise InputError(f"{data_dir}/{name}: the label {label!r} does not occur in train")
        self.params, self.labels = params, torch.tensor([numbers[label] for label in labels])
        self.examples = encode_texts(texts, params)
        self.lengths = [len(example) for example in self.examples]
        if num_full := self.lengths.count(params.context_length):
            logging.info(f"- {split}: {num_full} of {len(texts)} texts fill context_length; longer ones are cut")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.examples[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return texts, (number of texts, longest), with padding at their ends, and classes, (number of texts,)."""
        texts = [self.examples[i] for i in indices]
        return pad_sequence(texts, True, self.params.facts["pad"]), self.labels[list(indices)]


def encode_texts(texts: Sequence[str], params: Params) -> list[Tensor]:
    """Return the ids of the first tokens of each text, and of the end token: (length,), int64."""
    encode, longest = fetch_encoder(params), params.context_length - 1
    return [torch.tensor([*np.asarray(encode(text))[:longest].tolist(), params.facts["end"]]) for text in texts]


def fetch_dataset(split: str, data_dir: Path, params: Params) -> Dataset[Any]:
    """Return windows of a split for target `next`, labelled texts for `label`."""
    if params.target == "label":
        return LabelledTexts(split, data_dir, params)
    tokens = readers.read_tokens(split, data_dir, params)
    if params.tokens == "characters" and split != "train" and (number := len(tokens) - np.count_nonzero(tokens)):
        logging.info(f"- {split}: {number:,} of {len(tokens):,} characters do not occur in train")
    steps = params.evaluate_every_steps
    num_tokens = steps * params.batch_size * params.context_length if steps else params.tokens_per_epoch
    return Windows(tokens, params, num_tokens if split == "train" else None)
