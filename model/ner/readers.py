"""Tagged text in either of two layouts, recognised by what is in `data_dir`. Imports no torch.

    <split>/sentences.txt, <split>/labels.txt    CS230's: one sentence per line, tokens (and tags) separated by spaces
    <split>.txt, .conll, .bio, .tsv, ...         CoNLL's: a token per line, in columns; a blank line after each sentence

If there is no val split, it is cut from train, the same for every run. Columns are separated by tabs if a token's line
has a tab inside it (then tokens may hold spaces), otherwise by spaces. All lines have the same number of columns. These
lines are not tokens:

- blank lines and lines that begin with -DOCSTART-, which end a sentence;
- comments before a sentence: lines that begin with `#` and have another number of columns than the tokens, or the form
  `# key = value`, or a text in the tag's column that is not a tag;
- in files named .conllu, the lines whose first column is 1-2 or 1.1: multiword tokens and empty nodes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.ner.params import Params
from model.ner.schemes import OUTSIDE, from_iob1
from utils import InputError, read_bytes

COLUMN_SUFFIXES = (".txt", ".conll", ".bio", ".iob", ".iob2", ".tsv", ".conllu")
LONGEST = 200  # tokens of a sentence that may be the only one of its file
KEY_AND_VALUE = re.compile(r"#\s*[A-Za-z][\w:.-]*\s+=(\s|$)")
A_TAG = re.compile(r"O|[BIESLU]-[^ ]*")
NOT_A_WORD = re.compile(r"\d+-\d+|\d+\.\d+")


class Sentences(NamedTuple):
    """The sentences of a split or a file; an id is the file and the line that the sentence begins in."""

    ids: list[str]
    tokens: list[list[str]]
    tags: list[list[str]]


def read_split(split: str, data_dir: Path, params: Params, is_quiet: bool = False) -> Sentences:
    """Return the sentences of 'train', 'val' or 'test'. With `is_quiet`, nothing is logged."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: there is no such data directory; --data_dir says where the data is")
    names = sorted(path.name for path in data_dir.iterdir())
    is_cut = split != "test" and _find(data_dir, "val") is None
    name = "train" if is_cut else split
    path = _find(data_dir, name)
    if path is None:
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        expected = f"{name}/sentences.txt with {name}/labels.txt, or {name} with {', '.join(COLUMN_SUFFIXES)}"
        raise InputError(f"{data_dir}: no {name} split; it holds {shown or 'nothing'}, expected {expected}")
    if path.is_dir():
        whole = _read_pair(path)
    else:
        whole = read_columns(read_text_lines(path), str(path), params, is_quiet=is_quiet)
        whole = whole._replace(ids=[path.name + name.removeprefix(str(path)) for name in whole.ids])
    number = len(whole.ids)
    if number == 1 and (is_cut or len(whole.tokens[0]) > LONGEST):
        expected = "a line for each" if path.is_dir() else "a blank line after each"
        raise InputError(f"{path}: one sentence, of {len(whole.tokens[0]):,} tokens; expected several, {expected}")
    if params.tag_scheme == "iob1":
        whole = whole._replace(tags=[from_iob1(tags) for tags in whole.tags])
    if not is_cut:
        return whole
    order = np.random.default_rng(params.split_seed).permutation(number)
    val = set(order[: min(max(1, round(number * params.val_fraction)), max(0, number - 1))].tolist())
    if split == "val" and not is_quiet:
        logging.info(f"- {data_dir} has no val split: {len(val)} of {number} train sentences serve as val")
        for name in [name for name in names if Path(name).stem in ("dev", "valid", "validation")]:
            logging.warning(f"- WARNING: {data_dir / name} is not read; rename it to val if it is the val split")
    chosen = [i for i in range(number) if (i in val) == (split == "val")]
    return Sentences._make([column[i] for i in chosen] for column in whole)


def _find(data_dir: Path, split: str) -> Path | None:
    """Return the folder or the column file of a split; None if there is neither."""
    candidates = [data_dir / split, *(data_dir / f"{split}{suffix}" for suffix in COLUMN_SUFFIXES)]
    found = [path for path in candidates if (path / "sentences.txt").is_file() or path.is_file()]
    if len(found) > 1:
        raise InputError(f"{data_dir}: {found[0].name} and {found[1].name} both are its {split} split; remove one")
    return found[0] if found else None


