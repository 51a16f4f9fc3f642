"""Download Shakespeare's plays as char-rnn and nanoGPT use them, and write train.txt and val.txt.

    python data/shakespeare/build_dataset.py
    python data/shakespeare/build_dataset.py --input input.txt      # a file that is here already

The first nine tenths become train and the rest val, as in nanoGPT. The file is compared with its known SHA-256, except
one that --input names. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import urllib.request
from http.client import HTTPException
from pathlib import Path

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA_256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def download() -> bytes:
    """Return the file; ValueError if it is not the known one."""
    with urllib.request.urlopen(URL, timeout=60) as response:
        content: bytes = response.read(10_000_000)
    if (found := hashlib.sha256(content).hexdigest()) != SHA_256:
        raise ValueError(f"its SHA-256 is {found}, expected {SHA_256}")
    return content


def main(argv: list[str] | None = None) -> None:
    """Run the script. It exits with 2 where the file cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="a copy of input.txt; default: download it")
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent, help="where to write both files")
    args = parser.parse_args(argv)
    try:
        text = (args.input.read_bytes() if args.input else download()).decode()
    except (OSError, HTTPException, ValueError) as error:
        parser.exit(2, f"error: {args.input or URL} cannot be read ({error})\n")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    start = int(len(text) * 0.9)
    for split, part in (("train", text[:start]), ("val", text[start:])):
        (args.output_dir / f"{split}.txt").write_text(part, encoding="utf-8", newline="")
        print(f"{split}: {len(part):,} characters")


if __name__ == "__main__":
    main()
