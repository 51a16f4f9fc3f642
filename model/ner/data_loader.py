"""Sentences as padded batches of numbers, and the vocabulary that numbers them."""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from fiveline.device import epoch_draws
from fiveline.metrics import IGNORED_LABEL
from model.ner import schemes
from model.ner.params import Params
from model.ner.readers import Sentences, read_split, read_text_lines
from model.ner.schemes import OUTSIDE
from utils import InputError, read_json

SPECIALS = {"pad_word": "<pad>", "unk_word": "UNK"}
UNK_CHARACTER = 1  # 0 is padding


def fetch_facts(data_dir: Path, params: Params) -> dict[str, Any]:
    """Return the vocabulary, the `characters`, the `rare_tags` (which become O) and the tag `scheme`.

    The tags come from all splits, everything else from train: a stray tag in val or test does not change the scheme.
    """
    splits = {"train": (train := read_split("train", data_dir, params, is_quiet=True))}
    facts = _read_vocabulary(data_dir, params)
    for split in ("val", "test") if facts is None else ():
        with contextlib.suppress(InputError):  # a mistake in one is reported when it is used
            splits[split] = read_split(split, data_dir, params, is_quiet=True)
    facts = facts or derive_vocabulary(splits, params)
    counts, every = _count_tags(train), _count_tags(*splits.values())
    rare = [tag for tag in every if counts[tag] < params.min_count_tag and tag not in facts["tags"]]
    if rare:
        which = f"{sum(counts[tag] for tag in rare)} tokens of train become O"
        logging.info(f"- {which}, their tags are rarer than min_count_tag: {', '.join(rare)}")
    num_tags = sum(len(splits) == 1 or counts[tag] > 0 or tag == OUTSIDE for tag in facts["tags"])
    if num_tags < 2:
        found = f"train has {num_tags} tag(s) in {len(train.ids)} sentences"
        raise InputError(f"{data_dir}: {found}, expected two or more; is tag_column the column of the tags?")
    has_entities = not {OUTSIDE, *rare}.issuperset(counts)
    tags = [[OUTSIDE if tag in rare else tag for tag in each] for each in train.tags]
    places = [f"{data_dir}/{name}" for name in train.ids]
    scheme = schemes.detect(places, tags) if has_entities else schemes.guess(facts["tags"])
    characters = sorted({character for tokens in train.tokens for token in tokens for character in token})
    return {**facts, "rare_tags": rare, "characters": [*SPECIALS.values(), *characters], "scheme": scheme}


def derive_vocabulary(splits: Mapping[str, Sentences], params: Params) -> dict[str, Any]:
    """Return `words` (the frequent ones of train), `tags` (of all splits) and the SPECIALS."""
    word_counts = collections.Counter(token for tokens in splits["train"].tokens for token in tokens)
    words = [word for word, count in word_counts.items() if count >= params.min_count_word]
    tag_counts = _count_tags(splits["train"])
    tags = [tag for tag, count in tag_counts.items() if count >= params.min_count_tag]
    for split, sentences in splits.items():
        new = [tag for tag in _count_tags(sentences) if tag not in tag_counts and tag not in tags]
        if new and params.min_count_tag == 1:  # the net gets outputs for them, which nothing trains
            tags += new
            logging.warning(f"- WARNING: tags of {split} that train lacks count as errors there: {', '.join(new)}")
    words += [special for special in SPECIALS.values() if special not in words]
    return {"words": words, "tags": tags if OUTSIDE in tags else [*tags, OUTSIDE], **SPECIALS}


def _count_tags(*splits: Sentences) -> collections.Counter[str]:
    """Return the number of each tag, in the order of their first occurrence."""
    return collections.Counter(tag for sentences in splits for tags in sentences.tags for tag in tags)