def read_text_lines(path: Path) -> list[str]:
    """Return the lines of a file, as `decode_lines` does."""
    try:
        return decode_lines(read_bytes(path), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def decode_lines(data: bytes, path: str, first: int = 1) -> list[str]:
    """Return the lines of UTF-8 text, which end in LF or CRLF. The number of the first line is `first`."""
    try:
        text = data.decode("utf-8-sig" if first == 1 else "utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + first
        raise InputError(f"{path}:{number}: not UTF-8; convert the file (from Windows-1252 or UTF-16?)") from None
    for character, name in (("\r", "a carriage return inside a line"), ("\0", "a NUL character")):
        if character in text:
            number = text[: text.index(character)].count("\n") + first
            raise InputError(f"{path}:{number}: {name}; expected UTF-8 text whose lines end in LF or CRLF")
    lines = text.split("\n")  # not splitlines(): it cuts at characters that words may hold
    return lines[:-1] if lines[-1] == "" else lines


def split_tokens(line: str, where: str) -> list[str]:
    """Return the tokens of a sentence, or its tags."""
    tokens = [token for token in line.split(" ") if token]
    if "\t" in line or not tokens:
        found = "a tab" if tokens else "an empty line"
        raise InputError(f"{where}: {found}; expected tokens separated by spaces (name a column file .conll)")
    return tokens


def _read_pair(folder: Path) -> Sentences:
    """Return the sentences of a folder in CS230's layout."""
    paths = folder / "sentences.txt", folder / "labels.txt"
    texts = [read_text_lines(path) for path in paths]
    if len(texts[0]) != len(texts[1]):
        raise InputError(f"{paths[0]}: {len(texts[0])} lines, but labels.txt beside it has {len(texts[1])}")
    found = Sentences([], [], [])
    for number, pair in enumerate(zip(*texts, strict=True), start=1):
        tokens, tags = (split_tokens(line, f"{path}:{number}") for line, path in zip(pair, paths, strict=True))
        if len(tokens) != len(tags):
            counts = f"{len(tokens)} tokens, but that line of labels.txt has {len(tags)} tags"
            raise InputError(f"{paths[0]}:{number}: {counts}")
        found.ids.append(f"{folder.name}/sentences.txt:{number}")
        found.tokens.append(tokens)
        found.tags.append(tags)
    return found


def read_columns(
    lines: Sequence[str], path: str, params: Params, is_tagged: bool = True, is_quiet: bool = False
) -> Sentences:
    """Return the sentences of a column file; unless `is_tagged`, it may lack the tags, and every tag is O."""
    texts = [line.strip(" \t") for line in lines]
    sure = [i for i, text in enumerate(texts) if is_token(text)]
    if not sure:
        raise InputError(f"{path}:1: no token in the whole file; expected one token per line, and its tag")
    has_tabs = any("\t" in texts[i] for i in sure)
    # with tabs between the cells, the first and the last cell of a line may be empty
    cut = [line.split("\t") for line in lines] if has_tabs else [re.split("[ \t]+", text) for text in texts]
    rows = [[cell.strip(" ") for cell in cells] for cells in cut]
    width, is_conllu = len(rows[sure[0]]), path.endswith(".conllu")
    token, tag = _find_columns(width, params, is_tagged, f"{path}:{sure[0] + 1}")
    # a line right after a token's is a token's too, or a mistake
    certain = [rows[i] for i in (*sure, *(i + 1 for i in sure)) if i < len(rows) and len(rows[i]) == width]
    tags = {cells[tag] for cells in certain if tag is not None}
    found, skipped, is_inside = Sentences([], [], []), [], False
    for number, (text, cells) in enumerate(zip(texts, rows, strict=True), start=1):
        where = f"{path}:{number}"
        if not text or text.startswith("-DOCSTART-"):
            is_inside = False
            continue
        has_width = len(cells) == width
        new_tag = cells[tag] if has_width and tag is not None else OUTSIDE
        is_tag = has_width and (new_tag in tags or A_TAG.fullmatch(new_tag))
        if text[0] == "#" and (not is_tag or KEY_AND_VALUE.match(text)):
            if is_inside:
                raise InputError(f"{where}: a comment inside a sentence; expected a blank line before it")
            skipped.append(number)
        elif not has_width:
            hint = "tabs, as some lines have one" if has_tabs else "spaces (a token with spaces needs tabs)"
            raise InputError(f"{where}: {len(cells)} columns, expected {width}; they are separated by {hint}")
        elif is_conllu and NOT_A_WORD.fullmatch(cells[0]):
            skipped.append(number)
        elif not cells[token] or (is_tagged and (not new_tag or " " in new_tag)):
            expected = f"a token in column {params.token_column} and a tag in column {params.tag_column}"
            raise InputError(f"{where}: expected {expected}, found {cells[token]!r} and {new_tag!r}")
        else:
            if not is_inside:
                found.ids.append(where)
                found.tokens.append([])
                found.tags.append([])
            is_inside = True
            found.tokens[-1].append(cells[token])
            found.tags[-1].append(new_tag if is_tagged else OUTSIDE)
    if skipped and not is_quiet:
        where = f"{path}: skipped {len(skipped)} lines"
        logging.info(f"- {where} that are not tokens, such as comments; first line {skipped[0]}")
    return found


def is_token(text: str) -> bool:
    """Return whether a line without spaces around it certainly holds a token."""
    return text != "" and text[0] != "#" and not text.startswith("-DOCSTART-")


def _find_columns(width: int, params: Params, is_tagged: bool, where: str) -> tuple[int, int | None]:
    """Return the columns of the token and of the tag, from 0; None if the file has no tags and needs none."""
    columns = (params.token_column, params.tag_column)
    token, tag = (column % width if -width <= column < width else None for column in columns)
    if token is None or (is_tagged and tag in (None, token)):
        found = f"{width} column(s), but token_column is {columns[0]} and tag_column is {columns[1]}"
        raise InputError(f"{where}: {found}; expected two different columns, counted from 0 (-1: the last)")
    if token == 0 and width > 2 and where.rpartition(":")[0].endswith(".conllu"):
        raise InputError(f"{where}: column 0 of a .conllu file numbers the tokens; type token_column=1")
    return token, None if token == tag else tag
