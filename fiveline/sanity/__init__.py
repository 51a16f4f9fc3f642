"""Behind sanity_check.py: checks that find silent bugs before the long run, and a test of resuming."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a check."""

    status: str  # PASS, WARN (look at it), or FAIL (fix it before you train)
    explanation: str  # what the check found, in one line
    advice: str = ""  # what to do about it, in one line; empty for PASS
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the numbers behind it, for --json
