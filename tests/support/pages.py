"""Read the blocks and commands of the README and the docs, and make a clone to run them in."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

from tests.support.tasks import PROJECT

PAGES = [PROJECT / "README.md", PROJECT / "AGENTS.md"]
PAGES += [*sorted(PROJECT.glob("docs/*.md")), *sorted(PROJECT.glob("docs/tutorial/*.md"))]
STARTS = ("python ", "mkdir ", "torchrun --standalone ")  # .venv/bin/python of the first screen is CI's
# data, a network, git, a tracker, or minutes of training
NEEDS_MORE = re.compile(r"experiments/(signs|text_)|benchmarks/|data/build_dataset.py|fiveline.(new|publish)")
FENCE = r"```{}\n(.*?)^```$"
BLOCK = re.compile(rf"(?ms)^(?:<!-- ([^\n]*?) -->\n)?{FENCE.format('([a-z]*)')}(?:\n\n{FENCE.format('text')})?")


class Block(NamedTuple):
    """A block of code."""

    mark: str  # the comment on the line above it
    language: str  # the word after its fence
    text: str
    output: str  # the block of `text` right below it

    @property
    def commands(self):
        """The commands in it that a test can run, one a line."""
        lines = [] if self.mark else self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.startswith(STARTS) and not NEEDS_MORE.search(line)]


def read(page):
    return page.read_text(encoding="utf-8")


def blocks_of(page):
    return [Block(*groups) for groups in BLOCK.findall(read(page))]


def listings_of(page):
    """Return (name, text) of each file that a page shows as a whole, below a comment with its name."""
    return [(b.mark.removeprefix("file: "), b.text) for b in blocks_of(page) if b.mark.startswith("file: ")]


def make_clone(folder):
    """Copy the tracked files into a folder, and put the pages' `python` and `torchrun` into `bin` beside it."""
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=PROJECT, text=True).split("\0")[:-1]:
        if (PROJECT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    for name, words in (("python", ""), ("torchrun", "-m torch.distributed.run ")):
        shim = folder.parent / "bin" / name
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        shim.chmod(0o755)
    return folder


def write_listings(page, clone):
    for name, listing in listings_of(page):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(listing, encoding="utf-8")


def run_command(command, clone):
    """Run a command as typed, in the clone, and return its result."""
    environment = {**os.environ, "PATH": f"{clone.parent / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", command], cwd=clone, env=environment, capture_output=True, text=True)


def assert_printed(expected, found, code):
    """Compare as doctest does: `...` stands for anything, and any white space equals any other."""
    is_alike = doctest.OutputChecker().check_output(expected, found, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert is_alike, f"the page says that\n\n{code}\nprints\n\n{expected}\nbut it prints\n\n{found}"
