"""Does a run on this machine, with this task, survive SIGKILL at random moments?

    python sanity_check.py --model_dir experiments/base_model --selftest_resume

Trains twice for a few epochs, in temporary directories: once undisturbed, once killed and resumed again and again. Both
must end with the same weights, optimizer, history and metrics, to the bit. If not, a third run looks for the cause.
"""

from __future__ import annotations

import contextlib
import random
import reprlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import utils
from fiveline.tasks import fetch_params_class

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
NUM_EPOCHS, NUM_KILLS = 3, 5
CHECKPOINT_MINUTES = 0.002  # also within an epoch
READERS: dict[str, Any] = {".tar": utils.read_checkpoint, ".json": utils.read_json, ".jsonl": utils.read_lines}
TIMES = ("seconds", "examples_per_second")
MAX_SHOWN = 12
NOT_REPEATED = "Two undisturbed runs differ as well: `seed` does not decide everything (on a GPU, see `deterministic`)"
NOT_SAVED = (
    "Two undisturbed runs are the same: net, loss or dataset has a state that no checkpoint holds, such as a "
    "counter (make it a buffer of the net) or its own random generator (draw in set_epoch, with device.epoch_draws)"
)


def selftest(params: utils.Params, flags: Sequence[str] = ()) -> int:
    """Train twice, as above, with further flags for train.py, and compare; the run's own directory is left alone.

    Returns the number of kills.

    Raises:
        Stop: the two runs differ, or one of them failed
    """
    values = {**params.explicit_values(), "num_epochs": min(params.num_epochs, NUM_EPOCHS)}
    values.pop("num_steps", None)  # it would decide num_epochs
    with tempfile.TemporaryDirectory() as folder:

        def new_run(name: str, checkpoint_minutes: float = CHECKPOINT_MINUTES) -> Path:
            path = Path(folder, name)
            path.mkdir()
            utils.save_dict_to_json({**values, "checkpoint_minutes": checkpoint_minutes}, path / "params.json")
            return path

        print(f"Training {values['num_epochs']} epochs without a break ...", flush=True)
        _, seconds = train_once(whole := new_run("whole"), flags)
        print(f"- {seconds:.1f} seconds. The same again, with kills ...", flush=True)
        # so that even a run of one second saves something to resume from
        parts = new_run("parts", min(CHECKPOINT_MINUTES, seconds / 60 / 100))
        num_kills = 0
        while num_kills < NUM_KILLS and _is_cut_short(parts, random.uniform(0, 2 * seconds / NUM_KILLS), flags):
            num_kills += 1
        train_once(parts, flags)
        if found := differences(whole, parts):
            print("- They differ. Once more without a break, to find the cause ...", flush=True)
            train_once(again := new_run("again"), flags)
            lines = [f"the run that was killed {num_kills} times ended differently:", *found[:MAX_SHOWN]]
            lines.append(NOT_REPEATED if differences(whole, again) else NOT_SAVED)
            raise utils.Stop("\n  ".join(lines))
    if num_kills == 0:
        raise utils.Stop("the run ended before the first kill: try again, or train longer, with more data for example")
    print(f"The same bits after {num_kills} kills: weights, optimizer, history and metrics")
    return num_kills


def _is_cut_short(model_dir: Path, delay: float, flags: Sequence[str]) -> bool:
    """Train and kill; return whether there is something left to train."""
    is_killed, _ = train_once(model_dir, flags, delay)
    if found := unreadable(model_dir):
        raise utils.Stop("\n  ".join(["files that cannot be read after a kill:", *found]))
    state = utils.read_checkpoint(model_dir / "last.pth.tar")
    print(f"- {'killed' if is_killed else 'ended'} after {state['epoch']} epochs and {state['step']} steps", flush=True)
    return is_killed and state["epoch"] < state["params"]["num_epochs"]


def train_once(model_dir: Path, flags: Sequence[str] = (), delay: float | None = None) -> tuple[bool, float]:
    """Run `train.py` to its end, or kill it `delay` seconds after its first save, so that each start gets further.

    Returns:
        whether it was killed, and the seconds since the first save
    """
    path = model_dir / "last.pth.tar"
    before = path.stat().st_mtime if path.exists() else None
    command, start = [sys.executable, str(TRAIN), "--model_dir", str(model_dir), *flags], time.monotonic()
    with tempfile.TemporaryFile() as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            while process.poll() is None and (path.stat().st_mtime if path.exists() else None) == before:
                time.sleep(0.01)
            start = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
        finally:
            seconds, is_killed = time.monotonic() - start, process.poll() is None
            process.kill()
        if process.wait() > 0 and not is_killed:  # on Windows, a killed process ends with 1
            output.seek(0)
            printed = output.read().decode("utf-8", "replace").strip()
            raise utils.Stop(f"train.py ended with exit code {process.returncode}:\n{printed[-2000:]}")
    return process.returncode != 0, seconds


def unreadable(model_dir: Path) -> list[str]:
    """Return a line for each checkpoint, JSON file and history of a run that cannot be read."""
    found = []
    for path in sorted(model_dir.glob("[!.]*")):
        if path.suffix in READERS:
            try:
                READERS[path.suffix](path)
            except utils.InputError:
                found.append(f"{path.name} cannot be read")
    return found


def differences(first_dir: Path, second_dir: Path) -> list[str]:
    """Return a line for each difference between the ends of two runs; times and machine settings do not count."""
    return _compare("", _contents(first_dir), _contents(second_dir))


def _contents(model_dir: Path) -> dict[str, Any]:
    """Return the contents of the files to compare, by name."""
    contents = dict[str, Any]()
    for name in ("last.pth.tar", "best.pth.tar"):
        state = utils.read_checkpoint(model_dir / name)
        machine = utils.machine_settings(fetch_params_class(state["params"]["task"]))
        params = {key: value for key, value in state["params"].items() if key not in machine}
        contents[name] = {**{key: state[key] for key in state if key not in TIMES}, "params": params}
    rows = utils.read_lines(model_dir / "history.jsonl")
    contents["history.jsonl"] = [{key: row[key] for key in row if key not in TIMES} for row in rows]
    return {**contents, **{path.name: utils.read_json(path) for path in sorted(model_dir.glob("metrics_*.json"))}}


def _compare(name: str, first: Any, second: Any) -> list[str]:
    """Compare tensors, plain values, and lists and dicts of them, to the bit."""
    if type(first) is type(second) and isinstance(first, (dict, list, tuple)):
        ours, theirs = (dict(entry if isinstance(entry, dict) else enumerate(entry)) for entry in (first, second))
        found = [f"{name} {key}: in one of them only".lstrip() for key in sorted(ours.keys() ^ theirs.keys(), key=str)]
        for key in (key for key in ours if key in theirs):
            found += _compare(f"{name} {key}".lstrip(), ours[key], theirs[key])
        return found
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            return [f"{name}: {first.dtype} {tuple(first.shape)} and {second.dtype} {tuple(second.shape)}"]
        if torch.equal(*(each.contiguous().reshape(-1).view(torch.uint8) for each in (first, second))):
            return []  # the same bits: NaN equals itself
        number, gap = int((first != second).sum()), float((first.double() - second.double()).abs().max())
        return [f"{name}: {number} of {first.numel()} numbers differ, by up to {gap:.3g}"]
    is_same = type(first) is type(second) and repr(first) == repr(second)  # NaN equals itself
    return [] if is_same else [f"{name}: {reprlib.repr(first)} and {reprlib.repr(second)}"]
