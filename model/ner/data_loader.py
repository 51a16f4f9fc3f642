"""Sentences as padded batches: numbered once, kept as one row of numbers, cut out and padded as whole batches."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fiveline.device import epoch_draws
from fiveline.metrics import IGNORED_LABEL
from model.ner import schemes, vocabulary
from model.ner.embeddings import check_file
from model.ner.params import Params
from model.ner.readers import Sentences, read_split
from model.ner.schemes import OUTSIDE
from utils import InputError

PAD_CHARACTER, UNK_CHARACTER = 0, 1


def fetch_facts(data_dir: Path, params: Params) -> dict[str, Any]:
    """Return the facts of the data: the tags of all splits, the rest of train.

    Returns:
        `words` and `tags`, in the order of their numbers; `pad_word` and `unk_word`, two of the words; `characters`;
        `rare_tags`, which become O; and `scheme`, of the train tags alone: a stray tag elsewhere changes no score

    Raises:
        InputError: train is missing, broken or untagged, CS230's files or params.embedding_file do not fit
    """
    if params.embedding_file is not None:
        check_file(Path(params.embedding_file), params.embedding_dim)
    splits = {"train": (train := read_split("train", data_dir, params, is_quiet=True))}
    facts = vocabulary.read(data_dir, params)
    if facts is None:
        for split in ("val", "test"):  # a mistake in one is reported when it is used
            with contextlib.suppress(InputError):
                splits[split] = read_split(split, data_dir, params, is_quiet=True)
        facts = vocabulary.derive(splits, params)
    counts = vocabulary.count_tags(train)
    every = dict.fromkeys(tag for each in splits.values() for tag in vocabulary.count_tags(each))
    rare = [tag for tag in every if counts[tag] < params.min_count_tag and tag not in facts["tags"]]
    if rare:
        which = f"{sum(counts[tag] for tag in rare)} tokens of train become O, their tags are rarer than min_count_tag"
        logging.info(f"- {which}: {', '.join(rare)}")
    num_tags = sum(len(splits) == 1 or counts[tag] > 0 or tag == OUTSIDE for tag in facts["tags"])
    if num_tags < 2:
        raise InputError(
            f"{data_dir}: train has {num_tags} tag(s) in {len(train.ids)} sentences, expected two or more; the files "
            "must be tagged, and tag_column must be the column of the tags"
        )
    tags = [[OUTSIDE if tag in rare else tag for tag in each] for each in train.tags]
    has_entities = any(tag != OUTSIDE for each in tags for tag in each)
    places = [f"{data_dir}/{name}" for name in train.ids]
    return {
        **facts,
        "rare_tags": rare,
        "characters": [*vocabulary.SPECIALS.values(), *sorted({*"".join("".join(tokens) for tokens in train.tokens)})],
        "scheme": schemes.detect(places, tags) if has_entities else schemes.guess(facts["tags"]),
    }


class TaggedSentences(Dataset[Any]):
    """The sentences of one split.

    Args:
        sentences: from `read_split`
        params: seed, word_dropout_rate, char_channels, max_word_len, and the facts

    Raises:
        InputError: a tag that the vocabulary lacks
    """

    def __init__(self, sentences: Sentences, params: Params) -> None:
        self.ids, self.params = sentences.ids, params
        self.lengths = [len(tokens) for tokens in sentences.tokens]
        self._lengths = torch.tensor(self.lengths)
        self._starts = self._lengths.cumsum(0) - self._lengths
        numbers = {word: number for number, word in enumerate(params.words)}
        self._pad, self._unk = numbers.pop(params.facts["pad_word"]), numbers[params.facts["unk_word"]]
        # one row of all the tokens, and as many beyond its end as the longest sentence has
        beyond = [0] * max(self.lengths, default=0)
        tokens = [token for tokens in sentences.tokens for token in tokens]
        self._words = self._known_words = torch.tensor([numbers.get(token, self._unk) for token in tokens] + beyond)
        self._labels = torch.tensor(_number_tags(sentences, params.facts) + beyond)
        if params.char_channels:
            forms: dict[str, int] = {}  # of a word as it is written, known or unknown
            self._forms = torch.tensor([forms.setdefault(token, len(forms)) for token in tokens] + beyond)
            self._characters = _number_characters(list(forms), params)
            self._form_lengths = (self._characters != PAD_CHARACTER).sum(dim=1)

    def __len__(self) -> int:
        return len(self.ids)

    def set_epoch(self, epoch: int) -> None:
        """Draw which words are unknown in this epoch of training, from 1."""
        if self.params.word_dropout_rate > 0:
            draws = epoch_draws(self.params.seed, epoch, len(self._words), 1).squeeze(1)  # (num_tokens,)
            self._words = self._known_words.masked_fill(draws < self.params.word_dropout_rate, self._unk)

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
        inputs = {"words": self._words[positions].masked_fill_(is_padding, self._pad)}
        if self.params.char_channels:
            forms = self._forms[positions]
            longest = int(self._form_lengths[forms].masked_fill_(is_padding, 0).max())
            characters = self._characters[:, :longest][forms].long()
            inputs["chars"] = characters.masked_fill_(is_padding.unsqueeze(2), PAD_CHARACTER)
        return inputs, self._labels[positions].masked_fill_(is_padding, IGNORED_LABEL)


def _number_tags(sentences: Sentences, facts: dict[str, Any]) -> list[int]:
    """Return the numbers of all the tags, one sentence after the other."""
    numbers = {tag: number for number, tag in enumerate(facts["tags"])}
    numbers |= dict.fromkeys(facts["rare_tags"], numbers[OUTSIDE])
    for name, tags in zip(sentences.ids, sentences.tags, strict=True):
        for tag in tags:
            if tag not in numbers:
                known = ", ".join(facts["tags"][:20])
                raise InputError(
                    f"{name}: tag {tag!r} is not one of those that train (or tags.txt) has: {known}; correct it; or, "
                    "if it is right, run build_vocab.py again if there is a tags.txt, and start another run"
                )
    return [numbers[tag] for tags in sentences.tags for tag in tags]


def _number_characters(forms: Sequence[str], params: Params) -> Tensor:
    """Return the characters of each form, (num_forms, max_word_len), int32."""
    numbers = {character: number for number, character in enumerate(params.facts["characters"])}
    table = np.full((len(forms), params.max_word_len), PAD_CHARACTER, dtype=np.int32)
    for row, form in enumerate(forms):
        characters = [numbers.get(character, UNK_CHARACTER) for character in form[: params.max_word_len]]
        table[row, : len(characters)] = characters
    return torch.from_numpy(table)


def fetch_dataset(split: str, data_dir: Path, params: Params) -> TaggedSentences:
    """Return the dataset of 'train', 'val' or 'test'.

    Raises:
        InputError: the data is missing or broken
    """
    return TaggedSentences(read_split(split, data_dir, params), params)
