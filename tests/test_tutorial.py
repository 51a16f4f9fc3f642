"""The tutorial is run: its listings as one session, its scripts as typed; both print what stands below them."""

import doctest
import itertools
import subprocess
import sys

import pytest

from tests.pages import PROJECT, STARTS, blocks_of, listings_of, make_clone, run_command, write_listings

PAGE = PROJECT / "docs/tutorial.md"
BREAK = "---- the next listing ----"


def followed_by_output(blocks, is_wanted):
    """Return (text, what it should print) of the wanted blocks; a block of `text` right after one is its output."""
    for block, after in itertools.zip_longest(blocks, blocks[1:]):
        if is_wanted(block):
            yield block.text, after.text if after is not None and after.language == "text" else ""


def assert_printed(expected, found, code):
    """Compare as doctest does: `...` stands for anything, spaces and ends of lines are all the same."""
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(expected, found, options), (
        f"the page says that\n\n{code}\nprints\n\n{expected}\nbut it prints\n\n{found}"
    )


def test_listings_print_what_the_page_shows(tmp_path):
    clone = make_clone(tmp_path / "fiveline")
    shown = list(followed_by_output(blocks_of(PAGE), lambda block: block.language == "python" and not block.mark))
    session = f"print({BREAK!r})\n".join(code for code, _ in shown)
    result = subprocess.run([sys.executable, "-"], input=session, cwd=clone, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    printed = result.stdout.split(f"{BREAK}\n")
    for (code, expected), found in zip(shown, printed, strict=True):
        assert_printed(expected, found, code)


def is_command(block):
    return block.text.startswith(STARTS) and any(name in block.text for name, _ in listings_of(PAGE))


@pytest.mark.slow
def test_scripts_print_what_the_page_shows(tmp_path):
    clone = make_clone(tmp_path / "fiveline")
    write_listings(PAGE, clone)
    shown = list(followed_by_output(blocks_of(PAGE), is_command))
    assert len(shown) == 2
    for command, expected in shown:
        result = run_command(command, clone)
        assert result.returncode == 0, f"{command}\n{result.stderr}"
        assert_printed(expected, result.stdout, command)
