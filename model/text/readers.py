"""Text files, the numbers of their tokens, and labelled texts.

For target `next`, a dataset is one of

    train.txt, val.txt, test.txt      each split is a file
    train/, val/, test/               each split is all files in a folder, at any depth, in the order of their names
    any other files                   all of them, one after the other: train is the beginning, val is the end

and for target `label`, train, val and test, each as .csv or .jsonl, with a text and a label in each row. All are UTF-8.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fiveline.loading import cached_array, files_key
from model.text.params import Params
from utils import InputError, check_regular, files_below

CHUNK = 2**20  # characters or bytes that are read at once
UNKNOWN = "\ufffd"  # stands for each character that train lacks
Encode = Callable[[Any], "list[int] | np.ndarray"]


def text_files(split: str, data_dir: Path) -> tuple[list[Path], bool]:
    """Return the files that hold a split, in order, and whether they hold the other splits, too."""
    for place in (data_dir / f"{split}.txt", data_dir / split):
        if place.exists():
            return ([place] if place.is_file() else _files(place)), False
    if (data_dir / "train.txt").exists() or (data_dir / "train").is_dir():
        raise InputError(f"{data_dir}: has train, but no {split}; expected {split}.txt or a folder {split}/")
    return _files(data_dir), True


def _files(folder: Path) -> list[Path]:
    paths = [folder / name for name in sorted(files_below(folder)) if name not in ("README.md", "build_dataset.py")]
    if not paths:
        raise InputError(f"{folder}: there are no files; expected text, for example train.txt and val.txt")
    return paths


def chunks(paths: Iterable[Path], params: Params) -> Iterator[Any]:
    """Yield the text of the files in pieces: bytes, or strings that end at the end of a line or of a file.

    Raises:
        InputError: a file is not UTF-8
    """
    for path in paths:
        check_regular(path)
        if params.tokens == "bytes":
            with path.open("rb") as file:
                while piece := file.read(CHUNK):
                    yield piece
            continue
        try:
            with path.open(encoding="utf-8", newline="") as lines:  # newline: no line end is translated
                while text := "".join(lines.readlines(CHUNK)):
                    yield text
        except UnicodeDecodeError as error:
            hint = "convert it, for example with iconv, or set tokens=bytes"
            raise InputError(f"{path}: is not UTF-8: {error.reason}; {hint}") from None


def part_of(split: str, number: int, params: Params) -> slice:
    """Return the tokens of a split, of `number` tokens in order: train, then test, then val."""
    val = number - int(number * params.val_fraction)
    test = val - int(number * params.test_fraction)
    return {"train": slice(0, test), "test": slice(test, val), "val": slice(val, number)}[split]


def train_characters(data_dir: Path, params: Params) -> set[str]:
    """Return the characters of train."""
    paths, is_shared = text_files("train", data_dir)
    number = sum(map(len, chunks(paths, params)))
    left = part_of("train", number, params).stop if is_shared else number
    found: set[str] = set()
    for piece in chunks(paths, params):
        found.update(piece[:left])
        left -= min(left, len(piece))
    return found


def fetch_encoder(params: Params) -> Encode:
    """Return the function that turns a piece of text into the numbers of its tokens; params has the facts."""
    if params.tokens == "bytes":
        return lambda piece: np.frombuffer(piece if isinstance(piece, bytes) else piece.encode(), np.uint8)
    if params.tokens == "pieces":
        tokenizer = fetch_tokenizer(params)
        return lambda piece: tokenizer.encode(piece, add_special_tokens=False).ids
    characters = params.facts["characters"]
    table = np.full(0x110000, characters.index(UNKNOWN), np.uint32)  # code point -> number
    table[[ord(character) for character in characters]] = range(len(characters))
    return lambda piece: table[np.frombuffer(piece.encode("utf-32-le"), np.uint32)]


def fetch_tokenizer(params: Params) -> Any:
    """Return the tokenizer of the facts, or else of params.tokenizer_file.

    Raises:
        InputError: the tokenizers library is missing, or it cannot read the file
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError("tokens=pieces needs the tokenizers library: pip install tokenizers") from None
    try:
        if "tokenizer" in params.facts:  # a checkpoint holds it
            return Tokenizer.from_str(params.facts["tokenizer"])
        return Tokenizer.from_file(params.tokenizer_file)
    except Exception as error:  # the library raises Exception itself
        raise InputError(f"tokenizer_file {params.tokenizer_file}: cannot be read ({error})") from None


