"""Pretrained word vectors in GloVe's text format: a word and then its numbers in each line. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from utils import InputError

HEADER = re.compile(r"\d+ \d+\s*")  # the first line of word2vec's text format: number and length of the vectors


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="replace", newline="\n")


def check_file(path: Path, embedding_dim: int) -> None:
    """Check the first vector of a file.

    Raises:
        InputError: the file is missing, or its vectors are not of embedding_dim numbers
    """
    try:
        with _open(path) as file:
            first = next((line for line in file if line.strip() and not HEADER.fullmatch(line)), "")
    except OSError as error:
        raise InputError(f"embedding_file {path}: cannot be read ({error.strerror})") from None
    if (found := max(0, len(first.split()) - 1)) != embedding_dim:
        raise InputError(f"embedding_file {path}: has vectors of {found} numbers; expected embedding_dim={found}")


def read_vectors(path: Path, words: Sequence[str], embedding_dim: int) -> dict[str, list[float]]:
    """Return the vectors of the words that the file has; a word with capitals may have its lower-case one.

    Raises:
        InputError: a line is broken
    """
    wanted = {*words, *(word.lower() for word in words)}
    found: dict[str, list[float]] = {}
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            word, *texts = line.rstrip().rsplit(" ", embedding_dim)  # from the right: some of GloVe's words have spaces
            if word not in wanted or (number == 1 and HEADER.fullmatch(line)):
                continue
            try:
                found[word] = [float(text) for text in texts]
            except ValueError:
                texts = []
            if len(texts) != embedding_dim or not all(map(math.isfinite, found[word])):
                raise InputError(
                    f"embedding_file {path}:{number}: expected {embedding_dim} finite numbers after {word!r}, found "
                    f"{line[:60]!r}"
                )
    spellings = {word: word if word in found else word.lower() for word in words}
    return {word: found[spelling] for word, spelling in spellings.items() if spelling in found}
