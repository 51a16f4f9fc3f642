"""Word vectors made elsewhere: GloVe's text format, a word and then its numbers in each line."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from utils import InputError


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines; the first of word2vec's text format (number and length of the vectors) becomes empty."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        first = file.readline()
        is_header = len(first.split()) == 2 and all(part.isdecimal() for part in first.split())
        yield "" if is_header else first
        yield from file


def check_file(path: Path, embedding_dim: int) -> None:
    """Look at the first vector.

    Raises:
        InputError: the file is missing, or its vectors are not of embedding_dim numbers
    """
    try:
        num_numbers = max(0, len(next(filter(str.strip, _lines(path)), "").split()) - 1)
    except OSError as error:
        raise InputError(f"embedding_file {path}: cannot be read ({error.strerror})") from None
    if num_numbers != embedding_dim:
        raise InputError(
            f"embedding_file {path}: has vectors of {num_numbers} numbers, but embedding_dim is {embedding_dim}; "
            "they must be the same"
        )


def read_vectors(path: Path, words: Sequence[str], embedding_dim: int) -> dict[str, list[float]]:
    """Return the vectors of those words that the file has; one written in capitals may have its lower-case one.

    Raises:
        InputError: a line is broken
    """
    wanted = {*words, *(word.lower() for word in words)}
    found: dict[str, list[float]] = {}
    for number, line in enumerate(_lines(path), start=1):
        word, *numbers = line.rstrip().rsplit(" ", embedding_dim)  # from the right: a few of GloVe's words have spaces
        if word not in wanted:
            continue
        try:
            found[word] = [float(text) for text in numbers]
        except ValueError:
            numbers = []
        if len(numbers) != embedding_dim or not all(map(math.isfinite, found[word])):
            problem = f"expected {embedding_dim} numbers after {word!r}"
            raise InputError(f"embedding_file {path}:{number}: {problem}, none NaN or infinite: {line[:60]!r}")
    spellings = {word: word if word in found else word.lower() for word in words}
    return {word: found[spelling] for word, spelling in spellings.items() if spelling in found}


@torch.no_grad()
def load_vectors(weight: Tensor, words: Sequence[str], path: Path) -> None:
    """Put the vectors of a file into the rows of an embedding; words that it lacks keep their random ones.

    Args:
        weight: (vocab_size, embedding_dim), changed in place
        words: of the rows, in order
        path: the file

    Raises:
        InputError: the file does not fit, or is broken
    """
    check_file(path, weight.shape[1])
    vectors = read_vectors(path, words, weight.shape[1])
    logging.info(f"- {path} has vectors for {len(vectors)} of {len(words)} words")
    for row, word in enumerate(words):
        if word in vectors:
            weight[row] = torch.tensor(vectors[word])
