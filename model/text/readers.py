"""Text files, the ids of their tokens, and labelled texts. All files are UTF-8.

    train.txt, val.txt, test.txt      for target `next`: each split is a file
    train/, val/, test/               or all files in a folder, at any depth, in the order of their names
    train.csv, val.csv, test.csv      for `label`, or the same as .jsonl, or folders of both: a text and a label a row

Without val, train is cut in two. Without all three, all files of data_dir, one after the other, are cut into train,
test and val: text in its order, and rows at random.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from fiveline.loading import cached_array, files_key
from model.text.params import Params
from model.text.tokens import fetch_encoder
from utils import InputError, check_regular, files_below

CHUNK = 2**20  # characters or bytes that are read at once
TABLES = (".jsonl", ".csv")
NO_DATA = ("README.md", "build_dataset.py")


def split_files(split: str, data_dir: Path, params: Params) -> tuple[list[Path], bool]:
    """Return the files that hold a split, in order, and whether they hold another split as well."""
    endings = ("", ".txt") if params.target == "next" else ("", *TABLES)  # if both exist, the last one is used
    places = [data_dir / f"{name}{ending}" for name in ("train", "val", "test") for ending in endings]
    found = {place.stem: place for place in places if place.exists()}
    is_shared = split not in found or (split == "train" and "val" not in found)
    missing = "train" if "train" not in found else split
    if found and missing not in found and missing != "val":  # val may be cut from train
        names = ", ".join(place.name for place in found.values())
        raise InputError(f"{data_dir}: has {names}, but no {missing}; expected a {missing} split beside it")
    if is_shared and split == "val":
        logging.info(f"- {data_dir} has no val split: val_fraction={params.val_fraction} of the data serves as val")
    place = found.get("train" if is_shared else split, data_dir)
    if place.is_file():
        return [place], is_shared
    wanted = "" if params.target == "next" else TABLES
    files = [name for name in sorted(files_below(place)) if name.endswith(wanted) and name not in NO_DATA]
    if not files:
        raise InputError(f"{place}: no such folder, or no text in it; expected files such as train{endings[-1]}")
    return [place / name for name in files], is_shared


def chunks(paths: Iterable[Path], params: Params) -> Iterator[Any]:
    """Yield the bytes or the text of the files in pieces, which end at the end of a line unless a line is very long."""
    for path in paths:
        check_regular(path)
        how: dict[str, Any] = {"mode": "rb"} if params.tokens == "bytes" else {"encoding": "utf-8", "newline": ""}
        try:
            with path.open(**how) as file:
                while piece := file.read(CHUNK) + file.readline(CHUNK):
                    yield piece
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is not UTF-8 ({error.reason}); convert it, or set tokens=bytes") from None


def part_of(split: str, number: int, params: Params) -> slice:
    """Return where a split is in `number` tokens or rows: train, then test, then val."""
    val = number - int(number * params.val_fraction)
    test = val - int(number * params.test_fraction)
    return {"train": slice(0, test), "test": slice(test, val), "val": slice(val, number)}[split]


def train_characters(data_dir: Path, params: Params) -> set[str]:
    """Return the characters of train."""
    paths, is_shared = split_files("train", data_dir, params)
    number = part_of("train", sum(map(len, chunks(paths, params))), params).stop if is_shared else None  # None: all
    return set(islice(chain.from_iterable(chunks(paths, params)), number))


def read_tokens(split: str, data_dir: Path, params: Params) -> np.ndarray:
    """Return the ids of a split's tokens, (num_tokens,), memory-mapped from a file that the first call writes."""
    paths, is_shared = split_files(split, data_dir, params)
    encode = fetch_encoder(params)
    dtype = np.min_scalar_type(len(params.facts["token_bytes"]) - 1)  # uint8, uint16 or uint32
    vocabulary = params.facts.get("characters", params.facts.get("tokenizer"))
    name, key = "all" if is_shared else split, f"{files_key(paths, data_dir)} {params.tokens} {vocabulary}"

    def encoded() -> Iterator[np.ndarray]:
        yield np.empty(0, dtype)  # there may be no text
        yield from (np.asarray(encode(piece), dtype) for piece in chunks(paths, params))

    cached = cached_array(data_dir, f"tokens_{name}", key, encoded)
    tokens = np.concatenate([*encoded()]) if cached is None else cached
    tokens = tokens[part_of(split, len(tokens), params)] if is_shared else tokens
    if len(tokens) < 2:
        hint = "; set test_fraction" if is_shared and split == "test" else ""
        raise InputError(f"{data_dir}: {split} has {len(tokens)} tokens; expected 2 or more{hint}")
    return tokens


def read_labelled(split: str, data_dir: Path, params: Params) -> tuple[list[str], list[str], list[str]]:
    """Return the names, texts and labels of a split's rows; InputError names the line of a broken row."""
    paths, is_shared = split_files(split, data_dir, params)
    rows = [(path, line, row) for path in paths for line, row in read_rows(path)]
    if is_shared:
        order = np.random.default_rng(0).permutation(len(rows))[part_of(split, len(rows), params)]
        rows = [rows[i] for i in sorted(order)]
    names = [f"{path.relative_to(data_dir).as_posix()}:{line}" for path, line, _ in rows]
    texts = [cell(row, params.text_column, f"{path}:{line}") for path, line, row in rows]
    labels = [cell(row, params.label_column, f"{path}:{line}") for path, line, row in rows]
    return names, texts, labels


def cell(row: Mapping[Any, Any], column: str, where: str) -> str:
    """Return the text in a column of a row; raise InputError if there is none."""
    value = row.get(column)
    if None in row:
        raise InputError(f"{where}: {row[None]}")
    if not isinstance(value, str | int) or value == "":
        raise InputError(f"{where}: expected a text in {column!r}, found {value!r}; columns: {str([*row])[:80]}")
    if (text := str(value)).encode(errors="ignore").decode() != text:
        raise InputError(f"{where}: {column!r} is not UTF-8")
    return text


def read_rows(path: Path, column: str = "text") -> Iterator[tuple[int, dict[Any, Any]]]:
    """Yield the rows of a file (`-`: standard input), each with the number of its first line.

    A .csv file has a header, and a .jsonl file an object in each line. Another file has a text in each line, in which
    \\n stands for the end of a line; it becomes the value of `column`. In a broken row, the key None has the reason.
    """
    if str(path) != "-":
        check_regular(path)
    source: Any = sys.stdin.buffer if str(path) == "-" else path.open("rb")
    csv.field_size_limit(2**31 - 1)  # a text may be longer than the 128 KiB of the default
    with io.TextIOWrapper(source, "utf-8-sig", "surrogateescape", newline="") as file:  # `cell` refuses wrong bytes
        reader, first = csv.DictReader(file, strict=True), 2 if path.suffix == ".csv" else 1
        texts = ({column: line.rstrip("\r\n").replace("\\n", "\n")} for line in file)
        rows: Any = {".csv": reader, ".jsonl": map(_parse_line, file)}.get(path.suffix, texts)
        try:
            for number, row in enumerate(rows, start=1):
                if isinstance(row.get(None), list):
                    row[None] = "has more cells than the header; a text that holds a comma needs quotes around it"
                yield first, row
                first = 1 + (reader.line_num or number)
        except csv.Error as error:
            raise InputError(f"{path}:{first}: expected a row of a .csv file ({error})") from None


def _parse_line(line: str) -> dict[Any, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        return {None: f"expected a row of a .jsonl file ({error})"}
