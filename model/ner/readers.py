"""The shapes that tagged text comes in, told apart by looking at `data_dir`:

    <split>/sentences.txt, <split>/labels.txt    CS230's: one sentence a line, tokens (and tags) separated by spaces
    <split>.txt, .conll, .bio, .tsv, ...         CoNLL's: one token a line, in columns; a blank line ends a sentence

Which column holds what: params.token_column, params.tag_column; `columns.py` says which lines are comments. Tags are
read as they are, or, with params.tag_scheme 'iob1', turned into BIO. Where there is no val split, one is cut from
train, the same for every run.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.ner import columns
from model.ner.params import Params
from model.ner.schemes import OUTSIDE, from_iob1
from utils import InputError, read_bytes

COLUMN_SUFFIXES = (".txt", ".conll", ".bio", ".iob", ".iob2", ".tsv", ".conllu")
LONGEST = 200  # tokens of a sentence that may be the only one of its file


@dataclasses.dataclass(frozen=True)
class Sentences:
    """The sentences of a split.

    Args:
        ids: a name for each: its file below data_dir, and the line it begins in
        tokens: of each
        tags: of each, as many as tokens
        skipped: the numbers of the lines of a column file that were skipped as comments or no words
    """

    ids: list[str]
    tokens: list[list[str]]
    tags: list[list[str]]
    skipped: list[int] = dataclasses.field(default_factory=list)

    def take(self, positions: Sequence[int]) -> Sentences:
        """Return some of the sentences."""
        return Sentences(
            [self.ids[i] for i in positions],
            [self.tokens[i] for i in positions],
            [self.tags[i] for i in positions],
            self.skipped,
        )


def read_split(split: str, data_dir: Path, params: Params) -> Sentences:
    """Return the sentences of 'train', 'val' or 'test'.

    Raises:
        InputError: the data is missing, in none of the known shapes, or broken
    """
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: there is no such data directory; --data_dir says where the data is")
    sentences = _read(split, data_dir, params)
    if sentences is not None and (split != "train" or _find(data_dir, "val") is not None):
        return sentences
    whole = _read("train", data_dir, params) if sentences is None else sentences
    if whole is None:
        raise InputError(
            f"{data_dir}: no tagged text in a known shape; it holds {_listing(data_dir)}, expected "
            f"train/sentences.txt with train/labels.txt, or train with one of the endings {', '.join(COLUMN_SUFFIXES)}"
        )
    if split == "test":
        raise InputError(f"{data_dir}: there is no test split in it; it holds {_listing(data_dir)}")
    if len(whole.ids) == 1:
        raise InputError(
            f"{data_dir}: train is one sentence, of {len(whole.tokens[0]):,} tokens, so no val split can be cut from "
            "it; in a column file a blank line ends each sentence"
        )
    train, val = _cut(len(whole.ids), params.val_fraction, params.split_seed)
    if split == "val":
        logging.info(f"- {data_dir} has no val split: {len(val)} of {len(whole.ids)} train sentences serve as val")
        others = sorted(path.name for path in data_dir.iterdir() if path.stem in ("dev", "valid", "validation"))
        if others:
            logging.warning(f"- WARNING: {data_dir / others[0]} is not read; rename it to val if it is the val split")
    return whole.take(train if split == "train" else val)


def _cut(num_sentences: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Share out positions between train and val; one sentence at least stays in train."""
    num_val = min(max(1, round(num_sentences * fraction)), num_sentences - 1)
    val = set(np.random.default_rng(seed).permutation(num_sentences)[: max(0, num_val)].tolist())
    return [i for i in range(num_sentences) if i not in val], sorted(val)


def _find(data_dir: Path, split: str) -> Path | None:
    """Return the folder or the column file of a split, or None where there is neither."""
    candidates = [data_dir / split, *(data_dir / f"{split}{suffix}" for suffix in COLUMN_SUFFIXES)]
    found = [path for path in candidates if (path / "sentences.txt").is_file() or path.is_file()]
    if len(found) > 1:
        raise InputError(f"{data_dir}: {found[0].name} and {found[1].name} both are its {split} split; take one away")
    return found[0] if found else None


