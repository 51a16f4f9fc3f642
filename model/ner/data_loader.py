"""Sentences as padded batches: indexed once, kept as one row of numbers, cut out and padded as whole batches."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fiveline.device import epoch_draws
from model.ner import schemes, vocabulary
from model.ner.embeddings import check_file
from model.ner.entities import IGNORED_LABEL
from model.ner.params import Params
from model.ner.readers import Sentences, read_split
from model.ner.stream import stream_sentences
from utils import InputError

PAD_CHARACTER, UNK_CHARACTER = 0, 1
READS_STDIN = True
LONG_SENTENCE = 1000  # tokens; longer ones are more likely several sentences


def fetch_facts(data_dir: Path, params: Params) -> dict[str, Any]:
    """Return the facts of the data, its words, tags and characters, as `vocabulary.fetch_facts` says, and its `scheme`.

    The scheme is that of the train tags alone: a stray tag of another split must not change how all are scored.

    Raises:
        InputError: there is no train split, it is broken, or params.embedding_file does not fit
    """
    if params.embedding_file is not None:
        check_file(Path(params.embedding_file), params.embedding_dim)
    # the tags as they are in the files
    sentences = read_split("train", data_dir, params.model_copy(update={"tag_scheme": "bio"}))
    if sentences.skipped:
        number, first = len(sentences.skipped), sentences.skipped[0]
        logging.info(f"- train: skipped {number} lines that are no tokens, such as comments; the first is line {first}")
    longest = max(sentences.tokens, key=len, default=[])
    if len(longest) > LONG_SENTENCE:
        where = sentences.ids[sentences.tokens.index(longest)]
        logging.warning(f"- WARNING: {where} is a sentence of {len(longest):,} tokens; a blank line ends each sentence")
    scheme = schemes.report(sentences.ids, sentences.tags, params, data_dir)
    if params.tag_scheme == "iob1":
        sentences = dataclasses.replace(sentences, tags=[schemes.from_iob1(tags) for tags in sentences.tags])
    facts = vocabulary.fetch_facts(sentences, data_dir, params)
    scheme = scheme or schemes.guess(facts["tags"])  # train has nothing but O; the tags are those of tags.txt
    schemes.warn_of_others(facts["tags"], scheme)
    return {**facts, "scheme": scheme}


class TaggedSentences(Dataset[Any]):
    """The sentences of one split.

    Args:
        sentences: from `read_split`
        params: word_dropout_rate, char_channels, max_word_len, and the facts
        augment: whether some words are to be unknown; for the train split

    Raises:
        InputError: a tag that the vocabulary lacks
    """

    def __init__(self, sentences: Sentences, params: Params, augment: bool) -> None:
        self.ids, self.params = sentences.ids, params
        self._is_train, self._draws = augment and params.word_dropout_rate > 0, torch.zeros(0)
        self.lengths = [len(tokens) for tokens in sentences.tokens]
        self._lengths = torch.tensor(self.lengths)
        self._starts = self._lengths.cumsum(0) - self._lengths
        numbers = {word: number for number, word in enumerate(params.words)}
        self._pad, self._unk = numbers.pop(params.facts["pad_word"]), numbers[params.facts["unk_word"]]
        # one row of all the tokens, and as many beyond its end as the longest sentence has
        beyond = [0] * max(self.lengths, default=0)
        words = [numbers.get(token, self._unk) for tokens in sentences.tokens for token in tokens]
        self._words = torch.tensor(words + beyond)
        self._labels = torch.tensor(_number_tags(sentences, params.facts) + beyond)
        if params.char_channels:
            forms: dict[str, int] = {}  # of a word as it is written, known or unknown
            numbered = [forms.setdefault(token, len(forms)) for tokens in sentences.tokens for token in tokens]
            self._forms = torch.tensor(numbered + beyond)
            self._characters, self._form_lengths = _number_characters(list(forms), params)

    def __len__(self) -> int:
        return len(self.ids)

    def set_epoch(self, epoch: int) -> None:
        """Draw the unknown words of an epoch, from 1."""
        if self._is_train:
            self._draws = epoch_draws(self.params.seed, epoch, len(self._words), 1).squeeze(1)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs of one sentence, and its labels, (num_tokens,)."""
        inputs, labels = self.__getitems__([index])
        return {name: entry[0] for name, entry in inputs.items()}, labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """Return a batch, padded to its longest sentence.

        Returns:
            inputs: `words`, (batch_size, max_len), int64, and with char_channels `chars`,
                (batch_size, max_len, max_word_len), int64, whose padding is 0
            labels: tag numbers, (batch_size, max_len), int64; -100 at padding
        """
        chosen = torch.as_tensor(indices)
        lengths = self._lengths[chosen].unsqueeze(1)  # (batch_size, 1)
        places = torch.arange(int(lengths.max()))  # (max_len,)
        is_padding = places >= lengths  # (batch_size, max_len)
        positions = self._starts[chosen].unsqueeze(1) + places  # (batch_size, max_len); at padding, some other token
        words = self._words[positions]
        if len(self._draws):
            words.masked_fill_(self._draws[positions] < self.params.word_dropout_rate, self._unk)
        inputs = {"words": words.masked_fill_(is_padding, self._pad)}
        if self.params.char_channels:
            forms = self._forms[positions]
            longest = int(self._form_lengths[forms].masked_fill_(is_padding, 0).max())
            characters = self._characters[:, :longest][forms].long()
            inputs["chars"] = characters.masked_fill_(is_padding.unsqueeze(2), PAD_CHARACTER)
        return inputs, self._labels[positions].masked_fill_(is_padding, IGNORED_LABEL)


