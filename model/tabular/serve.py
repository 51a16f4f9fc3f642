"""What comes after training: predictions in words, new rows, exported programs, and rows on the results page."""

from __future__ import annotations

import collections
import logging
import math
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.tabular.columns import category_of, encode, missing_values, parse_number
from model.tabular.params import Params
from model.tabular.readers import Table, read_rows, read_split, read_table
from utils import InputError, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

READS = ("split_seed", "val_fraction", "test_fraction", "delimiter", "target", "target_type", "id_column")
TARGETS = ("target", "label", "class", "y")  # usual names of the column to predict
IDS = re.compile(r"(?i:(.*[_ ])?id|index)|.*[a-z]I[dD]")  # usual names of a column that names the rows


def predictions(outputs: Tensor, labels: Tensor | None, params: Params) -> list[dict[str, Any]]:
    """Return one dict per example: prediction, for classes confidence, and, unless labels is None, label and loss."""
    import torch.nn.functional as F

    if params.target_type == "number":
        columns: dict[str, list[Any]] = {"prediction": _in_units(outputs, params)}
        if labels is not None:
            columns |= {"label": _in_units(labels, params)}
            columns |= {"loss": F.mse_loss(outputs, labels, reduction="none").tolist()}
    else:
        confidences, predicted = outputs.softmax(dim=1).max(dim=1)
        columns = {"prediction": [params.classes[i] for i in predicted.tolist()], "confidence": confidences.tolist()}
        if labels is not None:
            columns |= {"label": [params.classes[i] for i in labels.tolist()]}
            columns |= {"loss": F.cross_entropy(outputs, labels, reduction="none").tolist()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _in_units(values: Tensor, params: Params) -> list[float]:
    """Return standardised values in the data's own unit, with the decimals that float32 can tell apart."""
    mean, std = params.facts["target_mean"], params.facts["target_std"]
    return [round(value, 5 - math.floor(math.log10(std))) for value in (values.double() * std + mean).tolist()]


def probabilities(outputs: Tensor, _: Tensor | None, params: Params) -> list[dict[str, float]]:
    """Return the probability of each class, one dict per example; raise InputError if a number is predicted."""
    if params.target_type == "number":
        raise InputError("--probabilities: this run predicts a number, not classes; leave the flag out")
    return [dict(zip(params.classes, row, strict=True)) for row in outputs.softmax(dim=1).tolist()]


def fetch_unlabelled(paths: Sequence[Path], params: Params) -> Iterator[tuple[str, Table | InputError]]:
    """Yield each row of CSV files with its id (or its file and number), as a table of one row or as an InputError."""
    columns, missing = params.facts["columns"], missing_values(params)
    known = {column["name"]: missing.union(column["categories"]) for column in columns if "unseen" in column}
    for path in paths:
        unseen, number = collections.Counter[str](), 0
        try:
            rows = read_rows(path, params.delimiter)
            header = next(rows).cells  # type: ignore[union-attr]  # it is never an InputError
            for column in columns:
                Table(path, header, []).column(column["name"])
            for number, row in enumerate(rows, start=1):
                cells = {} if isinstance(row, InputError) else dict(zip(header, row.cells, strict=True))
                unseen.update(name for name in known if cells and category_of(cells[name]) not in known[name])
                name = cells.get(params.id_column or "", f"{path}:{number}")
                yield name, row if isinstance(row, InputError) else Table(path, header, [row])
        except InputError as error:
            yield str(path), error
        for name, count in unseen.items():
            logging.warning(f"- WARNING: column {name!r}: {count} of {number} rows of {path} hold an unknown category")


def collate_unlabelled(examples: Sequence[Table], params: Params) -> tuple[Tensor, None]:
    """Return the inputs of the net of tables of one row each; raise InputError for text where train has numbers."""
    import torch

    names = [column["name"] for column in params.facts["columns"]]
    rows = [table.rows[0]._replace(cells=[table.column(name)[0] for name in names]) for table in examples]
    return torch.from_numpy(encode(Table(examples[0].path, names, rows), params)), None


def describe_inputs(params: Params) -> dict[str, Any]:
    """Return how rows become inputs and what the outputs mean, for code that uses an exported net."""
    outputs = "logits, one for each of `classes`; softmax over the last axis makes them probabilities"
    if params.target_type == "number":
        outputs = f"{params.target} in standard deviations: times `target_std`, plus `target_mean`"
    return {
        "steps": [
            "take spaces around cells away; go through `columns` in order, and put what each becomes side by side",
            "two cells are equal if their texts are, in Unicode's form NFC, or if both are numbers of the same value, "
            "in ASCII and without leading zeros: 1 and 1.0 are equal, 1 and 01 are not",
            "a column with `mean`: (number - mean) / std in float64, where a number below `low` counts as `low` and "
            "one above `high` as `high`, or both as the mean if `rare` is true; 0 if the cell equals one of `missing`, "
            "or if `low` is `high`; where has_missing is true, then 1 if the cell equals one of `missing`, else 0",
            "a column with `categories`: 1 at the position of the category that the cell equals, 0 at the others, and "
            "0 at one more; if it equals no category, or one of `missing`, the numbers in `unseen`",
            "turn the result into float32, and only then; it is in the order of `feature_names`",
        ],
        "missing": params.missing,
        "outputs": outputs,
        **params.facts,
    }


def fetch_inputs(ids: Collection[str], split: str, data_dir: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Return rows of a split by their id, as {"row": {column: cell}}, without the target; skip ids that it lacks."""
    table, wanted, hidden = read_split(split, data_dir, params), set(ids), (params.target, params.id_column)
    return {
        name: {"row": {key: cell for key, cell in zip(table.header, row.cells, strict=True) if key not in hidden}}
        for name, row in zip(table.ids(params.id_column), table.rows, strict=True)
        if name in wanted
    }


def suggest(data_dir: Path, params: Params) -> tuple[int, dict[str, tuple[Any, str]]]:
    """Return the number of train rows, and hyperparameters that suit them, each with the reason."""
    path = data_dir / ("train.csv" if (data_dir / "train.csv").is_file() else "data.csv")
    if not path.is_file():
        read_split("train", data_dir, params)  # says what is expected
    given, header = params.model_fields_set, read_bytes(path).partition(b"\n")[0].decode("utf-8", "replace")
    delimiter = params.delimiter if "delimiter" in given else max(",;\t", key=header.count)
    table = read_table(path, delimiter)
    usual = [name for name in table.header if name.lower() in TARGETS]
    target = params.target if "target" in given else (usual or table.header)[-1]
    cells = {name: {*table.column(name)} - missing_values(params) for name in [target, *table.header]}
    texts = {name for name in cells if _is_text(cells[name], len(table))}
    if target in texts and "target" not in given:
        raise InputError(f"{path}: expected numbers or classes to predict, found texts in {target!r}; type target=NAME")
    others = params.features or [name for name in table.header if name not in (target, params.id_column)]
    ids = [name for name in others if IDS.fullmatch(name) and len(cells[name]) == len(table)]
    features = [name for name in others if name not in {*ids, *texts}]
    if not features:
        raise InputError(f"{path}: found no column to predict {target!r} from, only {', '.join(others)}")
    values = [parse_number(cell) for cell in cells[target]]
    is_number = all(map(math.isfinite, values)) and (len(values) > 20 or any(value % 1 for value in values))
    found: dict[str, tuple[Any, str]] = {
        "delimiter": (delimiter, "the most frequent of , ; and tab in the header"),
        "target": (target, "by its name" if target in usual else "the last column"),
        "target_type": ("number" if is_number else "classes", f"{len(values)} different values"),
    }
    if ids:
        found["id_column"] = (ids[0], "by its name, and no two rows have the same")
    if left_out := sorted({*others} - {*features, *ids[:1]}):
        found["features"] = (features, f"without {', '.join(left_out)}, which name each row or hold texts")
    train = read_split("train", data_dir, params.model_copy(update={key: found[key][0] for key in found}))
    size = f"{len(train):,} rows"
    sizes, dropout_rate = ([32, 16], 0.3) if len(train) < 1000 else ([128, 64], 0.1)
    found |= {"net": ("mlp", "hidden layers"), "hidden_sizes": (sizes, size), "dropout_rate": (dropout_rate, size)}
    return len(train), found


def _is_text(cells: Collection[str], num_rows: int) -> bool:
    """Return whether the different cells of a column are texts: none is a number, and they are long or too many."""
    is_long = sum(len(cell.split()) for cell in cells) > 5 * len(cells)
    return (is_long or len(cells) > max(20, num_rows / 4)) and all(math.isinf(parse_number(cell)) for cell in cells)
