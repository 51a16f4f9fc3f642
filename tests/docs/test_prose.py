"""Check that no text of the project has a word or phrase that readers stumble over."""

import re
import subprocess
from pathlib import Path

from tests.support.pages import PROJECT

SUFFIXES = {".py", ".md", ".js", ".html", ".css", ".yml", ".yaml", ".toml", ".cff", ".sh", ""}
WORDS = {  # the word: what it may be written as (a regular expression)
    "told": r"told",
    "anew": r"anew",
    "amid": r"amid(?:st)?",
    "spoilt": r"spoilt",
    "mend": r"mend(?:s|ed|ing)?",
    ", for one": r", for one\b",
    "those of": r"those of",
    "Return what": r"returns? what",
    "not to be had": r"not to be had",
}
# A phrase may go on in the next line, behind the `#` of a comment. Names are read too: `is_told`, `filter-told`.
PATTERNS = {
    word: re.compile(rf"(?:(?<![a-z])|(?=,))(?:{pattern})(?![a-z])".replace(" ", r"(?:\s|#)+"), re.IGNORECASE)
    for word, pattern in WORDS.items()
}


def find_words(text):
    """Return (line, word) for each hit in a text."""
    hits = [(match.start(), word) for word, pattern in PATTERNS.items() for match in pattern.finditer(text)]
    return [(text.count("\n", 0, place) + 1, word) for place, word in sorted(hits)]


def tracked_files():
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=PROJECT, text=True).split("\0")[:-1]
    paths = [PROJECT / name for name in names if PROJECT / name != Path(__file__)]  # which has the list
    return [path for path in paths if path.suffix in SUFFIXES and path.is_file()]


def test_no_text_has_a_word_of_the_list():
    found = []
    for path in tracked_files():
        hits = find_words(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(PROJECT)}:{line}: {word}" for line, word in hits]
    advice = "write report, again, within, corrupted or fix instead, or name the thing"
    assert not found, "\n".join([f"{len(found)} hits; {advice}", *found])
