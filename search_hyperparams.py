"""Train a grid of hyperparameters: one run for each combination, one process for each run.

    python search_hyperparams.py --parent_dir experiments/learning_rate --space learning_rate=1e-4,1e-3,1e-2
    python search_hyperparams.py --parent_dir experiments/grid --space optimizer=adam,sgd --space seed=1,2,3

Reads the base `params.json` in --parent_dir and makes a run directory in it for each trial, `learning_rate_0.001` for
one. The same command again continues what was stopped, tries again what failed, and skips what is finished.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import synthesize_results
import utils
from model.params import fetch_params

PROJECT = Path(__file__).resolve().parent
LONGEST_NAME = 120  # bytes; file systems allow 255, and a person reads less


def parse_space(words: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values to try of each hyperparameter, from words such as `learning_rate=1e-4,1e-3`.

    Raises:
        InputError: a word is no key=value,value or a hyperparameter comes twice
    """
    space: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not text or not name.isidentifier():
            raise utils.InputError(f"--space {word!r}: expected name=value,value; for example learning_rate=1e-4,1e-3")
        if name in space:
            raise utils.InputError(f"--space: {name} comes twice; give all of its values in one")
        values, mistakes = utils.read_overrides([f"{name}=[{text}]"])
        if mistakes or not values[name]:
            raise utils.InputError(f"--space {word!r}: {'; '.join(mistakes) or 'no values'}")
        space[name] = values[name]
    return space


def trial_name(values: Mapping[str, Any]) -> str:
    """Return a directory name that tells the values, `learning_rate_0.001`, and that stays in its folder."""
    texts = {
        name: value if isinstance(value, str) else utils.to_json(value, indent=None) for name, value in values.items()
    }
    name = "__".join(f"{key}_{text}" for key, text in texts.items())
    safe = re.sub(r"[^\w.+=-]", "_", name)
    if safe == name and len(safe.encode()) <= LONGEST_NAME:
        return safe
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]  # what is replaced or cut off still tells trials apart
    return f"{safe.encode()[:LONGEST_NAME].decode(errors='ignore')}_{digest}"


def plan_trials(parent_dir: Path, space: Mapping[str, Sequence[Any]]) -> dict[str, utils.Params]:
    """Return the hyperparameters of each trial by its directory's name, all checked.

    Raises:
        InputError: mistakes in the base params or anywhere in the space, all at once
    """
    base = fetch_params(parent_dir)
    trials: dict[str, utils.Params] = {}
    mistakes: list[str] = []
    for values in itertools.product(*space.values()):
        chosen = dict(zip(space, values, strict=True))
        name = trial_name(chosen)
        try:
            trials[name] = type(base).from_values({**explicit_values(base), **chosen}, "--space")
            mistakes += [f"{parent_dir / name}: {line}" for line in changes_since(parent_dir / name, trials[name])]
        except utils.InputError as error:
            mistakes.append(str(error))
    if mistakes:
        raise utils.InputError("\n  ".join(dict.fromkeys(mistakes)))
    return trials


def explicit_values(params: utils.Params) -> dict[str, Any]:
    """Return the hyperparameters that somebody set; the rest stay with their defaults, also in the trial's file."""
    values: dict[str, Any] = params.model_dump(mode="json", include=params.model_fields_set)
    return values


def changes_since(model_dir: Path, params: utils.Params) -> list[str]:
    """Return what a trial that has begun already was told differently."""
    if not (model_dir / "run.json").exists():
        return []
    before = utils.read_json(model_dir / "run.json").get("params", {})
    return [
        f"has begun with another {line}; remove the directory to run it anew" for line in params.differences(before)
    ]


def launch_training_job(model_dir: Path, params: utils.Params, words: Sequence[str]) -> int:
    """Train one run in a process of its own and return its exit code.

    Args:
        model_dir: made if it is not there
        params: written to its params.json
        words: more for train.py's command line
    """
    model_dir.mkdir(exist_ok=True)
    utils.save_dict_to_json(explicit_values(params), model_dir / "params.json")
    command = [sys.executable, str(PROJECT / "train.py"), "--model_dir", str(model_dir), *words]
    return subprocess.run(command, check=False).returncode


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--parent_dir", default="experiments/learning_rate", help="directory with the base params.json")
    parser.add_argument("--data_dir", default=None, help="the dataset; default: data_dir of the params")
    parser.add_argument(
        "--space", action="append", required=True, metavar="name=value,value", help="a hyperparameter and its values"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the script.

    Raises:
        Stop: for a reason that is told in its message
    """
    args = make_parser().parse_args(argv)
    parent_dir = Path(args.parent_dir)
    trials = plan_trials(parent_dir, parse_space(args.space))
    words = ["--data_dir", args.data_dir] if args.data_dir else []
    # Ctrl-C reaches the trial as well: let it save and end by itself, then stop (subprocess.run would kill it)
    signal.signal(signal.SIGINT, lambda *_: None)
    failed = {}
    for position, (name, params) in enumerate(trials.items(), start=1):
        print(f"Trial {position}/{len(trials)}: {name}", flush=True)
        exit_code = launch_training_job(parent_dir / name, params, words)
        if exit_code in (130, 143, -2, -15):  # the user, or the machine, wants the whole study to stop
            number = -exit_code if exit_code < 0 else exit_code - 128
            raise utils.InterruptedRun("the study was interrupted; the same command continues", number)
        if exit_code:
            failed[name] = exit_code
    synthesize_results.main(["--parent_dir", str(parent_dir)])
    if failed:
        told = ", ".join(f"{name} (exit code {code})" for name, code in failed.items())
        raise utils.Stop(f"{len(failed)} of {len(trials)} trials failed: {told}; the same command tries them again")


if __name__ == "__main__":
    utils.run_script(main)
