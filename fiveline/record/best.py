"""Which result is better: one rule for the epochs of a run, the trials of a study and the rows of a table."""

from __future__ import annotations

import math
import sys
from typing import Any


def standing(value: Any, loss: Any, is_high_better: bool) -> tuple[float, float] | None:
    """Return the pair by which results are compared: the larger pair is the better result.

    Args:
        value: the monitored metric on val
        loss: on val; between equal values the lower loss is better, and one that is not a finite number is the worst
        is_high_better: whether more of the metric is better

    Returns:
        None for a value that is not a finite number, which is never the best
    """
    if not _is_finite(value):
        return None
    return (float(value) if is_high_better else -float(value)), (-float(loss) if _is_finite(loss) else -math.inf)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max
