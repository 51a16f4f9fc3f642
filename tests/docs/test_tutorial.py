"""Run the Python listings of each page as one session, and compare their output with the page.

Shell commands, the tutorial's scripts of several processes included, are run by test_readme.py.
"""

import subprocess
import sys

import pytest

from tests.support.pages import PAGES, assert_printed, blocks_of, make_clone
from tests.support.tasks import SHIPPED, needs

BREAK = "---- the next listing ----"
LISTINGS = {page: [b for b in blocks_of(page) if b.language == "python" and not b.mark] for page in PAGES[1:]}
LISTINGS = {page: listings for page, listings in LISTINGS.items() if listings}


@needs(*SHIPPED)
@pytest.mark.parametrize("page", LISTINGS, ids=lambda page: page.name)
def test_listings_print_what_the_page_shows(page, tmp_path):
    clone = make_clone(tmp_path / "fiveline")
    session = f"print({BREAK!r})\n".join(block.text for block in LISTINGS[page])
    result = subprocess.run([sys.executable, "-"], input=session, cwd=clone, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for block, found in zip(LISTINGS[page], result.stdout.split(f"{BREAK}\n"), strict=True):
        assert_printed(block.output, found, block.text)


def test_the_tutorial_is_one_of_them():
    assert any(page.name == "tutorial.md" and len(listings) > 20 for page, listings in LISTINGS.items())
