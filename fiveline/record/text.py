"""JSON and YAML as people write them: duplicate keys are noticed, `1e-3` is a number, NaN is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from fiveline.record.errors import InputError
from fiveline.record.files import read_text

LARGEST = 2**63
MOST_VALUES = 20_000  # in one file, aliases counted as what they stand for; far above what people write by hand


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which notes duplicate keys and reads `1e-3` as YAML 1.2 does."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.mistakes: list[str] = []
        self._checked: set[yaml.MappingNode] = set()
        self._num_values = 0
        self._sizes: dict[yaml.Node, int] = {}  # how many values a node holds, itself included

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        before, is_alias, mark = self._num_values, self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        node = super().compose_node(parent, index)
        if node is not None:
            self._num_values += self._sizes.get(node, 1) if is_alias else 1  # 1: an alias within what it stands for
            self._sizes.setdefault(node, self._num_values - before)
        if self._num_values > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_VALUES:,} values", problem_mark=mark)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what a merge key (`<<`) names into the mapping; keys of its own win, and come twice after that."""
        if node not in self._checked:
            self._checked.add(node)
            seen: set[Any] = set()
            for key_node, _ in node.value:
                is_merge = key_node.tag == "tag:yaml.org,2002:merge"
                key = "<<" if is_merge else self.construct_object(key_node, deep=True)
                if key in seen:
                    self.mistakes.append(f"duplicate key {key!r} in line {key_node.start_mark.line + 1}")
                seen.add(key)
        super().flatten_mapping(node)


def _read_int(text: str) -> int:
    """Return a whole number, as torch and NumPy can hold it.

    Raises:
        ValueError: it has more than 64 bits
    """
    number = int(text) if len(text) < 30 else LARGEST
    if not -LARGEST <= number < LARGEST:
        raise ValueError(f"expected whole numbers of at most 64 bits, found {text[:40]}, of {len(text)} digits")
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _read_int(str(loader.construct_scalar(node))))  # type: ignore[arg-type]
_Loader.yaml_implicit_resolvers = {  # YAML 1.1 reads no, off and 12:30 as other things than text; YAML 1.2 does not
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag
        not in (
            "tag:yaml.org,2002:float",
            "tag:yaml.org,2002:int",
            "tag:yaml.org,2002:bool",
            "tag:yaml.org,2002:timestamp",
        )
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def parse_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the keys and values of a JSON or YAML file, and its duplicate keys as messages.

    Raises:
        InputError: there is no such file, its text is broken (line and column are named), or it is not a mapping
    """
    text = read_text(path)
    values, mistakes = _parse_json(text, path) if path.suffix == ".json" else _parse_yaml(text, str(path))
    if values is None and path.suffix != ".json":
        values = {}  # an empty YAML file takes the defaults
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys and values, {{...}}, found {type(values).__name__}")
    wrong = [key for key in values if not isinstance(key, str)]
    if wrong:
        raise InputError(f"{path}: expected names as keys, found {wrong[0]!r}")
    return values, mistakes


def parse_value(text: str) -> Any:
    """Return the value of the right side of `key=value`: a number, true, false, null, text, or a list in brackets.

    Raises:
        InputError: the text is broken, `[1, 2` for example
    """
    return _parse_yaml(text, "value")[0]


def _parse_json(text: str, path: Path) -> tuple[Any, list[str]]:
    mistakes: list[str] = []
    num_values = 0

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal num_values
        num_values += len(pairs)
        if num_values > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} keys")
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                mistakes.append(f"duplicate key {key!r}")
            values[key] = value
        return values

    try:
        return json.loads(text, object_pairs_hook=without_duplicates, parse_int=_read_int), mistakes
    except json.JSONDecodeError as error:
        reason = _explain_json(text, error, path)
        raise InputError(f"{path}: not valid JSON, line {error.lineno} column {error.colno}: {reason}") from None
    except (RecursionError, ValueError) as error:  # absurd nesting, a number of more digits than Python reads
        raise InputError(f"{path}: not valid JSON ({error})") from None


def _explain_json(text: str, error: json.JSONDecodeError, path: Path) -> str:
    """Return the reason in words of the habits that people bring from Python, JavaScript and YAML."""
    rest, before = text[error.pos :].lstrip(), text[: error.pos].rstrip()
    if rest.startswith(("#", "//", "/*")):
        return f"JSON has no comments; take it out, or name the file {path.stem}.yaml and begin comments with #"
    if rest.startswith(("}", "]")) and before.endswith(",") or re.match(r",\s*[}\]]", rest):
        return "JSON has no comma after the last entry; take it out"
    if rest.startswith("'"):
        return "JSON has double quotes alone"
    if not text.strip():
        return "the file is empty; {} takes the defaults"
    word = re.match(r"[A-Za-z]\w*", rest)
    known = {"True": "true", "False": "false", "None": "null"}
    if word and word[0] in known:
        return f"JSON writes {known[word[0]]}, not {word[0]}"
    return error.msg


def _parse_yaml(text: str, source: str) -> tuple[Any, list[str]]:
    try:
        loader = _Loader(text)
        return loader.get_single_data(), loader.mistakes
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1} column {mark.column + 1}" if mark else ""
        if isinstance(error, yaml.reader.ReaderError):
            where = f", line {text.count(chr(10), 0, error.position) + 1}"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{source}: not valid YAML{where}: {problem}") from None
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML's own slips: an unhashable key, `!!bool maybe`, a date that is none, absurd nesting
        raise InputError(f"{source}: not valid YAML ({error})") from None
