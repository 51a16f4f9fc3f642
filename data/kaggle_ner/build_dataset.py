"""Turn Kaggle's ner_dataset.csv into the three splits of CS230's layout.

    python data/kaggle_ner/build_dataset.py

The README beside it says where to get the file. Writes `<split>/sentences.txt` and `<split>/labels.txt` for train, val
and test (70, 15 and 15 percent), the sentences shuffled with a fixed seed. Standard library only.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import sys
from pathlib import Path

SOURCE = "https://www.kaggle.com/datasets/abhinavwalia95/entity-annotated-corpus"
COLUMNS = ["Sentence #", "Word", "POS", "Tag"]
SEED = 230
Sentence = list[tuple[str, str]]  # (word, tag) of each token


def read_sentences(path: Path) -> list[Sentence]:
    """Return the sentences of the CSV file; a new name in the first column begins a sentence.

    White space inside a word is taken out of it (the layout separates tokens by spaces), and a row whose word is
    nothing else is skipped.

    Raises:
        FileNotFoundError: there is no such file
        ValueError: it has other columns, a broken row (its line is named), or bytes of another encoding than UTF-8 and
            Windows-1252, which is that of Kaggle's file
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; get ner_dataset.csv (not ner.csv) from {SOURCE}")
    sentences: list[Sentence] = []
    reader = csv.reader(io.StringIO(_decode(path), newline=""))
    header = next(reader, [])
    if header != COLUMNS:
        raise ValueError(f"{path}: columns {header}, expected {COLUMNS}; ner_dataset.csv is the file, not ner.csv")
    name, line = "", reader.line_num + 1
    for row in reader:
        if reader.line_num > line:
            raise ValueError(f"{path}:{line}: a quote that begins in this line does not end in it")
        if len(row) != len(COLUMNS):
            raise ValueError(f"{path}:{line}: {len(row)} columns, expected {len(COLUMNS)}")
        begins, word, tag = row[0].strip(), "".join(row[1].split()), row[3].strip()
        if not sentences or begins not in ("", name):  # copies of the file have the name in every row
            sentences.append([])
            name = begins
        if word and not tag:
            raise ValueError(f"{path}:{line}: {word!r} has no tag")
        if word:
            sentences[-1].append((word, tag))
        line = reader.line_num + 1
    return [sentence for sentence in sentences if sentence]


def _decode(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            return data.decode("windows-1252")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ValueError(f"{path}:{line}: neither UTF-8 nor Windows-1252; convert the file") from None


def split_sentences(sentences: list[Sentence], seed: int = SEED) -> dict[str, list[Sentence]]:
    """Shuffle a copy and cut it into 70, 15 and 15 percent."""
    shuffled = list(sentences)
    random.Random(seed).shuffle(shuffled)
    first, second = round(0.70 * len(shuffled)), round(0.85 * len(shuffled))
    return {"train": shuffled[:first], "val": shuffled[first:second], "test": shuffled[second:]}


def write_split(sentences: list[Sentence], folder: Path) -> None:
    """Write sentences.txt and labels.txt in place of what may be there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in (("sentences.txt", 0), ("labels.txt", 1)):
        lines = (" ".join(token[column] for token in sentence) + "\n" for sentence in sentences)
        (folder / name).write_text("".join(lines), encoding="utf-8", newline="\n")


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=here / "ner_dataset.csv", help="the file from Kaggle")
    parser.add_argument("--output_dir", type=Path, default=here, help="where to write the splits")
    args = parser.parse_args(argv)
    try:
        sentences = read_sentences(args.csv)
    except (OSError, ValueError, csv.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for name, part in split_sentences(sentences).items():
        write_split(part, args.output_dir / name)
        print(f"{name}: {len(part)} sentences, {sum(map(len, part))} tokens")


if __name__ == "__main__":
    main()