def _number_tags(sentences: Sentences, facts: Mapping[str, Any]) -> list[int]:
    """Return the numbers of all the tags, one sentence after the other."""
    numbers = {tag: number for number, tag in enumerate(facts["tags"])}
    numbers |= dict.fromkeys(facts["rare_tags"], numbers[vocabulary.OUTSIDE])
    for name, tags in zip(sentences.ids, sentences.tags, strict=True):
        for tag in tags:
            if tag not in numbers:
                known = ", ".join(facts["tags"][:20])
                raise InputError(
                    f"{name}: tag {tag!r} is not one of those that train (or tags.txt) has: {known}; correct it; or, "
                    "if it is right, build tags.txt again, if there is one, and start another run, which will know it"
                )
    return [numbers[tag] for tags in sentences.tags for tag in tags]


def _number_characters(forms: Sequence[str], params: Params) -> tuple[Tensor, Tensor]:
    """Return the characters of each form, (num_forms, max_word_len), int32, and how many they are, (num_forms,)."""
    numbers = {character: number for number, character in enumerate(params.facts["characters"])}
    table = np.full((len(forms), params.max_word_len), PAD_CHARACTER, dtype=np.int32)
    for row, form in enumerate(forms):
        characters = [numbers.get(character, UNK_CHARACTER) for character in form[: params.max_word_len]]
        table[row, : len(characters)] = characters
    return torch.from_numpy(table), torch.from_numpy((table != PAD_CHARACTER).sum(axis=1))


def fetch_dataset(split: str, data_dir: Path, params: Params) -> TaggedSentences:
    """Return the dataset of 'train', 'val' or 'test'.

    Raises:
        InputError: the data is missing or broken
    """
    return TaggedSentences(read_split(split, data_dir, params), params, augment=split == "train")


def fetch_unlabelled(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, list[str] | InputError]]:
    """Yield new sentences as `stream_sentences` says."""
    return stream_sentences(paths, params)


def show_unlabelled(example: list[str]) -> dict[str, str]:
    """Return the tokens as a text that is split at spaces like the tags; spaces inside a token become no-break ones."""
    return {"tokens": " ".join(token.replace(" ", "\u00a0") for token in example)}


def collate_unlabelled(examples: Sequence[list[str]], params: Params) -> tuple[dict[str, Tensor], Tensor]:
    """Return sentences as `TaggedSentences` does: it does it. Of the labels only the padding's -100 mean something."""
    tags = [[vocabulary.OUTSIDE] * len(tokens) for tokens in examples]
    sentences = Sentences([""] * len(examples), list(examples), tags)
    return TaggedSentences(sentences, params, augment=False).__getitems__(range(len(examples)))


def describe_inputs(params: Params) -> dict[str, Any]:
    """Return how sentences become inputs and outputs become answers, for code without ours."""
    facts = params.facts
    steps = [
        "split the sentence at spaces into tokens",
        f"words: each token's position in `words`, or that of {facts['unk_word']!r} if it is not there",
        f"fill up shorter sentences of a batch at their ends with the position of {facts['pad_word']!r}",
    ]
    if params.char_channels:
        steps.append(
            f"chars: the positions in `characters` of each token's first {params.max_word_len} characters, "
            f"{UNK_CHARACTER} for an unknown one; shorter tokens, and padding, are filled up with {PAD_CHARACTER}"
        )
    return {
        "steps": steps,
        "axes": {"words": ["batch_size", "max_len"], "chars": ["batch_size", "max_len", "max_word_len"]},
        "words": params.words,
        **({"characters": facts["characters"]} if params.char_channels else {}),
        "outputs": "logits, one for each of `classes`, for each token; softmax over the last axis makes them "
        "probabilities; what stands at padding means nothing",
        "classes": params.tags,
    }
