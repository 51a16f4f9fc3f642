"""Columns of numbers, features and targets alike: read from text, with what counts as missing, and their spread."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from model.tabular.cells import category_of, is_disguised, parse_number
from model.tabular.params import Params
from model.tabular.readers import Table
from utils import InputError

RESOLUTION = 1e-12  # rounding in float64 may be all that differs between numbers this close, relative to their size
PLAIN_NUMBERS = (
    "write numbers as 1234.5, without decimal commas, thousands separators, percent and currency signs, or units"
)


def read_numbers(table: Table, name: str, missing: Collection[str], role: str = "feature") -> np.ndarray:
    """Return the numbers of a column, float64, (num_rows,), NaN where one is missing.

    Args:
        table: any split
        name: of the column
        missing: from `missing_values`
        role: what the column is wanted for, in the message

    Raises:
        InputError: there is no such column, or a cell holds something else; names the first
    """
    cells = table.column(name, role)
    values = np.array([math.nan if cell in missing else parse_number(cell) for cell in cells], dtype=np.float64)
    wrong = np.flatnonzero(np.isinf(values))
    if len(wrong):
        names = "`target_type` can be 'classes'" if role == "target" else "list the column in `categorical`"
        cure = PLAIN_NUMBERS if is_disguised(cells[wrong[0]]) else "correct it, or add it to `missing`"
        raise InputError(
            f"{table.where(wrong[0], name)}: found {cells[wrong[0]]!r}, expected a number ({len(wrong)} of "
            f"{len(cells)} rows hold none that is finite and below 1e30); {cure}; if these are names of things, {names}"
        )
    values[np.isin(values, [parse_number(text) for text in missing])] = math.nan  # -999.0 is -999
    return values


def missing_values(params: Params) -> set[str]:
    """Return the texts that count as missing, as `category_of` spells them and as the user does."""
    return {text.strip() for text in params.missing} | {category_of(text.strip()) for text in params.missing}


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation; the first value and 0 where only rounding may differ."""
    if len(values) == 0:
        return 0.0, 0.0
    size = np.abs(values).max()
    if np.ptp(values) <= RESOLUTION * size:
        return float(values[0]), 0.0
    scale = 2.0 ** math.frexp(size)[1]  # a power of two changes no digit; the square of 1e-200 would be 0
    return float(values.mean()), float((values / scale).std() * scale)
