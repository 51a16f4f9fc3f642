"""What kind of answers the saved predictions of a run are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Rows = Sequence[Mapping[str, str]]


def is_tagged(rows: Rows) -> bool:
    """Return whether labels are tags, one for each token of a sentence."""
    return all(len(row["label"].split()) == len(row["prediction"].split()) for row in rows) and any(
        " " in row["label"] for row in rows
    )


def is_quantity(rows: Rows) -> bool:
    """Return whether a number was predicted, not a class: there is no confidence in it."""
    return "confidence" not in rows[0] and all(_is_float(row["label"]) for row in rows)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