def read_tokens(split: str, data_dir: Path, params: Params) -> np.ndarray:
    """Return the numbers of a split's tokens, (num_tokens,). They are mapped from a file, not held in memory."""
    paths, is_shared = text_files(split, data_dir)
    if params.tokens == "bytes" and len(paths) == 1 and paths[0].stat().st_size:
        check_regular(paths[0])
        tokens: np.ndarray = np.memmap(paths[0], np.uint8, mode="r")
    else:
        tokens = _encode_once(paths, data_dir, params, "all" if is_shared else split)
    if is_shared:
        tokens = tokens[part_of(split, len(tokens), params)]
    if len(tokens) < 2:
        hint = "; set test_fraction" if is_shared and split == "test" else ""
        raise InputError(f"{data_dir}: {split} has {len(tokens)} tokens; expected 2 or more{hint}")
    return tokens


def _encode_once(paths: list[Path], data_dir: Path, params: Params, name: str) -> np.ndarray:
    """Return the tokens of the files from a cache; the first call encodes them, a piece at a time."""
    encode, size = fetch_encoder(params), params.vocabulary_size
    dtype = np.dtype(np.uint8 if size <= 2**8 else np.uint16 if size <= 2**16 else np.uint32)
    num_tokens = sum(len(encode(piece)) for piece in chunks(paths, params))
    pieces = (np.asarray(encode(piece), dtype) for piece in chunks(paths, params))
    waiting = np.empty(0, dtype)  # tokens of the last piece that the next part begins with

    def make(part: slice) -> np.ndarray:  # the parts follow each other
        nonlocal waiting
        tokens, num_done = np.empty(min(part.stop, num_tokens) - part.start, dtype), 0
        while num_done < len(tokens):
            piece = waiting if len(waiting) else next(pieces)
            taken, waiting = np.split(piece, [len(tokens) - num_done])
            tokens[num_done : num_done + len(taken)] = taken
            num_done += len(taken)
        return tokens.view(np.uint8).reshape(-1, dtype.itemsize)

    vocabulary = [params.facts.get(fact) for fact in ("characters", "tokenizer")]
    key = f"{files_key(paths, data_dir)} {params.tokens} {vocabulary}"
    array = cached_array(data_dir, f"tokens_{name}", key, (num_tokens, dtype.itemsize), make)
    if array is None:  # no folder can be written
        array = make(slice(0, num_tokens))
    return np.asarray(array).view(dtype)[:, 0]


def read_labelled(split: str, data_dir: Path, params: Params) -> tuple[list[str], list[str], list[str]]:
    """Return the names, texts and labels of a split's rows.

    Raises:
        InputError: a file is missing, a column is missing, or a row is broken: the message has the line
    """
    path = next((path for ending in ("csv", "jsonl") if (path := data_dir / f"{split}.{ending}").exists()), None)
    if path is None:
        raise InputError(
            f"{data_dir}: expected {split}.csv or {split}.jsonl, with the columns of text_column and label_column"
        )
    names, texts, labels = [], [], []
    for line, row in read_rows(path):
        names.append(f"{path.name}:{line}")
        texts.append(cell(row, params.text_column, f"{path}:{line}"))
        labels.append(cell(row, params.label_column, f"{path}:{line}"))
    return names, texts, labels


def cell(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return the text in a column of a row; raise InputError if there is none."""
    if not isinstance(row.get(column), str | int) or row[column] == "":
        raise InputError(f"{where}: has no {column!r}; it has {', '.join(map(str, row))[:80]}")
    return str(row[column])


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a .csv or .jsonl file, each with the number of its first line."""
    check_regular(path)
    if path.suffix == ".csv":
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader, line = csv.DictReader(file, strict=True), 2
                for row in reader:
                    yield line, row
                    line = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from None
        return
    with path.open("rb") as file:
        for number, content in enumerate(file, start=1):
            try:
                row = json.loads(content)
            except ValueError as error:
                raise InputError(f"{path}:{number}: is not JSON ({error})") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: expected an object with a text and a label, found {content[:60]!r}")
            yield number, row
