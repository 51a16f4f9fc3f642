"""Build train.txt, val.txt and test.txt from the source of Python's standard library.

    python data/python_source/build_dataset.py

The source comes from the Python that runs the script, so another release gives another text. Modules are taken whole,
in an order that depends on their names only, and no module is in two splits.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sysconfig
from pathlib import Path

SIZES = {"test": 60_000, "val": 60_000, "train": 1_000_000}  # characters, about; the small splits are filled first
LARGEST = 20_000  # characters of a module: a long one would be most of val
LEFT_OUT = ("test", "tests", "idlelib", "lib2to3", "site-packages", "encodings", "pydoc_data", "__pycache__")


def fetch_modules(library: Path) -> list[str]:
    """Return the text of modules, in the order of the hash of their names; only ASCII text, with \\n as line end."""
    paths = [path.relative_to(library) for path in library.rglob("*.py") if path.is_file()]
    paths = [path for path in paths if not set(path.parts) & set(LEFT_OUT)]
    modules = []
    for path in sorted(paths, key=lambda path: hashlib.sha256(path.as_posix().encode()).hexdigest()):
        content = (library / path).read_bytes().replace(b"\r\n", b"\n")
        if 200 < len(content) <= LARGEST and content.isascii():
            modules.append(content.decode("ascii").strip("\n") + "\n\n\n")
    return modules


def main() -> None:
    """Write the three files and the licence, and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder for the three files")
    args = parser.parse_args()
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = iter(fetch_modules(library))
    for split, size in SIZES.items():
        taken: list[str] = []
        while sum(map(len, taken)) < size and (module := next(modules, None)) is not None:
            taken.append(module)
        (args.output / f"{split}.txt").write_text("".join(taken), encoding="utf-8", newline="\n")
        print(f"{split}: {len(taken)} modules, {sum(map(len, taken)):,} characters")
    if (library / "LICENSE.txt").exists():
        shutil.copyfile(library / "LICENSE.txt", args.output / "LICENSE.txt")


if __name__ == "__main__":
    main()
