"""The shapes that tagged text comes in, told apart by looking at `data_dir`:

    <split>/sentences.txt, <split>/labels.txt    CS230's: one sentence a line, tokens (and tags) separated by spaces
    <split>.txt, <split>.conll or <split>.bio    CoNLL's: one token a line, in columns; a blank line ends a sentence

Which column holds what: params.token_column, params.tag_column. Lines that begin with -DOCSTART- are skipped. Tags are
read as BIO, or, with params.tag_scheme 'iob1', turned into it. An I- without a B- before it begins an entity, as for
CoNLL's own scorer and for seqeval. Where there is no val split, one is cut from train, the same for every run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from model.ner.params import Params
from utils import InputError

COLUMN_SUFFIXES = (".txt", ".conll", ".bio")


@dataclasses.dataclass(frozen=True)
class Sentences:
    """The sentences of a split.

    Args:
        ids: a name for each: its file below data_dir, and the line it begins in
        tokens: of each
        tags: of each, as many as tokens
    """

    ids: list[str]
    tokens: list[list[str]]
    tags: list[list[str]]

    def take(self, positions: Sequence[int]) -> Sentences:
        """Return some of the sentences."""
        return Sentences(
            [self.ids[i] for i in positions], [self.tokens[i] for i in positions], [self.tags[i] for i in positions]
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
            "train/sentences.txt with train/labels.txt, or train.txt, train.conll or train.bio"
        )
    if split == "test":
        raise InputError(f"{data_dir}: there is no test split in it; it holds {_listing(data_dir)}")
    train, val = _cut(len(whole.ids), params.val_fraction, params.split_seed)
    if split == "val":
        logging.info(f"- {data_dir} has no val split: {len(val)} of {len(whole.ids)} train sentences serve as val")
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
    sentences = _read_pair(path) if path.is_dir() else _read_columns(path, params)
    if params.tag_scheme == "iob1":
        return dataclasses.replace(sentences, tags=[from_iob1(tags) for tags in sentences.tags])
    return sentences


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def read_text_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, however they end; a byte-order mark is dropped.

    Raises:
        InputError: it is missing, unreadable, or not UTF-8
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8; convert the file, from Windows-1252 perhaps") from None
    lines = text.replace("\r\n", "\n").split("\n")  # not splitlines(): it cuts at characters that words may hold
    return lines[:-1] if lines[-1] == "" else lines


def split_tokens(line: str) -> list[str]:
    """Return the tokens of a sentence, or its tags: what stands between spaces."""
    return [token for token in line.split(" ") if token]


def stream_sentences(paths: Sequence[Path]) -> Iterator[tuple[str, list[str] | InputError]]:
    """Yield the sentences of files, one a line, as (file:line, tokens); an InputError in the place of a broken one.

    Args:
        paths: UTF-8 files; `-` is standard input
    """
    for path in paths:
        is_standard = str(path) == "-"
        try:
            with contextlib.nullcontext(sys.stdin.buffer) if is_standard else path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    encoding = "utf-8-sig" if number == 1 else "utf-8"  # a byte-order mark may begin the file
                    yield f"{path}:{number}", _decode_sentence(line, f"{path}:{number}", encoding)
        except OSError as error:
            yield str(path), InputError(f"{path}: cannot be read ({error.strerror})")


def _decode_sentence(line: bytes, where: str, encoding: str) -> list[str] | InputError:
    try:
        tokens = split_tokens(line.decode(encoding).removesuffix("\n").removesuffix("\r"))
    except UnicodeDecodeError:
        return InputError(f"{where}: not UTF-8; convert the file, from Windows-1252 perhaps")
    return tokens or InputError(f"{where}: an empty line; expected a sentence, its tokens separated by spaces")


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
    for number, (words, their_tags) in enumerate(zip(tokens, tags, strict=True), start=1):
        if not words:
            raise InputError(f"{sentences_path}:{number}: an empty line; take it out, and its line of labels.txt")
        if len(words) != len(their_tags):
            raise InputError(
                f"{sentences_path}:{number}: {len(words)} tokens, but line {number} of labels.txt has "
                f"{len(their_tags)} tags; expected one for each token"
            )
    return Sentences([f"{folder.name}/sentences.txt:{i + 1}" for i in range(len(lines))], tokens, tags)


def _read_columns(path: Path, params: Params) -> Sentences:
    """Read one token a line."""
    sentences = Sentences([], [], [])
    num_columns, is_inside = 0, False
    for number, line in enumerate(read_text_lines(path), start=1):
        columns = re.split(r"[ \t]+", line.strip(" \t"))
        if columns == [""] or columns[0].startswith("-DOCSTART-"):
            is_inside = False
            continue
        num_columns = num_columns or len(columns)
        if len(columns) != num_columns:
            raise InputError(f"{path}:{number}: {len(columns)} columns, but {num_columns} in the lines before")
        for name in ("token_column", "tag_column"):
            if not -num_columns <= getattr(params, name) < num_columns:
                raise InputError(
                    f"{path}:{number}: {num_columns} column(s), so there is no {name} {getattr(params, name)}; "
                    "columns are counted from 0, and separated by spaces or tabs"
                )
        if not is_inside:
            is_inside = True
            sentences.ids.append(f"{path.name}:{number}")
            sentences.tokens.append([])
            sentences.tags.append([])
        sentences.tokens[-1].append(columns[params.token_column])
        sentences.tags[-1].append(columns[params.tag_column])
    return sentences


def from_iob1(tags: Sequence[str]) -> list[str]:
    """Return IOB1 tags as BIO: the first token of an entity gets its B-."""
    return [
        f"B-{tag[2:]}" if tag.startswith("I-") and (before == "O" or before[2:] != tag[2:]) else tag
        for before, tag in zip(["O", *tags], tags, strict=False)
    ]
