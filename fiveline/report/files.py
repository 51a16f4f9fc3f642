"""Files of a run directory that nobody has checked: what is in them, or a line that says why not."""

from __future__ import annotations

import codecs
import json
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fiveline.record.errors import InputError
from fiveline.record.files import MAX_TEXT_BYTES

PARAMS_FILES = ("params.json", "params.yaml", "params.yml")
MOST_PARAMS = 1000  # YAML's anchors can make a file of a few lines into millions of values
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe must not make us wait
SCALARS = (str, int, float, type(None))
DECODER = json.JSONDecoder()


def read_json(folder: str, name: str, problems: list[str]) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one and a line more in `problems`."""
    try:
        value = DECODER.decode(_read_bytes(f"{folder}/{name}").removeprefix(codecs.BOM_UTF8).decode())
    except OSError as error:
        problems.append(f"{folder}/{name}: cannot be read ({error.strerror or error})")
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of more digits than Python reads
        problems.append(f"{folder}/{name}: not valid JSON ({error})")
    else:
        if isinstance(value, dict):
            return value
        problems.append(f"{folder}/{name}: expected a JSON object {{...}}, found {type(value).__name__}")
    return {}


def _read_bytes(path: str) -> bytes:
    """Return a file's bytes; a file that is far larger than any of ours is not read to its end."""
    descriptor = os.open(path, FLAGS)
    try:
        parts = [os.read(descriptor, 65536)]
        total = len(parts[0])
        while parts[-1] and total <= MAX_TEXT_BYTES:
            parts.append(os.read(descriptor, 2**20))
            total += len(parts[-1])
    finally:
        os.close(descriptor)
    if total > MAX_TEXT_BYTES:
        raise OSError(f"larger than {MAX_TEXT_BYTES:,} bytes")
    return b"".join(parts)


def read_params(folder: str, files: set[str], problems: list[str]) -> dict[str, Any]:
    """Return the hyperparameters of a params file: the JSON one before the YAML one."""
    name = next((name for name in PARAMS_FILES if name in files), None)
    if name is None:
        return {}
    if name == "params.json":
        return flatten(read_json(folder, name, problems), f"{folder}/{name}", problems)
    from fiveline.record.params_file import read_values  # PyYAML, which most folders do not need

    try:
        return flatten(read_values(Path(folder, name))[0], f"{folder}/{name}", problems)
    except InputError as error:
        problems.append(str(error))
        return {}


def flatten(values: Mapping[Any, Any], source: str, problems: list[str]) -> dict[str, Any]:
    """Return nested hyperparameters, as Hydra writes them, under names such as `optimizer.lr`."""
    flat: dict[str, Any] = {}
    queue: list[tuple[str, Any]] = [("", values)]
    for _ in range(MOST_PARAMS):
        if not queue:
            return flat
        prefix, value = queue.pop()
        if isinstance(value, Mapping) and (value or not prefix):
            queue += [(f"{prefix}.{key}" if prefix else str(key), each) for key, each in value.items()][::-1]
        else:
            flat[prefix] = value if isinstance(value, SCALARS) or _is_plain(value) else reprlib.repr(value)
    problems.append(f"{source}: more than {MOST_PARAMS:,} hyperparameters; none of them is shown")
    return {}


def _is_plain(value: Any) -> bool:
    """Return whether a value is a list of simple ones, which can be compared and shown in full."""
    return isinstance(value, list) and all(isinstance(each, SCALARS) for each in value)
