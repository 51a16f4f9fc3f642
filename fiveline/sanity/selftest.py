"""Does a run on this machine, with this task, survive SIGKILL at random moments?

    python train.py --model_dir experiments/base_model --selftest_resume

Trains twice for a few epochs, in temporary directories: once undisturbed, once killed and resumed again and again. Both
must end with the same weights, optimizer, history and metrics, to the bit. If not, a third run looks for the cause.
"""

from __future__ import annotations

import contextlib
import random
import reprlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import utils
from fiveline.tasks import fetch_params_class

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
NUM_EPOCHS, NUM_KILLS, MAX_TRIES = 3, 5, 20  # in a short run, many kills come too early or too late
CHECKPOINT_MINUTES = 0.002  # also within an epoch
TIMES = ("seconds", "examples_per_second")
MAX_SHOWN = 12
NOTHING, WHOLE = "nothing was saved yet", "all of it was saved"
NOT_REPEATED = (
    "Two undisturbed runs differ as well: there are random numbers that `seed` does not decide, or, on a GPU, "
    "operations that add up in any order (deterministic=true)"
)
NOT_SAVED = (
    "Two undisturbed runs are alike: net, loss or dataset remembers something that no checkpoint holds, such as a "
    "counter (make it a buffer of the net) or its own random generator (draw in set_epoch, with device.epoch_draws)"
)


def selftest(params: utils.Params, flags: Sequence[str] = ()) -> None:
    """Train twice, as above, with further flags for train.py, and compare; the run's own directory is left alone.

    Raises:
        Stop: the two runs differ, or one of them failed
    """
    num_epochs = min(params.num_epochs, NUM_EPOCHS)
    values = {**params.explicit_values(), "num_epochs": num_epochs, "checkpoint_minutes": CHECKPOINT_MINUTES}
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder, "whole"), Path(folder, "parts")
        _write_params(whole, values)
        print(f"Training {num_epochs} epochs without a break ...", flush=True)
        seconds = finish(whole, flags)
        print(f"- {seconds:.1f} seconds of training. The same again, with kills ...", flush=True)
        # so that even a run of one second saves something to resume from
        values["checkpoint_minutes"] = min(CHECKPOINT_MINUTES, seconds / 60 / 100)
        num_kills, num_resumed = _train_with_kills(parts, values, seconds, flags)
        if found := differences(whole, parts):
            cause = _find_cause(whole, Path(folder, "again"), flags)
            _stop(f"the run that was killed {num_kills} times ended differently:", found, cause)
    if num_resumed == 0:
        raise utils.Stop(
            f"each of {num_kills} kills came before the first save or after the last, so this shows nothing about "
            "resuming: try again, or with more data or a smaller batch_size, so that training takes longer"
        )
    print(f"The same bits after {num_kills} kills: weights, optimizer, history and metrics")


def _write_params(model_dir: Path, values: Mapping[str, Any]) -> None:
    shutil.rmtree(model_dir, ignore_errors=True)
    model_dir.mkdir()
    utils.save_dict_to_json(values, model_dir / "params.json")


def _train_with_kills(
    model_dir: Path, values: Mapping[str, Any], seconds: float, flags: Sequence[str]
) -> tuple[int, int]:
    """Train to the end, with kills; return how many there were, and after how many there was something to resume."""
    _write_params(model_dir, values)
    num_kills, num_resumed, least = 0, 0, 0.0
    for _ in range(MAX_TRIES):
        if num_kills >= NUM_KILLS and num_resumed:
            break
        delay = least + random.uniform(0, 2 * seconds / NUM_KILLS)
        is_killed, saved = kill_after(delay, model_dir, flags), _position(model_dir, values["num_epochs"])
        if saved == NOTHING:  # a GPU's first step may take longer than all others
            least = max(least, delay)
        if is_killed:
            num_kills, num_resumed = num_kills + 1, num_resumed + (saved not in (NOTHING, WHOLE))
            print(f"- kill {num_kills} after {delay:.2f} s: {saved}", flush=True)
            if found := unreadable(model_dir):
                _stop("files that cannot be read after a kill:", found)
        if saved == WHOLE:
            if num_resumed:
                break
            _write_params(model_dir, values)  # the kill came too late to show anything: start over
    finish(model_dir, flags)
    return num_kills, num_resumed


def _stop(title: str, found: Sequence[str], cause: str = "") -> None:
    more = [f"and {len(found) - MAX_SHOWN} more"] if len(found) > MAX_SHOWN else []
    lines = [title, *(f"  {line}" for line in [*found[:MAX_SHOWN], *more]), cause]
    raise utils.Stop("\n".join(lines).rstrip())


def _find_cause(whole: Path, again: Path, flags: Sequence[str]) -> str:
    """Train once more, undisturbed, and return why a killed run differs from `whole`."""
    print("- They differ. Once more without a break, to find the cause ...", flush=True)
    again.mkdir()
    shutil.copy(whole / "params.json", again)
    try:
        finish(again, flags)
    except utils.Stop as stop:
        return f"Once more without a break, it failed: {stop}"
    return NOT_REPEATED if differences(whole, again) else NOT_SAVED


