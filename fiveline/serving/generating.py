"""Continue prompts with a net that generates, for a task whose serve.py has `fetch_generator`."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import utils
from fiveline.record.files import decode, read_text

Generator = Callable[[str], Iterator[str]]  # prompt -> pieces of the text that follows
SETTINGS: dict[str, tuple[type, int, str]] = {  # name -> kind, least value, help text
    "max_new_tokens": (int, 1, "tokens to generate after each prompt; default: 200"),
    "temperature": (float, 0, "0: always the most probable token; default: 0.8"),
    "top_k": (int, 1, "choose among this many most probable tokens; default: all"),
    "seed": (int, 0, "of the sampling; default: the run's seed"),
}


def fetch_generator(serve: Any, model: Any, params: utils.Params, args: argparse.Namespace) -> Generator | None:
    """Return the function that continues a prompt, or None if the run labels its inputs."""
    given = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    generator = serve.fetch_generator(model, params) if hasattr(serve, "fetch_generator") else None
    for name, value in given.items():
        if generator is None:
            raise utils.InputError(f"--{name}: this run labels inputs, and generates no text; leave the flag out")
        if not value >= SETTINGS[name][1]:
            raise utils.InputError(f"--{name} {value}: expected {SETTINGS[name][1]} or more")
    if generator is not None and args.probabilities:
        raise utils.InputError("--probabilities: this run continues texts, and has no classes; leave the flag out")
    return None if generator is None else functools.partial(generator, **given)


def continue_prompts(generator: Generator, paths: Sequence[Path], shown: bool) -> Iterator[dict[str, Any]] | None:
    """Return a row for each prompt file (`-`: standard input), made as it is needed; if `shown`, print text instead."""
    prompts = [
        (str(path), decode(sys.stdin.buffer.read(), path) if str(path) == "-" else read_text(path)) for path in paths
    ]
    for name, text in prompts:
        if not text:
            raise utils.InputError(f"{name}: the prompt is empty; expected at least one token, for example a line end")
    if not shown:
        return ({"id": name, "prompt": text, "prediction": "".join(generator(text))} for name, text in prompts)
    for name, text in prompts:
        title = f"==> {name} <==\n" if len(prompts) > 1 else ""
        for piece in chain([title, text], generator(text), ["\n"]):
            print(utils.escaped_lines(piece) if sys.stdout.isatty() else piece, end="", flush=True)
    return None
