"""Read hyperparameters as people write them: JSON, YAML 1.2, and `key=value` words on the command line."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fiveline.record.atomic import to_json
from fiveline.record.errors import InputError
from fiveline.record.files import read_text

FILE_NAMES = ("params.json", "params.yaml", "params.yml")
MOST_VALUES = 20_000  # in a YAML file, an alias counted as what it stands for; far more than people write by hand
# The core schema of YAML 1.2. PyYAML comes with the words of YAML 1.1 only: `no`, `off`, `12:30` are not text there,
# and `1e-3` is not a number.
CORE_SCHEMA = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "merge": "<<",
}
JSON_HABITS = {  # the text at a mistake, and what people know from Python, JavaScript or YAML
    r".?(#|//|/\*)": "JSON has no comments; take it out, or name the file params.yaml and begin comments with #",
    r".?,\s*[}\]]": "JSON has no comma after the last entry; take it out",
    r".?('|True|False|None)": "JSON has double quotes, true, false and null",
    r"$": "the file is empty; {} takes the defaults",
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the schema of YAML 1.2; notes duplicate keys and limits what aliases unfold to."""

    yaml_implicit_resolvers = {  # None: whatever the first character is
        None: [(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{text})$")) for tag, text in CORE_SCHEMA.items()]
    }

    def get_single_node(self) -> yaml.Node | None:
        root = super().get_single_node()
        self.mistakes: list[str] = []
        nodes: list[Any] = [root]
        for node in nodes:  # which grows within the loop
            if len(nodes) > MOST_VALUES:
                raise yaml.YAMLError(f"more than {MOST_VALUES:,} values")
            if isinstance(node, yaml.MappingNode):
                self._check_keys(node)
                nodes += itertools.chain(*node.value)
            elif isinstance(node, yaml.SequenceNode):
                nodes += node.value
        return root

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                self.mistakes.append(f"duplicate key {key.value!r} in line {key.start_mark.line + 1}")
            seen.add((key.tag, str(key.value)))
        pairs, node.value = node.value, []
        for key, value in pairs:  # of a list of merged mappings, the first counts; PyYAML 6.0.4 takes the last
            is_list = key.tag == "tag:yaml.org,2002:merge" and isinstance(value, yaml.SequenceNode)
            node.value += [(key, each) for each in reversed(value.value)] if is_list else [(key, value)]


def find_params_file(model_dir: Path) -> Path:
    """Return the params file of a run directory; an InputError says what is missing, or that there are two."""
    if not model_dir.is_dir():
        raise InputError(f"{model_dir}: there is no such directory; make it with a params.json, or name another")
    paths = [model_dir / name for name in FILE_NAMES if (model_dir / name).exists()]  # the reader refuses a pipe
    if not paths:
        raise InputError(f"{model_dir}: no params.json and no params.yaml in it; {{}} in params.json is all defaults")
    if len(paths) > 1:
        raise InputError(f"{model_dir}: both {paths[0].name} and {paths[1].name}; remove the one that should not count")
    return paths[0]


def read_values(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a JSON or YAML file, and a message for each duplicate key in it."""
    is_json = path.suffix == ".json"
    values, mistakes = (_parse_json if is_json else _parse_yaml)(read_text(path), str(path))
    if values is None and not is_json:  # an empty file
        values = {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys and values, {{...}}, found {type(values).__name__}")
    for key in values:
        if not isinstance(key, str):
            raise InputError(f"{path}: expected names as keys, found {key!r}")
    return values, mistakes


def read_overrides(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the values of `key=value` words from the command line, read as YAML, and the mistakes in them."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        try:
            if not equals or not key.isidentifier():
                raise InputError("expected key=value; write for example learning_rate=3e-4")
            values[key] = _parse_yaml(text, "value")[0]
        except InputError as error:
            mistakes.append(f"{word}: {error}")
    return values, mistakes


def with_data_dir(overrides: Sequence[str], data_dir: str | None) -> list[str]:
    """Return the overrides with --data_dir as the last one, which beats the others."""
    return [*overrides, *([f"data_dir={to_json(data_dir)}"] if data_dir else [])]


def _parse_json(text: str, source: str) -> tuple[Any, list[str]]:
    mistakes: list[str] = []

    def note_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        mistakes.extend(f"duplicate key {key!r}" for key, count in counts.items() if count > 1)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=note_duplicates), mistakes
    except json.JSONDecodeError as error:
        around = text[: error.pos].rstrip()[-1:] + text[error.pos :].lstrip()
        reason = next((hint for pattern, hint in JSON_HABITS.items() if re.match(pattern, around)), error.msg)
        raise InputError(f"{source}: not valid JSON, line {error.lineno} column {error.colno}: {reason}") from None
    except (ValueError, RecursionError) as error:  # a number of more digits than Python reads, absurd nesting
        raise InputError(f"{source}: not valid JSON ({error})") from None


def _parse_yaml(text: str, source: str) -> tuple[Any, list[str]]:
    try:
        loader = _Loader(text)
        return loader.get_single_data(), loader.mistakes
    except (yaml.YAMLError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML's own slips: an unhashable key, `!!bool maybe`, a date that does not exist, absurd nesting
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1} column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise InputError(f"{source}: not valid YAML{where}: {problem}") from None
