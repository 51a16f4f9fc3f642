"""One cell of text: a number, a category, or a number in a spelling that is not read."""

from __future__ import annotations

import decimal
import functools
import math
import re
import unicodedata

LARGEST = 1e30  # of a number; its square still fits into float64, and its distance from the mean into float32

# a number without leading zeros: 007 is a name
PLAIN = re.compile(r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]{1,2})?")
# 1,5 and 1.234,56 and 1 234 and 12,34,567 and (5) and 1e400, once percent and currency are taken away
DISGUISED = re.compile(
    r"[-+−(]?\s*(\d{1,3}([.,'’_\s]\d{3})+([.,]\d+)?|\d{1,2}(,\d{2})*,\d{3}(\.\d+)?|\d*[.,]?\d+[.,]?|inf(inity)?)"
    r"([eE][+-]?\d+)?\s*\)?",
    re.IGNORECASE,
)
UNIT = re.compile(r"%|‰|\b(EUR|USD|GBP|CHF|JPY|CNY|INR)\b|(?<=\d)(EUR|USD|GBP|CHF|JPY|CNY|INR)\b")


def nfc(text: str) -> str:
    """Return text in Unicode's composed form, so that one name has one spelling."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def parse_number(text: str) -> float:
    """Return the number in a cell, as in 12, -0.5 or 1e-3; infinity for any other text, and from LARGEST on."""
    if "_" in text or not text.isascii():  # float() accepts 2024_01, and the digits of every script
        return math.inf
    try:
        value = float(text)
    except ValueError:
        return math.inf
    return value if abs(value) < LARGEST else math.inf


@functools.lru_cache(maxsize=10_000)
def category_of(text: str) -> str:
    """Return the text that stands for all cells of one category: 1, 1.0 and 1e0 are one, and so are NFC and NFD.

    Numbers are compared to the last digit. One with leading zeros is a name: 01 is not 1.
    """
    if not PLAIN.fullmatch(text) or math.isinf(parse_number(text)):
        return nfc(text)
    digits = format(decimal.Decimal(text), "f")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return "0" if digits == "-0" else digits


def is_disguised(text: str) -> bool:
    """Say whether a cell that `parse_number` does not read looks like a number all the same, as 1,5 and 12% do."""
    if math.isfinite(parse_number(text)):
        return False
    bare = "".join(sign for sign in UNIT.sub("", text) if unicodedata.category(sign) != "Sc")
    return DISGUISED.fullmatch(bare.strip()) is not None


def value_order(text: str) -> tuple[float, str]:
    """Sort numbers by size, then everything else as text."""
    return parse_number(text), text