def _read_vocabulary(data_dir: Path, params: Params) -> dict[str, Any] | None:
    """Return the vocabulary of CS230's words.txt and tags.txt; None if neither file exists."""
    words_path, tags_path, sizes_path = (data_dir / name for name in ("words.txt", "tags.txt", "dataset_params.json"))
    if not words_path.exists() and not tags_path.exists():
        return None
    words, tags = read_text_lines(words_path), read_text_lines(tags_path)
    sizes = read_json(sizes_path) if sizes_path.exists() else {}
    specials = {name: sizes.get(name, word) for name, word in SPECIALS.items()}
    for path, lines, needed in ((words_path, words, specials.values()), (tags_path, tags, [OUTSIDE])):
        if missing := [entry for entry in needed if entry not in lines]:
            raise InputError(f"{path}: lacks {missing[0]!r}; run build_vocab.py again, or remove the file")
    logging.info(f"- the vocabulary is read from words.txt and tags.txt in {data_dir}")
    if params.min_count_word > 1:
        logging.warning("- WARNING: min_count_word has no effect beside words.txt; build that with --min_count_word")
    return {"words": words, "tags": tags, **specials}


class TaggedSentences(Dataset[Any]):
    """The sentences of one split; a tag that the vocabulary lacks is an InputError."""

    def __init__(self, sentences: Sentences, params: Params) -> None:
        self.ids, self.params = sentences.ids, params
        self.lengths = [len(tokens) for tokens in sentences.tokens]
        tokens = [token for tokens in sentences.tokens for token in tokens]
        numbers = {word: number for number, word in enumerate(params.words)}
        self._pad, self._unk = numbers.pop(params.facts["pad_word"]), numbers[params.facts["unk_word"]]
        self._known_words = torch.tensor([numbers.get(token, self._unk) for token in tokens])  # (num_tokens,)
        self._words = self._known_words.split(self.lengths)  # of each sentence
        self._labels = torch.tensor(_number_tags(sentences, params.facts)).split(self.lengths)
        if params.char_channels:
            forms = {"": 0}  # of a word as it is written, known or unknown; the first is padding
            numbered = [forms.setdefault(token, len(forms)) for token in tokens]
            self._forms = torch.tensor(numbered).split(self.lengths)
            of = {character: number for number, character in enumerate(params.facts["characters"])}
            rows = [[of.get(character, UNK_CHARACTER) for character in form[: params.max_word_len]] for form in forms]
            self._form_lengths = torch.tensor([len(row) for row in rows])
            self._characters = torch.tensor([row + [0] * (params.max_word_len - len(row)) for row in rows])

    def __len__(self) -> int:
        return len(self.ids)

    def set_epoch(self, epoch: int) -> None:
        """Draw which words are unknown in this epoch of training, from 1."""
        draws = epoch_draws(self.params.seed, epoch, len(self._known_words), 1).squeeze(1)  # (num_tokens,)
        is_dropped = draws < self.params.word_dropout_rate
        self._words = self._known_words.masked_fill(is_dropped, self._unk).split(self.lengths)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        inputs, labels = self.__getitems__([index])
        return {name: entry[0] for name, entry in inputs.items()}, labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """Return a batch, padded to its longest sentence: the inputs of `Net.forward`, and the labels.

        The labels are tag numbers, (batch_size, max_len), int64; -100 at padding.
        """
        inputs = {"words": pad_sequence([self._words[i] for i in indices], True, self._pad)}
        if self.params.char_channels:
            forms = pad_sequence([self._forms[i] for i in indices], True)  # (batch_size, max_len)
            inputs["chars"] = self._characters[:, : int(self._form_lengths[forms].max())][forms]
        return inputs, pad_sequence([self._labels[i] for i in indices], True, IGNORED_LABEL)


def _number_tags(sentences: Sentences, facts: dict[str, Any]) -> list[int]:
    """Return the numbers of all tags, one sentence after the other."""
    numbers = {tag: number for number, tag in enumerate(facts["tags"])}
    numbers |= dict.fromkeys(facts["rare_tags"], numbers[OUTSIDE])
    named = [(name, tag) for name, tags in zip(sentences.ids, sentences.tags, strict=True) for tag in tags]
    for name, tag in named:
        if tag not in numbers:
            known = f"train (or tags.txt) has no tag {tag!r}, only {', '.join(facts['tags'][:20])}"
            raise InputError(f"{name}: {known}; correct it, or run build_vocab.py (if you use it) and train again")
    return [numbers[tag] for _, tag in named]


def fetch_dataset(split: str, data_dir: Path, params: Params) -> TaggedSentences:
    """Return the dataset of 'train', 'val' or 'test'."""
    return TaggedSentences(read_split(split, data_dir, params), params)
