"""Column files: one token a line, a blank line after each sentence. Imports no torch.

Columns are separated by tabs if a token's line has a tab inside it, and then tokens may hold spaces; otherwise by
spaces. All lines have the same number of columns. These lines are not tokens:

- blank lines and lines that begin with -DOCSTART-, which end a sentence;
- comments before a sentence: lines that begin with `#` and have another number of columns than the tokens, or the form
  `# key = value`, or a text in the tag's column that is not a tag;
- in files named .conllu, the lines whose first column is 1-2 or 1.1: multiword tokens and empty nodes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import NamedTuple

from model.ner.params import Params
from model.ner.schemes import OUTSIDE
from utils import InputError

KEY_AND_VALUE = re.compile(r"#\s*[A-Za-z][\w:.-]*\s+=(\s|$)")
A_TAG = re.compile(r"O|[BIESLU]-[^ ]*")
NOT_A_WORD = re.compile(r"\d+-\d+|\d+\.\d+")


class Sentences(NamedTuple):
    """The sentences of a split or a file; an id is the file and the line that the sentence begins in."""

    ids: list[str]
    tokens: list[list[str]]
    tags: list[list[str]]


def read(lines: Sequence[str], path: str, params: Params, is_tagged: bool = True, is_quiet: bool = False) -> Sentences:
    """Return the sentences of a column file.

    Without `is_tagged`, the file may lack the column of the tags, and every tag is O. With `is_quiet`, the number of
    skipped lines is not logged.
    """
    texts = [line.strip(" \t") for line in lines]
    sure = [i for i, text in enumerate(texts) if is_token(text)]
    if not sure:
        raise InputError(f"{path}:1: no token in the whole file; expected one token a line, and its tag")
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
            raise InputError(
                f"{where}: expected a token in column {params.token_column} and a tag in column {params.tag_column}, "
                f"found {cells[token]!r} and {new_tag!r}"
            )
        else:
            if not is_inside:
                found.ids.append(where)
                found.tokens.append([])
                found.tags.append([])
            is_inside = True
            found.tokens[-1].append(cells[token])
            found.tags[-1].append(new_tag if is_tagged else OUTSIDE)
    if skipped and not is_quiet:
        number = skipped[0]
        logging.info(f"- {path}: skipped {len(skipped)} lines that are not tokens, such as comments; first line {number}")
    return found


def is_token(text: str) -> bool:
    """Return whether a line without spaces around it certainly holds a token."""
    return text != "" and text[0] != "#" and not text.startswith("-DOCSTART-")


def _find_columns(width: int, params: Params, is_tagged: bool, where: str) -> tuple[int, int | None]:
    """Return the columns of the token and of the tag, from 0; None if the file has no tags and needs none."""
    columns = (params.token_column, params.tag_column)
    token, tag = (column % width if -width <= column < width else None for column in columns)
    if token is None or (is_tagged and tag in (None, token)):
        raise InputError(
            f"{where}: {width} column(s), but token_column is {columns[0]} and tag_column is {columns[1]}; expected "
            "two different columns, counted from 0 (-1: the last), separated by spaces or tabs"
        )
    if token == 0 and width > 2 and where.rpartition(":")[0].endswith(".conllu"):
        raise InputError(f"{where}: column 0 of a .conllu file numbers the tokens; type token_column=1")
    return token, None if token == tag else tag