def _read(split: str, data_dir: Path, params: Params) -> Sentences | None:
    path = _find(data_dir, split)
    if path is None:
        return None
    sentences = _read_pair(path) if path.is_dir() else read_columns(path, params)
    if not sentences.ids and path.is_file():
        raise InputError(f"{path}:1: no token in the whole file; expected one token a line, and its tag")
    if len(sentences.ids) == 1 and len(sentences.tokens[0]) > LONGEST:
        raise InputError(
            f"{path}: one very long sentence, of {len(sentences.tokens[0]):,} tokens; expected "
            + ("a line for each sentence" if path.is_dir() else "a blank line after each sentence")
        )
    if params.tag_scheme == "iob1":
        return dataclasses.replace(sentences, tags=[from_iob1(tags) for tags in sentences.tags])
    return sentences


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def read_text_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, ended by LF or CRLF; a byte-order mark is dropped.

    Raises:
        InputError: it is missing, unreadable, or not such text
    """
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return decode_lines(data, str(path))


def decode_lines(data: bytes, path: str, first: int = 1) -> list[str]:
    """Return the lines of UTF-8 text, as `read_text_lines` does; `first` is the number of the first one."""
    try:
        text = data.decode("utf-8-sig" if first == 1 else "utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + first
        raise InputError(f"{path}:{number}: not UTF-8; convert the file, from Windows-1252 or UTF-16 perhaps") from None
    lines = text.split("\n")  # not splitlines(): it cuts at characters that words may hold
    for number, line in enumerate(lines if "\r" in text or "\0" in text else (), start=first):
        if "\r" in line or "\0" in line:
            what = "a carriage return inside a line" if "\r" in line else "a NUL character"
            raise InputError(f"{path}:{number}: {what}; expected UTF-8 text whose lines end in LF or CRLF")
    return lines[:-1] if lines[-1] == "" else lines


def split_tokens(line: str) -> list[str]:
    """Return the tokens of a sentence, or its tags: what stands between spaces."""
    return [token for token in line.split(" ") if token]


def _read_pair(folder: Path) -> Sentences:
    """Read sentences.txt and labels.txt."""
    sentences_path, labels_path = folder / "sentences.txt", folder / "labels.txt"
    lines, tag_lines = read_text_lines(sentences_path), read_text_lines(labels_path)
    if len(lines) != len(tag_lines):
        raise InputError(
            f"{sentences_path}: {len(lines)} lines, but labels.txt beside it has {len(tag_lines)}; "
            "expected a line of tags for each sentence"
        )
    tokens = [split_tokens(line) for line in lines]
    tags = [split_tokens(line) for line in tag_lines]
    for number, pair in enumerate(zip(lines, tag_lines, strict=True), start=1):
        for path, text in zip((sentences_path, labels_path), pair, strict=True):
            if "\t" in text:
                raise InputError(f"{path}:{number}: a tab; expected tokens and tags separated by spaces")
    for number, (words, their_tags) in enumerate(zip(tokens, tags, strict=True), start=1):
        if not words:
            raise InputError(f"{sentences_path}:{number}: an empty line; take it out, and its line of labels.txt")
        if len(words) != len(their_tags):
            raise InputError(
                f"{sentences_path}:{number}: {len(words)} tokens, but line {number} of labels.txt has "
                f"{len(their_tags)} tags; expected one for each token"
            )
    return Sentences([f"{folder.name}/sentences.txt:{i + 1}" for i in range(len(lines))], tokens, tags)


def read_columns(path: Path, params: Params) -> Sentences:
    """Read one token a line.

    Raises:
        InputError: the file is broken; says in which line
    """
    found = columns.read(read_text_lines(path), str(path), params)
    sentences = take_columns(found, str(path), params, is_tagged=True)
    names = [f"{path.name}:{lines[0][0]}" for lines in found.sentences]
    return dataclasses.replace(sentences, ids=names, skipped=found.skipped)


def take_columns(found: columns.Columns, path: str, params: Params, is_tagged: bool) -> Sentences:
    """Return the tokens, and the tags if there are any, of the lines of a column file."""
    sentences = Sentences([], [], [])
    for lines in found.sentences:
        sentences.ids.append(f"{path}:{lines[0][0]}")
        sentences.tokens.append([cells[params.token_column] for _, cells in lines])
        sentences.tags.append([cells[params.tag_column] if is_tagged else OUTSIDE for _, cells in lines])
        for (line, _), token, tag in zip(lines, sentences.tokens[-1], sentences.tags[-1], strict=True):
            if not token:
                raise InputError(f"{path}:{line}: the token, in column {params.token_column}, is empty")
            if not tag:
                raise InputError(f"{path}:{line}: the tag, in column {params.tag_column}, is empty")
            if " " in tag:
                raise InputError(f"{path}:{line}: expected a tag in column {params.tag_column}, found {tag!r}")
    return sentences
