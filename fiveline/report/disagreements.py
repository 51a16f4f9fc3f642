"""The examples on which two runs disagree; of quantities, those on which they differ most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fiveline.report.examples import is_quantity, is_tagged
from fiveline.report.table import Table
from fiveline.report.text import shortened, to_markdown

MOST_SHOWN = 10
Prediction = dict[str, str]


def disagreements(pairs: Sequence[tuple[Prediction, Prediction]]) -> str:
    """Return a table of the first examples on which two runs disagree; of quantities, where they differ most."""
    if is_quantity([a for a, _ in pairs]):
        return _largest_differences(pairs)
    differ = [(a, b) for a, b in pairs if a["prediction"] != b["prediction"]]
    only_a, only_b = (sum(pair[i]["prediction"] == pair[i]["label"] for pair in differ) for i in (0, 1))
    told = (
        f"They disagree on {len(differ):,} of {len(pairs):,} examples: only A is right on {only_a:,}, only B on "
        f"{only_b:,}, neither on {len(differ) - only_a - only_b:,}."
    )
    is_tags = is_tagged([a for a, _ in pairs])
    rows = [[a["id"], *(_tags_that_differ(a, b) if is_tags else (a["label"], a["prediction"], b["prediction"]))]
            for a, b in differ[:MOST_SHOWN]]  # fmt: skip
    return _listing(told, rows, len(differ), "first")


def _tags_that_differ(a: Prediction, b: Prediction) -> list[str]:
    """Return label and predictions of the tokens of a sentence on which two runs disagree, each with its number."""
    tags = zip(a["label"].split(), a["prediction"].split(), b["prediction"].split(), strict=False)
    differ = [(i, *each) for i, each in enumerate(tags, start=1) if each[1] != each[2]]
    return [" ".join(f"{each[0]}:{each[part]}" for each in differ) for part in (1, 2, 3)]


def _largest_differences(pairs: Sequence[tuple[Prediction, Prediction]]) -> str:
    def distance(pair: tuple[Prediction, Prediction]) -> float:
        return abs(float(pair[0]["prediction"]) - float(pair[1]["prediction"]))

    closer = [abs(float(a["prediction"]) - float(a["label"])) - abs(float(b["prediction"]) - float(b["label"]))
              for a, b in pairs]  # fmt: skip
    told = (
        f"A is closer to the label on {sum(value < 0 for value in closer):,} of {len(pairs):,} examples, B on "
        f"{sum(value > 0 for value in closer):,}."
    )
    largest = sorted(pairs, key=distance, reverse=True)[:MOST_SHOWN]
    rows = [[a["id"], *(float(text) for text in (a["label"], a["prediction"], b["prediction"]))] for a, b in largest]
    return _listing(told, rows, len(pairs), "most different")


def _listing(told: str, rows: list[list[Any]], number: int, which: str) -> str:
    if not rows:
        return f"{told}\n"
    told += f" The {len(rows)} {which}:" if len(rows) < number else ""
    short = [[shortened(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    return f"{told}\n\n{to_markdown(Table.of_rows(['example', 'label', 'A', 'B'], short))}"
