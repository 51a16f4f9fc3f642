"""Words and tags: of the data, or of the files `words.txt`, `tags.txt` and `dataset_params.json` of CS230.

Where those files exist they are used, so that a checkpoint of CS230 finds the rows of its embedding. Training does not
need them: without them it finds the same vocabulary, in the same order, as build_vocab.py writes. Imports no torch.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import utils
from model.ner.params import Params
from model.ner.readers import Sentences, read_text_lines
from model.ner.schemes import OUTSIDE
from utils import InputError

SPECIALS = {"pad_word": "<pad>", "unk_word": "UNK"}


def derive(splits: Mapping[str, Sentences], params: Params) -> dict[str, Any]:
    """Return `words`, the frequent ones of train, `tags`, those of train and of the other splits, and the SPECIALS.

    A tag that train lacks needs an output of the net, although nothing trains it: its tokens are scored, as errors.
    """
    word_counts = collections.Counter(token for tokens in splits["train"].tokens for token in tokens)
    words = [word for word, count in word_counts.items() if count >= params.min_count_word]
    tag_counts = count_tags(splits["train"])
    tags = [tag for tag, count in tag_counts.items() if count >= params.min_count_tag]
    for split, sentences in splits.items():
        new = [tag for tag in count_tags(sentences) if tag not in tag_counts and tag not in tags]
        if new and params.min_count_tag == 1:
            tags += new
            logging.warning(f"- WARNING: tags of {split} that train lacks count as errors there: {', '.join(new)}")
    words += [special for special in SPECIALS.values() if special not in words]
    return {"words": words, "tags": tags if OUTSIDE in tags else [*tags, OUTSIDE], **SPECIALS}


def count_tags(sentences: Sentences) -> collections.Counter[str]:
    """Return the number of each tag, in the order of their first occurrence."""
    return collections.Counter(tag for tags in sentences.tags for tag in tags)


def read(data_dir: Path, params: Params) -> dict[str, Any] | None:
    """Return the same from CS230's files, or None where there are none.

    Raises:
        InputError: one of words.txt and tags.txt is missing, or they contradict each other or dataset_params.json
    """
    words_path, tags_path, sizes_path = (data_dir / name for name in ("words.txt", "tags.txt", "dataset_params.json"))
    if not words_path.exists() and not tags_path.exists():
        return None
    words, tags = read_text_lines(words_path), read_text_lines(tags_path)
    sizes = utils.read_json(sizes_path) if sizes_path.exists() else {}
    specials = {name: sizes.get(name, word) for name, word in SPECIALS.items()}
    checks = (
        (words_path, words, "vocab_size", specials.values()), (tags_path, tags, "number_of_tags", [OUTSIDE])
    )  # fmt: skip
    for path, lines, key, needed in checks:
        if sizes.get(key, len(lines)) != len(lines):
            raise InputError(f"{path}: {len(lines)} lines, but dataset_params.json beside it says {key} {sizes[key]}")
        for entry in needed:
            if entry not in lines:
                raise InputError(f"{path}: lacks {entry!r}; run build_vocab.py again, or remove the file")
    logging.info(f"- the vocabulary is that of words.txt and tags.txt in {data_dir}")
    if params.min_count_word > 1:
        logging.warning("- WARNING: min_count_word has no effect beside words.txt; build that with --min_count_word")
    return {"words": words, "tags": tags, **specials}