def _position(model_dir: Path, num_epochs: int) -> str:
    """Return how much of a run was saved, in words."""
    if not (model_dir / "last.pth.tar").exists():
        return NOTHING
    state = utils.read_checkpoint(model_dir / "last.pth.tar")
    is_whole = state["epoch"] >= num_epochs
    return WHOLE if is_whole else f"epoch {state['epoch'] + 1}, step {state['step']} was saved"


def train_for(delay: float | None, model_dir: Path, flags: Sequence[str] = ()) -> tuple[bool, float]:
    """Run `train.py`, kill it `delay` seconds after training began; return whether it was killed, and the seconds."""
    command = [sys.executable, str(TRAIN), "--model_dir", str(model_dir), *flags]
    num_starts = _num_starts(model_dir)
    start = time.monotonic()
    with tempfile.TemporaryFile() as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            while process.poll() is None and _num_starts(model_dir) == num_starts:
                time.sleep(0.01)
            start = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
        finally:
            seconds, is_killed = time.monotonic() - start, process.poll() is None
            process.kill()
        if process.wait() > 0 and not is_killed:  # on Windows, a killed process ends with 1
            output.seek(0)
            text = output.read().decode("utf-8", "replace").strip()
            raise utils.Stop(f"train.py ended with exit code {process.returncode}:\n{text[-2000:]}")
    return process.returncode != 0, seconds


def _num_starts(model_dir: Path) -> int:
    path = model_dir / "train.log"
    return path.read_text(encoding="utf-8", errors="replace").count(" epoch(s) on ") if path.exists() else 0


def finish(model_dir: Path, flags: Sequence[str] = ()) -> float:
    """Train a run to its end and return the seconds that the training took."""
    return train_for(None, model_dir, flags)[1]


def kill_after(delay: float, model_dir: Path, flags: Sequence[str] = ()) -> bool:
    """Train for `delay` seconds, then kill; return False if the run had ended before."""
    return train_for(delay, model_dir, flags)[0]


def unreadable(model_dir: Path) -> list[str]:
    """Return a line for each checkpoint, JSON file and history of a run that cannot be read."""
    readers: dict[str, Any] = {".tar": utils.read_checkpoint, ".json": utils.read_json, ".jsonl": utils.read_lines}
    found = []
    for path in sorted(model_dir.iterdir()):
        if path.suffix in readers and not path.name.startswith("."):
            try:
                readers[path.suffix](path)
            except utils.InputError:
                found.append(f"{path.name} cannot be read")
    return found


def differences(first_dir: Path, second_dir: Path) -> list[str]:
    """Return a line for each difference between the ends of two runs; times and machine settings do not count."""
    folders, found = (first_dir, second_dir), list[str]()
    for name in ("last.pth.tar", "best.pth.tar"):
        found += _compare(name, *(_without_times(utils.read_checkpoint(folder / name)) for folder in folders))
    histories = [utils.read_lines(folder / "history.jsonl") for folder in folders]
    rows = [[{key: row[key] for key in row if key not in TIMES} for row in history] for history in histories]
    found += _compare("history.jsonl", *rows)
    metrics = [{path.name: path.read_bytes() for path in folder.glob("metrics_*.json")} for folder in folders]
    names = sorted({**metrics[0], **metrics[1]})
    return found + [f"{name}: other metrics" for name in names if metrics[0].get(name) != metrics[1].get(name)]


def _without_times(state: Mapping[str, Any]) -> dict[str, Any]:
    machine = utils.machine_settings(fetch_params_class(state["params"]["task"]))
    params = {name: value for name, value in state["params"].items() if name not in machine}
    return {**{key: state[key] for key in state if key not in TIMES}, "params": params}


def _compare(name: str, first: Any, second: Any) -> list[str]:
    """Compare tensors, plain values, and lists and dicts of them, to the bit."""
    if type(first) is type(second) and isinstance(first, (dict, list, tuple)):
        ours, theirs = (dict(entry if isinstance(entry, dict) else enumerate(entry)) for entry in (first, second))
        only = [f"{name} {key}: in one of them only" for key in sorted(ours.keys() ^ theirs.keys(), key=str)]
        return only + [
            line for key in ours if key in theirs for line in _compare(f"{name} {key}", ours[key], theirs[key])
        ]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.dtype != second.dtype or first.shape != second.shape:
            return [f"{name}: {first.dtype} {tuple(first.shape)} and {second.dtype} {tuple(second.shape)}"]
        bits = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second))
        if torch.equal(*bits):  # NaN equals itself
            return []
        number, gap = int((first != second).sum()), float((first.double() - second.double()).abs().max())
        return [f"{name}: {number} of {first.numel()} numbers differ, by up to {gap:.3g}"]
    are_same = type(first) is type(second) and repr(first) == repr(second)  # so that NaN equals itself
    return [] if are_same else [f"{name}: {reprlib.repr(first)} and {reprlib.repr(second)}"]
