"""Check that no text of the project has a word or phrase that readers stumble over."""

import re
import subprocess
from pathlib import Path

from tests.support.pages import PROJECT, read

SUFFIXES = {".py", ".md", ".js", ".html", ".css", ".yml", ".yaml", ".toml", ".cff", ".sh", ""}
WORDS = [
    "told", "anew", "amid(?:st)?", "spoilt", "mend(?:s|ed|ing)?", r", for one\b", "those of", "returns? what",
    "not to be had",
]  # fmt: skip
# A phrase may go on in the next line, behind the `#` of a comment. Names are read too: `is_told`, `filter-told`.
PATTERN = rf"(?:(?<![a-z])|(?=,))(?:{'|'.join(WORDS)})(?![a-z])".replace(" ", r"(?:\s|#)+")


def test_no_text_has_a_word_of_the_list():
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=PROJECT, text=True).split("\0")[:-1]
    found = []
    for path in {PROJECT / name for name in names} - {Path(__file__)}:  # this file has the list
        if path.suffix in SUFFIXES and path.is_file():
            text = read(path)
            hits = re.finditer(PATTERN, text, re.IGNORECASE)
            found += [f"{path}:{text.count(chr(10), 0, hit.start()) + 1}: {hit[0]}" for hit in hits]
    advice = "write report, again, within, corrupted or fix instead, or name the thing"
    assert not found, "\n".join([f"{len(found)} hits; {advice}", *sorted(found)])
