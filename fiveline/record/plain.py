"""Text from files as a terminal or a log may show it: nothing in it moves the cursor or turns the direction."""

from __future__ import annotations

import logging
import re

# Control characters, marks that turn the direction of text, and lone surrogates (from a file's name that is not UTF-8).
# What joins letters and emoji (U+200C, U+200D) stays.
UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff\ufff9-\ufffb\U000e0001]"
)
UNSAFE_IN_LINES = re.compile(rf"(?![\n\t]){UNSAFE.pattern}")


def escaped(text: str) -> str:
    """Return a name as one line that is safe to print: an escape character becomes `\\x1b`, a line end `\\n`."""
    return UNSAFE.sub(_escape, text)


def escaped_lines(text: str) -> str:
    """Return a message that is safe to print; its line ends and tabs stay."""
    return UNSAFE_IN_LINES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


class SafeFormatter(logging.Formatter):
    """Escapes what a name in a message could do to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return escaped_lines(super().format(record))
