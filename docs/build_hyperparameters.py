"""Write docs/hyperparameters.md from the Params classes: all hyperparameters, with types, bounds and defaults.

    python -m docs.build_hyperparameters

The text above the tables is written by hand and stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import utils
from fiveline.tasks import fetch_params_class, list_tasks

PAGE = Path(__file__).with_name("hyperparameters.md")
START = "<!-- what follows is written by: python -m docs.build_hyperparameters -->"
COLUMNS = ("name", "type", "bounds", "default", "description")

Row = Mapping[str, str]


def render() -> str:
    """Return the page: the text as it stands, and the tables made from the classes."""
    prose = PAGE.read_text(encoding="utf-8").partition(START)[0]
    base = utils.describe(utils.Params)
    machine = utils.machine_settings(utils.Params)
    parts = [
        "## Of every task",
        _table([row for row in base if row["name"] not in machine]),
        "## Settings of the machine",
        "They change how or where a run is computed, not what is learnt. A run may be continued with others, and\n"
        "the hash of its hyperparameters leaves them out.",
        _table([row for row in base if row["name"] in machine]),
    ]
    for task in list_tasks():
        rows = [row for row in utils.describe(fetch_params_class(task)) if row not in base]
        parts += [f"## Task `{task}`", _table(rows, utils.machine_settings(fetch_params_class(task)))]
    return f"{prose}{START}\n\n" + "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row], machine: Collection[str] = ()) -> str:
    """Return rows of `utils.describe` in Markdown.

    Args:
        rows: one for each hyperparameter
        machine: the names of the settings of the machine, which are marked
    """
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for row in rows:
        note = " *(machine)*" if row["name"] in machine else ""
        cells = [
            f"`{row['name']}`",
            " or ".join(row["type"].split("|")),
            row["bounds"],
            f"`{row['default']}`",
            row["description"] + note,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the script."""
    PAGE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
