"""New sentences for predict.py, from text files and column files, read as they are needed. Imports no torch."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.ner import columns
from model.ner.params import Params
from model.ner.readers import COLUMN_SUFFIXES, decode_lines, split_tokens, take_columns
from model.ner.schemes import OUTSIDE
from utils import InputError

MANY_LINES = 20  # of one token each are no accident


def stream_sentences(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, list[str] | InputError]]:
    """Yield the sentences of files as (file:line, tokens); an InputError in the place of a broken one.

    A file whose name ends as a column file's (but .txt), or whose first lines have tags, is read as a column file, as a
    whole. Any other file has one sentence a line, and is read as the sentences are needed.

    Args:
        paths: UTF-8 files; `-` is standard input
        params: token_column and tag_column, and the tags
    """
    for path in paths:
        is_standard = str(path) == "-"
        try:
            with contextlib.nullcontext(sys.stdin.buffer) if is_standard else path.open("rb") as file:
                # someone may be typing the lines of what is no file, and waiting for an answer
                head = list(itertools.islice(file, 100 if path.is_file() else 3))
                if path.suffix in COLUMN_SUFFIXES[1:] or _has_columns(head, params):
                    yield from _stream_columns(b"".join([*head, *file]), str(path), params)
                    continue
                num_single = 0
                for number, line in enumerate(itertools.chain(head, file), start=1):
                    sentence = _decode_sentence(line, str(path), number)
                    if line.strip():
                        num_single = num_single + 1 if num_single >= 0 and _is_single(sentence) else -1
                    yield f"{path}:{number}", sentence
                if num_single > MANY_LINES and not is_standard:
                    logging.warning(
                        f"- WARNING: {path}: every line holds one token, and was read as a sentence; "
                        "if this is a column file, name it .conll"
                    )
        except OSError as error:
            yield str(path), InputError(f"{path}: cannot be read ({error.strerror})")


def _is_single(sentence: list[str] | InputError) -> bool:
    return isinstance(sentence, list) and len(sentence) == 1


def _has_columns(head: Sequence[bytes], params: Params) -> bool:
    """Return whether the first lines are a token and a tag each: `O` among the tags, or two different ones."""
    try:
        lines = decode_lines(b"".join(head), "")
        ends = [i for i, line in enumerate(lines, start=1) if columns.is_token(line.strip(" \t"))]
        found = columns.read(lines[: ends[2] if len(ends) > 2 else None], "", params)
    except InputError:
        return False
    cells = [cells for sentence in found.sentences for _, cells in sentence]
    tags = {each[params.tag_column] for each in cells}
    is_known = all(tag in params.tags or columns.looks_like_a_tag(tag) for tag in tags)
    return len(cells) > 1 and is_known and (OUTSIDE in tags or len(tags) > 1)


def _stream_columns(data: bytes, path: str, params: Params) -> Iterator[tuple[str, list[str] | InputError]]:
    try:
        found = columns.read(decode_lines(data, path), path, params, is_tagged=False, tags=params.tags)
        sentences = take_columns(found, path, params, is_tagged=False)
    except InputError as error:
        yield path, error
        return
    yield from zip(sentences.ids, sentences.tokens, strict=True)


def _decode_sentence(line: bytes, path: str, number: int) -> list[str] | InputError:
    try:
        text = "".join(decode_lines(line, path, number))
    except InputError as error:
        return error
    if "\t" in text:
        return InputError(f"{path}:{number}: a tab; expected tokens separated by spaces, or a name that ends in .conll")
    tokens = split_tokens(text)
    return tokens or InputError(f"{path}:{number}: an empty line; expected a sentence, its tokens separated by spaces")
