"""Column files: one token a line, a blank line after each sentence. Imports no torch.

Columns are separated by tabs if any line of tokens has a tab inside it, and then tokens may hold spaces; else they are
separated by spaces. Every line of tokens has the same number of columns. These lines are no tokens:

- lines that begin with -DOCSTART-;
- comments before a sentence, or at the end of the file: lines that begin with `#`, and have another number of columns
  than the tokens, or the form `# key = value`, or in the tag's column something that is no tag of the file. Any other
  line with `#` is a token;
- lines whose first column is 1-2 or 1.1, where the others are numbered 1, 2, 3: multiword tokens and empty nodes of
  CoNLL-U, whose words have lines of their own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence

from model.ner.params import Params
from model.ner.schemes import LETTERS, OUTSIDE
from utils import InputError

KEY_AND_VALUE = re.compile(r"#\s*[A-Za-z][\w:.-]*\s+=(\s|$)")
NOT_A_WORD = re.compile(r"\d+-\d+|\d+\.\d+")

Line = tuple[int, list[str]]  # its number, from 1, and its columns


@dataclasses.dataclass
class Columns:
    """What a column file holds.

    Args:
        sentences: the lines of each
        skipped: the lines that were skipped as comments, multiword tokens or empty nodes
    """

    sentences: list[list[Line]]
    skipped: list[int]


def read(
    lines: Sequence[str], path: str, params: Params, is_tagged: bool = True, tags: Collection[str] = ()
) -> Columns:
    """Return the sentences of a column file.

    Args:
        lines: of the file
        path: for messages
        params: token_column, tag_column
        is_tagged: whether the tag_column must be there
        tags: known tags; the file may have others

    Raises:
        InputError: a line has another number of columns, or there is no such column; or the tokens are numbers 1, 2, 3
    """
    texts = {number: line.strip(" \t") for number, line in enumerate(lines, start=1)}
    plain = [number for number, text in texts.items() if is_token(text)]
    if not plain:  # perhaps each token is a `#`
        plain = [n for n, text in texts.items() if text[:1] == "#" and looks_like_a_tag(text.split()[-1])]
    has_tabs = any("\t" in texts[number] for number in plain)
    rows = {number: _split(text, has_tabs) for number, text in texts.items()}
    # where no cell at the end of the line is empty
    first = next((n for n in plain if not has_tabs or lines[n - 1].strip(" ") == texts[n]), min(plain, default=1))
    width = len(rows[first]) if plain else 0
    _check_columns(f"{path}:{first}", width, params, is_tagged)
    tag_column = params.tag_column if -width <= params.tag_column < width else None
    if not is_tagged and tag_column is not None and tag_column % width == params.token_column % width:
        tag_column = None  # a file of tokens alone
    if has_tabs:
        rows |= _with_empty_ends(lines, rows, width)
    known = {*tags, *_tags_inside(texts, rows, width, tag_column)}
    found, is_inside, end = Columns([], []), False, 0  # the first comment that must be at the end of the file
    for number, cells in rows.items():
        if not texts[number] or texts[number].startswith("-DOCSTART-"):
            is_inside = False
            continue
        if texts[number][0] == "#" and _is_comment(texts[number], cells, width, tag_column, known, is_inside):
            if is_inside:
                _check_end(end or " " in texts[number], f"{path}:{number}")
                end = end or number
            found.skipped.append(number)
            continue
        if len(cells) != width:
            separator = "tabs, as some lines have one" if has_tabs else "spaces (a token with spaces needs tabs)"
            raise InputError(
                f"{path}:{number}: {len(cells)} columns, but {width} in the lines before; "
                f"the columns are separated by {separator}"
            )
        _check_end(not end, f"{path}:{end}")
        if not is_inside:
            is_inside = True
            found.sentences.append([])
        found.sentences[-1].append((number, cells))
    _drop_ranges(found, path, params)
    return found


def is_token(text: str) -> bool:
    """Return whether a line is certainly one of a token."""
    return text != "" and text[0] != "#" and not text.startswith("-DOCSTART-")


def _split(text: str, has_tabs: bool) -> list[str]:
    return [cell.strip(" ") for cell in text.split("\t")] if has_tabs else re.split(r"[ \t]+", text)


def _with_empty_ends(lines: Sequence[str], rows: dict[int, list[str]], width: int) -> dict[int, list[str]]:
    """Return the lines that have the right number of columns only if empty cells at their ends count."""
    whole = {number: _split(line, has_tabs=True) for number, line in enumerate(lines, start=1)}
    return {n: cells for n, cells in whole.items() if len(rows[n]) != width == len(cells) and any(cells)}


def _check_end(is_good: object, where: str) -> None:
    """Check a comment after a sentence: it has words, and no token follows. Else it may be a token that lacks its tag.

    Raises:
        InputError: it is not like that
    """
    if not is_good:
        raise InputError(f"{where}: a comment inside a sentence; expected a blank line before it")


def _check_columns(where: str, width: int, params: Params, is_tagged: bool) -> None:
    for name in ("token_column", "tag_column") if is_tagged else ("token_column",):
        if width and not -width <= getattr(params, name) < width:
            raise InputError(
                f"{where}: {width} column(s), so there is no {name} {getattr(params, name)}; "
                "columns are counted from 0, and separated by spaces or tabs"
            )
    if width and is_tagged and params.token_column % width == params.tag_column % width:
        raise InputError(
            f"{where}: {width} column(s), so token_column {params.token_column} and tag_column {params.tag_column} "
            "are the same; expected a token and a tag in each line, in columns separated by spaces or tabs"
        )


def _tags_inside(
    texts: dict[int, str], rows: dict[int, list[str]], width: int, tag_column: int | None
) -> Iterator[str]:
    """Yield the tags of lines that are certainly no comments: the line, or the line before it, begins with no `#`."""
    for number, cells in rows.items():
        is_sure = is_token(texts[number]) or (texts[number][:1] == "#" and is_token(texts.get(number - 1, "")))
        if tag_column is not None and len(cells) == width and is_sure:
            yield cells[tag_column]


def _is_comment(
    text: str, cells: list[str], width: int, tag_column: int | None, known: set[str], is_inside: bool
) -> bool:
    if KEY_AND_VALUE.match(text) or len(cells) != width:
        return True
    if tag_column is None or is_inside:
        return False
    return not (cells[tag_column] in known or looks_like_a_tag(cells[tag_column]))


def looks_like_a_tag(text: str) -> bool:
    """Return whether a text is O, or has the form of B-PER."""
    return text == OUTSIDE or (text[:1] in LETTERS and text[1:2] == "-" and " " not in text)


def _drop_ranges(found: Columns, path: str, params: Params) -> None:
    """Take out the multiword tokens and empty nodes of CoNLL-U.

    Raises:
        InputError: the token column is the one that numbers the tokens
    """
    numbers = [[cells[0] for _, cells in lines if not NOT_A_WORD.fullmatch(cells[0])] for lines in found.sentences]
    if not any(len(each) > 1 for each in numbers):
        return
    if any(each != [str(i + 1) for i in range(len(each))] for each in numbers):
        return
    width = len(found.sentences[0][0][1])
    if params.token_column in (0, -width) and width > 2:
        number = found.sentences[0][0][0]
        raise InputError(
            f"{path}:{number}: token_column is 0, but column 0 numbers the tokens of each sentence 1, 2, 3; "
            "type token_column=1 if the tokens are in the second column"
        )
    for lines in found.sentences:
        found.skipped += [number for number, cells in lines if NOT_A_WORD.fullmatch(cells[0])]
        lines[:] = [line for line in lines if not NOT_A_WORD.fullmatch(line[1][0])]
    found.sentences[:] = [lines for lines in found.sentences if lines]
