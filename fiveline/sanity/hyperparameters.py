"""The check of the hyperparameters: does the value of each that was set reach any code?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import utils
from fiveline.sanity import Finding
from fiveline.sanity.context import Context

PROJECT = Path(__file__).resolve().parents[2]


def hyperparameters(context: Context) -> Finding:
    """Is each hyperparameter that was set read on the way to the first steps and the first evaluation?"""
    watched, names_read = recorded(context.run_params)
    context.dry_run(watched)
    params, fields = context.params, type(context.params).model_fields
    machine = utils.machine_settings(utils.Params)  # for example how often to save: two steps read none of them
    unread = sorted(params.model_fields_set - names_read - machine - {"task", "num_steps"})  # it sets num_epochs
    nowhere = [name for name in unread if not _is_in_code(name, params.task)]
    # a default does no harm: a file may name all hyperparameters
    idle = [name for name in unread if name not in nowhere and getattr(params, name) != fields[name].default]
    values = {"unread": unread}
    if nowhere:
        explanation = f"no line of model/{params.task} or of the engine reads {', '.join(nowhere)}"
        return Finding("FAIL", explanation, "use it in the code, or remove it from params.py and the file", values)
    if idle:
        words = ", ".join(f"{name}={getattr(params, name)}" for name in idle)
        advice = "another hyperparameter switches it off: change that one, or leave this one out"
        return Finding("WARN", f"set, but without effect beside the others: {words}", advice, values)
    if warnings := params.warnings():
        return Finding("WARN", "; ".join(warnings), "change one of the two, or leave this one out", values)
    return Finding("PASS", f"all {len(params.model_fields_set)} that are set are read", values=values)


def _is_in_code(name: str, task: str) -> bool:
    """Return whether the scripts, the engine or the task read an attribute of this name, such as `params.x`."""
    paths = [path for pattern in ("*.py", "fiveline/**/*.py", f"model/{task}/*.py") for path in PROJECT.glob(pattern)]
    codes = (path.read_text(encoding="utf-8") for path in paths if path.name != "params.py")  # it only declares them
    return any(re.search(rf"\.{name}\b", code) for code in codes)


def recorded(params: utils.Params) -> tuple[utils.Params, set[str]]:
    """Return a copy, and the set of the names that are read from it or its copies; `model_dump` does not count."""
    names, cls = set[str](), type(params)
    fields = frozenset(cls.model_fields)

    class Recorded(cls):  # type: ignore[valid-type, misc]
        def __getattribute__(self, name: str) -> Any:
            if name in fields:
                names.add(name)
            return super().__getattribute__(name)

    copy = params.model_copy()
    object.__setattr__(copy, "__class__", Recorded)
    return copy, names
