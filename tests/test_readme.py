"""What the README and the docs tell people to type, typed."""

import re

import numpy as np
import pytest
from PIL import Image

from tests.pages import PAGES, PROJECT, commands_of, make_clone, read, run_command, write_listings


@pytest.fixture
def clone(tmp_path):
    """A copy of the tracked files, with the README's own photographs in it."""
    folder = make_clone(tmp_path / "fiveline")
    generator = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        (folder / "my_photos/train" / name).mkdir(parents=True)
        for i in range(12):
            pixels = generator.integers(0, 100, size=(40 + i, 50, 3), dtype=np.uint8) + np.uint8(100 * number)
            Image.fromarray(pixels).save(folder / f"my_photos/train/{name}/{i}.jpg")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run_as_written(page, clone):
    write_listings(page, clone)
    commands = list(dict.fromkeys(commands_of(page)))
    assert commands or page.name != "README.md"
    for command in commands:
        result = run_command(command, clone)
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"


def test_readme_names_only_files_that_are_there():
    folders = "model|data|training|evaluation|record|tests|benchmarks"
    for name in set(re.findall(rf"`((?:{folders})/[\w/.]+)`", read(PAGES[0]))):
        assert (PROJECT / name).exists(), name


def test_readme_holds_the_five_lines_and_both_commands():
    text = read(PAGES[0])
    assert "output_batch = model(train_batch)           # compute model output" in text
    for mark in ("first", "second"):
        block = re.search(rf"<!-- ci: {mark} -->\n```\n(.*)\n```", text)
        assert block, f"one line, marked for CI as {mark}"
