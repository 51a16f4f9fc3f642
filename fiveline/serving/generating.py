"""Continue prompts with a net that generates, for a task whose serve.py has `fetch_generator`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import utils
from fiveline.record.files import read_text

Generator = Callable[..., Iterator[str]]  # (prompt, settings by name) -> pieces of the text that follows
LEAST = {"max_new_tokens": 1, "temperature": 0, "top_k": 1, "seed": 0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of generation."""
    parser.add_argument("--max_new_tokens", type=int, help="tokens to generate after each prompt; default: 200")
    parser.add_argument("--temperature", type=float, help="0: always the most probable token; default: 0.8")
    parser.add_argument("--top_k", type=int, help="choose among this many most probable tokens; default: all")
    parser.add_argument("--seed", type=int, help="of the choices; default: the run's")


def fetch_generator(
    serve: Any, model: Any, params: utils.Params, args: argparse.Namespace
) -> tuple[Generator | None, dict[str, Any]]:
    """Return the function that continues a prompt, None if the run labels its inputs, and the settings that were given.

    An InputError says that a setting is too small, or that the run does not generate.
    """
    settings = {name: getattr(args, name) for name in LEAST if getattr(args, name) is not None}
    generator = serve.fetch_generator(model, params) if hasattr(serve, "fetch_generator") else None
    for name, value in settings.items():
        if not value >= LEAST[name]:
            raise utils.InputError(f"--{name} {value}: expected {LEAST[name]} or more")
        if generator is None:
            raise utils.InputError(f"--{name}: this run labels inputs, and generates nothing; leave the flag out")
    return generator, settings


def continue_prompts(
    generator: Generator, paths: Sequence[Path], settings: Mapping[str, Any], shown: bool
) -> Iterator[dict[str, Any]] | None:
    """Continue the prompt in each file (`-`: standard input).

    Returns:
        a row for each prompt, made as it is needed; None if they were `shown`: printed as they came
    """
    prompts = [(str(path), sys.stdin.read() if str(path) == "-" else read_text(path)) for path in paths]
    if not shown:
        return ({"id": name, "prompt": p, "prediction": "".join(generator(p, **settings))} for name, p in prompts)
    for name, prompt in prompts:
        if len(prompts) > 1:
            print(f"==> {utils.escaped_lines(name)} <==")
        print(prompt, end="", flush=True)
        for piece in generator(prompt, **settings):
            print(utils.escaped_lines(piece) if sys.stdout.isatty() else piece, end="", flush=True)
        print()
    return None
