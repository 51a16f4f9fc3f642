"""What the text of one cell is: a number, a category, or a number in a spelling that is not read."""

from __future__ import annotations

import decimal
import functools
import math
import re
import unicodedata

LARGEST = 1e30  # numbers below have squares that fit into float64, and distances from the mean that fit into float32
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# a number that may be written in several ways; one with leading zeros, such as 007, is a name
CATEGORY_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]{1,2})?")
# 1,5 and 1.234,56 and 1 234 and 12,34,567 and (5) and 1e400, once UNIT and currency signs are removed
DISGUISED = re.compile(
    r"[-+−(]?\s*(\d{1,3}([.,'’_\s]\d{3})+([.,]\d+)?|\d{1,2}(,\d{2})*,\d{3}(\.\d+)?|\d*[.,]?\d+[.,]?|inf(inity)?)"
    r"([eE][+-]?\d+)?\s*\)?",
    re.IGNORECASE,
)
UNIT = re.compile(r"%|‰|(\b|(?<=\d))(EUR|USD|GBP|CHF|JPY|CNY|INR)\b")


def nfc(text: str) -> str:
    """Return text in Unicode's composed form, so that one name has one spelling."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def parse_number(text: str) -> float:
    """Return the number in a cell such as 12, -0.5 or 1e-3; infinity for other text and for numbers from LARGEST on."""
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    return value if abs(value) < LARGEST else math.inf


@functools.lru_cache(maxsize=10_000)
def category_of(text: str) -> str:
    """Return one spelling for all equal cells: 1, 1.0 and 1e0 are one category, and so are NFC and NFD; 01 is not 1."""
    if not CATEGORY_NUMBER.fullmatch(text) or math.isinf(parse_number(text)):
        return nfc(text)
    digits = format(decimal.Decimal(text), "f")  # a float would round the last digits of an id
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if digits == "-0" else digits


def sort_key(text: str) -> tuple[float, str]:
    """Sort numbers by size, then everything else as text."""
    return parse_number(text), text


def is_disguised(text: str) -> bool:
    """Return whether a cell that `parse_number` does not read looks like a number, as 1,5 and 12% do."""
    bare = "".join(sign for sign in UNIT.sub("", text) if unicodedata.category(sign) != "Sc")
    return math.isinf(parse_number(text)) and DISGUISED.fullmatch(bare.strip()) is not None
