"""The sentences behind the ids of a split, for a page that shows them. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from model.ner.params import Params
from model.ner.readers import read_split

# the hyperparameters that decide which examples a split has, and what they say
READS = ("split_seed", "val_fraction", "token_column", "tag_column", "tag_scheme")


def fetch_inputs(ids: Collection[str], split: str, data_dir: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Return the sentences of a split by their id, as {"tokens": [...]}.

    Args:
        ids: of the examples wanted; those that the split does not have are left out
        split: 'train', 'val' or 'test'
        data_dir: the dataset
        params: what READS says

    Raises:
        InputError: the data is gone, or broken
    """
    sentences, wanted = read_split(split, data_dir, params), set(ids)
    pairs = zip(sentences.ids, sentences.tokens, strict=True)
    return {name: {"tokens": tokens} for name, tokens in pairs if name in wanted}
