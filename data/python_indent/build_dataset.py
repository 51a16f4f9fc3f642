"""Build train.csv, val.csv and test.csv: six lines of Python, and what the indentation of the next line does.

    python data/python_indent/build_dataset.py

The label is `deeper`, `same` or `back`: how the next line begins, compared with the last of the six. The lines come
from the standard library of the Python that runs the script; the splits have different modules.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import random
import shutil
import sysconfig
from pathlib import Path

ROWS = {"test": 600, "val": 600, "train": 3000}
LABELS = ("back", "deeper", "same")
NUM_LINES, LONGEST = 6, 60  # lines of an example; characters of a line
PER_MODULE = 12  # examples of each label
LEFT_OUT = ("test", "tests", "idlelib", "lib2to3", "site-packages", "encodings", "pydoc_data", "__pycache__")


def digest(path: Path) -> str:
    """Return the number that decides where a module stands in the order."""
    return hashlib.sha256(f"indent {path.as_posix()}".encode()).hexdigest()


def examples_of(content: str) -> dict[str, list[str]]:
    """Return the examples in a module, by label. Blank lines do not count; all indentation is made of four spaces."""
    lines = [line.rstrip() for line in content.split("\n") if line.strip()]
    found: dict[str, list[str]] = {label: [] for label in LABELS}
    for end in range(NUM_LINES, len(lines)):
        taken = lines[end - NUM_LINES : end]
        depths = [len(line) - len(line.lstrip(" ")) for line in lines[end - NUM_LINES : end + 1]]
        if any(depth % 4 for depth in depths) or max(map(len, taken)) > LONGEST:
            continue
        change = depths[-1] - depths[-2]
        label = "same" if change == 0 else "deeper" if change > 0 else "back"
        shallowest = min(depths[:-1])  # where the six lines stand in the module is no hint
        found[label].append("\n".join(line[shallowest:] for line in taken))
    return found


def main() -> None:
    """Write the three files and the licence, and print the number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder for the three files")
    args = parser.parse_args()
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = [path.relative_to(library) for path in library.rglob("*.py") if path.is_file()]
    paths = sorted((path for path in paths if not set(path.parts) & set(LEFT_OUT)), key=digest)
    modules, seen = iter(paths), set[str]()
    for split, number in ROWS.items():
        rows: dict[str, list[str]] = {label: [] for label in LABELS}
        while min(map(len, rows.values())) < number // len(LABELS):
            path = next(modules)
            content = (library / path).read_bytes().replace(b"\r\n", b"\n")
            if not content.isascii() or b"\t" in content:
                continue
            shuffle = random.Random(digest(path)).shuffle
            for label, texts in examples_of(content.decode("ascii")).items():
                fresh = sorted(set(texts) - seen)
                shuffle(fresh)
                rows[label] += fresh[:PER_MODULE]
                seen.update(fresh[:PER_MODULE])
        kept = [(text, label) for label, texts in rows.items() for text in texts[: number // len(LABELS)]]
        random.Random(230).shuffle(kept)
        with (args.output / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("text", "label"), *kept])
        print(f"{split}: {len(kept)} rows")
    if (library / "LICENSE.txt").exists():
        shutil.copyfile(library / "LICENSE.txt", args.output / "LICENSE.txt")


if __name__ == "__main__":
    main()
