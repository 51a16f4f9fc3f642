"""Turn IMDB's reviews, as Stanford publishes them, into train.csv, val.csv and test.csv.

    python data/imdb/build_dataset.py                               # downloads aclImdb_v1.tar.gz (84 MB)
    python data/imdb/build_dataset.py --input aclImdb_v1.tar.gz     # an archive, or its unpacked folder

The columns are `text` and `label`: `pos` or `neg`. The last tenth of train becomes val; reviews without a label are
left out. No name in an archive becomes a path. A downloaded one is compared with its known MD5. Standard library only.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import shutil
import tarfile
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
MD5 = "7c2ac02c03563afcf9b574c7e56c153a"
REVIEW = re.compile(r"(?:.*/)?(train|test)/(pos|neg)/(\d+)_\d+\.txt")  # the number of a review, and its stars
Reviews = dict[tuple[str, str], list[tuple[int, str]]]  # split and label -> numbers and texts


def download(path: Path) -> None:
    """Write the archive, unless it is there already; ValueError if it is not the known one."""
    if not path.exists():
        part = path.with_name(f"{path.name}.part")
        with urllib.request.urlopen(URL, timeout=60) as response, part.open("wb") as file:
            shutil.copyfileobj(response, file)
        part.replace(path)
    if (found := hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()) != MD5:
        raise ValueError(f"its MD5 is {found}, expected {MD5}; delete it to download it again")


def files_in(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the reviews in a folder or in an archive, which is not unpacked."""
    if path.is_dir():
        yield from ((found.as_posix(), found.read_bytes()) for found in path.glob("*/*/*.txt"))
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isreg() and REVIEW.fullmatch(member.name) and (file := archive.extractfile(member)) is not None:
                yield member.name, file.read()


def read_reviews(path: Path) -> Reviews:
    """Return the labelled reviews, in the order of their numbers; ValueError if a split lacks a label."""
    found: Reviews = {(split, label): [] for split in ("train", "test") for label in ("neg", "pos")}
    for name, content in files_in(path):
        if match := REVIEW.fullmatch(name):
            text = content.decode().replace("<br />", "\n")
            found[match[1], match[2]].append((int(match[3]), text))
    for (split, label), reviews in found.items():
        reviews.sort()
        if len(reviews) < 2:
            raise ValueError(
                f"found {len(reviews)} files such as {split}/{label}/0_9.txt; expected the reviews of IMDB"
            )
    return found


def main(argv: list[str] | None = None) -> None:
    """Run the script. It exits with 2 where the reviews cannot be read."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="the archive, or its unpacked folder; default: download the archive")
    parser.add_argument("--output_dir", type=Path, default=here, help="where to write the three files")
    args = parser.parse_args(argv)
    path = args.input or args.output_dir / "aclImdb_v1.tar.gz"
    args.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        if args.input is None:
            download(path)
        reviews = read_reviews(path)
    except (OSError, HTTPException, ValueError, EOFError, tarfile.TarError) as error:
        parser.exit(2, f"error: {path}: {' '.join(str(error).split())}\n")
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    for (split, label), each in reviews.items():  # the reviews of a film have numbers next to each other
        end = round(0.9 * len(each)) if split == "train" else len(each)
        rows[split] += [(text, label) for _, text in each[:end]]
        rows["val"] += [(text, label) for _, text in each[end:]]
    for split, found in rows.items():
        with (args.output_dir / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("text", "label"), *found])
        print(f"{split}: {len(found):,} reviews")


if __name__ == "__main__":
    main()
