"""What a study knows of a configuration, as its samplers see it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import utils


@dataclasses.dataclass(frozen=True)
class Result:
    """What is known of a configuration.

    Args:
        number: of the proposal
        chosen: the values proposed
        state: `finished`, `pruned` (diverged ones too), `failed`, or `running`, which includes what has not begun
        value: the best value of the monitored metric, the mean over seeds; None unless finished
        history: epoch -> value of the monitored metric, where pruned
        loss: the val loss that goes with the value; of equal values, the one with the lower loss is better
    """

    number: int
    chosen: dict[str, Any]
    state: str
    value: float | None = None
    history: dict[int, float] = dataclasses.field(default_factory=dict)
    loss: float | None = None


def break_ties(results: Sequence[Result], maximize: bool) -> list[Result]:
    """Return the results with values that are worse by a few last bits where another has the same and a lower loss."""
    worst = -math.inf if maximize else math.inf
    standings = [(utils.standing(each.value, each.loss, maximize), each) for each in results]
    ranked = sorted(((standing, each) for standing, each in standings if standing), key=lambda pair: pair[0])
    values: dict[int, float | None] = {}
    last: tuple[tuple[float, float], float] | None = None
    for standing, result in reversed(ranked):
        value = float(result.value or 0.0)
        if last is not None:
            bound = last[1] if standing == last[0] else math.nextafter(last[1], worst)
            value = min(value, bound) if maximize else max(value, bound)
        values[result.number], last = value, (standing, value)
    return [dataclasses.replace(each, value=values.get(each.number, each.value)) for each in results]
