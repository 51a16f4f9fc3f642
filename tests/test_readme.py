"""What the README and the docs tell people to type, typed."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [PROJECT / "README.md", *sorted(PROJECT.glob("docs/*.md"))]
STARTS = ("python ", "mkdir ", "torchrun --standalone ")  # the first screen's two commands are CI's: they make a venv
NEEDS_MORE = ("64x64_SIGNS", "experiments/signs", "benchmarks/", "data/build_dataset.py")  # data or a network


def commands_of(page):
    for block in re.findall(r"^```[a-z]*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith(STARTS) and not any(text in line for text in NEEDS_MORE):
                yield line


def listings_of(page):
    """The files that a page shows whole, each below a comment with its name."""
    pattern = r"^<!-- file: (\S+) -->\n```[a-z]*\n(.*?)^```$"
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def clone(tmp_path):
    """A copy of the tracked files, with the README's own photographs in it, and `python` on the path."""
    folder = tmp_path / "fiveline"
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=PROJECT, text=True).split("\0")[:-1]:
        if (PROJECT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    generator = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        (folder / "my_photos/train" / name).mkdir(parents=True)
        for i in range(12):
            pixels = generator.integers(0, 100, size=(40 + i, 50, 3), dtype=np.uint8) + np.uint8(100 * number)
            Image.fromarray(pixels).save(folder / f"my_photos/train/{name}/{i}.jpg")
    (tmp_path / "bin").mkdir()
    for name, words in (("python", ""), ("torchrun", "-m torch.distributed.run")):
        shim = tmp_path / "bin" / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run_as_written(page, clone, tmp_path):
    for name, listing in listings_of(page):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(listing, encoding="utf-8")
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    commands = list(dict.fromkeys(commands_of(page)))
    assert commands or page.name != "README.md"
    for command in commands:
        result = subprocess.run(["bash", "-c", command], cwd=clone, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_names_only_files_that_are_there():
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`((?:model|data|training|evaluation|record|tests|benchmarks)/[\w/.]+)`", text)):
        assert (PROJECT / name).exists(), name


def test_readme_holds_the_five_lines_and_both_commands():
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert "output_batch = model(train_batch)           # compute model output" in text
    for mark in ("first", "second"):
        block = re.search(rf"<!-- ci: {mark} -->\n```\n(.*)\n```", text)
        assert block, f"one line, marked for CI as {mark}"
