"""One cell of text: a number, a category, or a number in a spelling that is not read."""

from __future__ import annotations

import decimal
import functools
import math
import re
import unicodedata
from collections.abc import Collection

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

# R$8.17 and 8.15 kr and 31.1k and -5 °C: a number, without leading zeros, with letters or a currency sign next to it
CURRENCY = "$¢£¤¥৳฿﷼\u20a0-\u20cf"
MEASURE = re.compile(
    rf"[-+−]?(?P<before>[^\W\d_]{{0,3}})(?P<sign>[.{CURRENCY}]?\s?)((?<!\w)[-+−])?"
    rf"(?P<number>(?!0\d)(\d{{1,3}}([.,'’\s]\d{{3}})+([.,]\d+)?|\d*[.,]?\d+))"
    rf"\s?(?P<after>([^\W\d_]|[{CURRENCY}%‰°/.'\"′″]){{0,10}})"
)
MOST_UNITS = 3  # in one column: seats, 12A to 30F, have more
CLOCK = r"\d{1,2}:\d\d(:\d\d([.,]\d+)?)?\s?([AaPp][Mm])?"
MOMENT = re.compile(
    r"(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3\d{4}"
    r"|(0[1-9]|[12]\d|3[01])([-/.])(0[1-9]|[12]\d|3[01])\5\d\d"
    r"|\d{1,2}[\s.-]{1,2}[^\W\d_]{3,9}[\s.-]{1,2}\d{2,4}|[^\W\d_]{3,9}\.?\s\d{1,2},?\s\d{4})"
    rf"([T\s,]\s?{CLOCK}\s?(Z|UTC|[+-]\d\d:?\d\d)?)?|{CLOCK}"
)


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


def find_measures(cells: Collection[str], few: int) -> set[str]:
    """Return the cells that are a number with a unit, as in 8.15 kr; none if they look like names of things.

    They are names if they are no more than half of the cells, have more than MOST_UNITS units, or have no more than
    `few` different numbers. Letters right before a whole number, as in AB123, are a name.

    Args:
        cells: the different ones of a column
        few: so many different numbers are taken for names
    """
    found = {cell: match for cell in cells if (match := MEASURE.fullmatch(cell))}
    if not any("." in match["number"] or "," in match["number"] for match in found.values()):
        found = {cell: match for cell, match in found.items() if match["sign"] or match["after"]}
    units = {(match["before"] + match["sign"].strip() + match["after"]).casefold() for match in found.values()}
    numbers = {match["number"] for match in found.values()}
    return set(found) if len(found) > len(cells) / 2 and len(units) <= MOST_UNITS and len(numbers) > few else set()


def is_moment(text: str) -> bool:
    """Say whether a cell looks like a date, a time, or both."""
    return MOMENT.fullmatch(text) is not None


def value_order(text: str) -> tuple[float, str]:
    """Sort numbers by size, then everything else as text."""
    return parse_number(text), text
