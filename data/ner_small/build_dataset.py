"""Build the train / val / test splits of the small NER corpus from its source texts.

The folder `source/` holds plain text files, one tokenised sentence per line, with the
entities marked inline::

    [PER Marta Olsen] moved to [LOC Bergen] in [DATE the autumn of 2004] .

Every file is checked (a fault raises `ValueError` naming file and line), the sentences are
shuffled with a fixed seed, split, and written as `<split>/sentences.txt` and
`<split>/labels.txt`: one sentence per line, tokens and BIO tags separated by single spaces.
The same source always gives the same files.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ENTITY_TYPES: tuple[str, ...] = ("PER", "LOC", "ORG", "DATE")
SPLITS: tuple[str, ...] = ("train", "val", "test")
SEED = 230
TRAIN_PERCENT = 70
VAL_PERCENT = 12  # the rest is the test split

# Punctuation that has to stand alone when it ends or begins a word ("J." and "'s" may stay).
_DETACHED_END = re.compile(r"\w[,;:!?\"()]+$")
_DETACHED_START = re.compile(r"^[,;:!?\"()]+\w")
_POSSESSIVE = re.compile(r"\w's$")


class Sentence(NamedTuple):
    """One sentence: its tokens and, of the same length, its BIO tags."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


def _check_token(token: str, where: str) -> None:
    """Raise ValueError if punctuation sticks to a word, or the full stop to the last one."""
    if _DETACHED_END.search(token) or _DETACHED_START.search(token) or _POSSESSIVE.search(token):
        raise ValueError(f"{where}: {token!r} is not tokenised")


def parse_line(line: str, where: str = "line") -> Sentence:
    """Turn one line of the inline mark-up into tokens and tags.

    Args:
        line: the marked-up sentence, without its line break.
        where: how an error message names the line.

    Raises:
        ValueError: unbalanced or nested bracket, unknown type, empty entity, a bracket glued
            to a word, punctuation that is not a token of its own, or more than one space.
    """
    if "" in line.split(" ") or any(char.isspace() and char != " " for char in line):
        raise ValueError(f"{where}: tokens must be separated by single spaces")
    tokens: list[str] = []
    tags: list[str] = []
    entity: str | None = None  # the type of the open entity
    begun = False  # whether the open entity has a token yet

    for word in line.split(" "):
        if word.startswith("["):
            if entity is not None:
                raise ValueError(f"{where}: '[' inside an open entity at {word!r}")
            entity, begun = word[1:], False
            if entity.endswith("]") and entity[:-1] in ENTITY_TYPES:
                raise ValueError(f"{where}: empty entity {word!r}")
            if entity not in ENTITY_TYPES:
                raise ValueError(f"{where}: unknown entity type {entity!r}")
            continue
        token, closes = (word[:-1], True) if word.endswith("]") else (word, False)
        if closes and entity is None:
            raise ValueError(f"{where}: unbalanced ']' at {word!r}")
        if closes and not token:
            problem = "']' is not attached to a token" if begun else "empty entity"
            raise ValueError(f"{where}: {problem}")
        if "[" in token or "]" in token:
            raise ValueError(f"{where}: entity is not tokenised at {word!r}")
        _check_token(token, where)
        tokens.append(token)
        if entity is None:
            tags.append("O")
        else:
            tags.append(f"{'I' if begun else 'B'}-{entity}")
            begun = True
        if closes:
            entity = None
    if entity is not None:
        raise ValueError(f"{where}: unbalanced '[', the {entity} entity is never closed")
    if len(tokens[-1]) > 1 and tokens[-1].endswith("."):
        raise ValueError(f"{where}: the final full stop is not a token of its own")
    return Sentence(tuple(tokens), tuple(tags))


def read_source(source_dir: Path) -> list[Sentence]:
    """Read all `*.txt` files of the folder in sorted order; blank lines are skipped.

    Raises:
        FileNotFoundError: the folder holds no text file.
        ValueError: a fault in the mark-up, or a sentence that occurs twice.
    """
    paths = sorted(source_dir.glob("*.txt"))
    if not paths:
        raise FileNotFoundError(f"no .txt file in {source_dir}")
    sentences: list[Sentence] = []
    first_seen: dict[tuple[str, ...], str] = {}
    for path in paths:
        lines = path.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            sentence = parse_line(line, where)
            key = tuple(token.lower() for token in sentence.tokens)
            if key in first_seen:
                raise ValueError(f"{where}: duplicate of the sentence at {first_seen[key]}")
            first_seen[key] = where
            sentences.append(sentence)
    return sentences


def split_sentences(sentences: Sequence[Sentence], seed: int = SEED) -> dict[str, list[Sentence]]:
    """Shuffle a copy with the seed and cut it into about 70 / 12 / 18 percent."""
    shuffled = list(sentences)
    random.Random(seed).shuffle(shuffled)
    train_end = len(shuffled) * TRAIN_PERCENT // 100
    val_end = train_end + len(shuffled) * VAL_PERCENT // 100
    return {
        "train": shuffled[:train_end],
        "val": shuffled[train_end:val_end],
        "test": shuffled[val_end:],
    }


def write_split(sentences: Sequence[Sentence], split_dir: Path) -> None:
    """Write `sentences.txt` and `labels.txt`, each in one go."""
    split_dir.mkdir(parents=True, exist_ok=True)
    words = "".join(" ".join(sentence.tokens) + "\n" for sentence in sentences)
    tags = "".join(" ".join(sentence.tags) + "\n" for sentence in sentences)
    (split_dir / "sentences.txt").write_text(words, encoding="utf-8", newline="\n")
    (split_dir / "labels.txt").write_text(tags, encoding="utf-8", newline="\n")


def count_table(splits: dict[str, list[Sentence]]) -> str:
    """Return a Markdown table of sentences, tokens, entities and tags per split."""
    tag_names = ["O", *(f"{prefix}-{kind}" for kind in ENTITY_TYPES for prefix in "BI")]
    columns: list[dict[str, int]] = []
    for sentences in splits.values():
        tags = Counter(tag for sentence in sentences for tag in sentence.tags)
        columns.append(
            {
                "sentences": len(sentences),
                "sentences without entity": sum(set(s.tags) == {"O"} for s in sentences),
                "tokens": sum(tags.values()),
                "entities": sum(n for tag, n in tags.items() if tag.startswith("B-")),
                **{f"`{name}`": tags[name] for name in tag_names},
            }
        )
    names = [*splits, "all"]
    rows = [
        "| | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for row in columns[0]:
        values = [column[row] for column in columns]
        rows.append(f"| {row} | " + " | ".join(str(n) for n in [*values, sum(values)]) + " |")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the source texts, write the three splits and print the table of counts."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Build the splits of the small NER corpus.")
    parser.add_argument("--source", type=Path, default=here / "source", help="folder with the marked-up texts")
    parser.add_argument("--out", type=Path, default=here, help="folder that receives train/, val/ and test/")
    args = parser.parse_args(argv)

    splits = split_sentences(read_source(args.source))
    for name in SPLITS:
        write_split(splits[name], args.out / name)
    print(count_table(splits))


if __name__ == "__main__":
    main()
