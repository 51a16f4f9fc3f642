"""Does a run on this machine, with this task, survive anything? Kill it at random moments and see.

    python train.py --model_dir experiments/base_model --selftest_resume

Trains twice for a few epochs, in temporary directories: once undisturbed, once killed (SIGKILL) again and again and
continued. Both must end with the same weights, optimizer, history and metrics, to the bit. If they do not, a third run,
undisturbed, tells why.
"""

from __future__ import annotations

import contextlib
import math
import random
import reprlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import utils
from fiveline.tasks import fetch_params_class

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
NUM_EPOCHS, NUM_KILLS = 3, 5
MOST_TRIES = 20  # for one kill amid the run at least: of a short run, many come too early or too late
CHECKPOINT_MINUTES = 0.002  # also within an epoch
TIMES = ("seconds", "examples_per_second")
MOST_SHOWN = 12
NOTHING, WHOLE = "nothing was saved yet", "all of it was saved"
NOT_REPEATED = (
    "Two runs that nobody killed differ as well: there are random numbers that `seed` does not decide, or, on a GPU, "
    "operations that add up in any order (deterministic=true)"
)
NOT_SAVED = (
    "Two runs that nobody killed are alike: net, loss or dataset remembers something that no checkpoint holds, such as "
    "a counter (make it a buffer of the net) or a random generator of its own (draw with runtime.example_draws)"
)


def selftest(params: utils.Params, flags: Sequence[str] = ()) -> None:
    """Train twice, as above, print what happened, and compare.

    Args:
        params: of the run to test, whose own directory is left alone
        flags: more for train.py's command line, `--device cpu` for one

    Raises:
        Stop: the two differ, or one of them failed
    """
    num_epochs = min(params.num_epochs, NUM_EPOCHS)
    values = {**params.explicit_values(), "num_epochs": num_epochs, "checkpoint_minutes": CHECKPOINT_MINUTES}
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder, "whole"), Path(folder, "parts")
        for path in (whole, parts):
            path.mkdir()
        utils.save_dict_to_json(values, whole / "params.json")
        print(f"Training {num_epochs} epochs without a break ...", flush=True)
        seconds = finish(whole, flags)
        print(f"- {seconds:.1f} seconds of training. The same again, with kills ...", flush=True)
        num_kills, num_amid = _train_with_kills(parts, values, seconds, flags)
        found = differences(whole, parts)
        cause = _cause(whole, Path(folder, "again"), flags) if found else ""
        _stop_if(found, f"the run that was killed {num_kills} times is another one", cause)
    if num_amid == 0:
        raise utils.Stop(
            f"no kill of {num_kills} came amid what was saved and what was left to do, so this says nothing of "
            "continuing: try again, or with more data or a smaller batch_size, so that training takes longer"
        )
    print(f"The same bits after {num_kills} kills: weights, optimizer, history and metrics")


def _train_with_kills(
    model_dir: Path, values: Mapping[str, Any], seconds: float, flags: Sequence[str]
) -> tuple[int, int]:
    """Train to the end, killed now and then; return how many kills there were, and how many of them came amid the run.

    `seconds` is what the same takes undisturbed.
    """
    # of a run of a second, too, there is to be something to continue from
    values = {**values, "checkpoint_minutes": min(CHECKPOINT_MINUTES, seconds / 60 / 100)}
    utils.save_dict_to_json(values, model_dir / "params.json")
    num_kills, num_amid, least = 0, 0, 0.0
    for _ in range(MOST_TRIES):
        if num_kills >= NUM_KILLS and num_amid:
            break
        delay = least + random.uniform(0, 2 * seconds / NUM_KILLS)
        is_killed = kill_after(delay, model_dir, flags)
        saved, is_amid = _position(model_dir, values["num_epochs"])
        if saved == NOTHING:  # a GPU's first step may take longer than all others
            least = max(least, delay)
        if is_killed:
            num_kills, num_amid = num_kills + 1, num_amid + is_amid
            print(f"- kill {num_kills} after {delay:.2f} s: {saved}", flush=True)
            _stop_if(unreadable(model_dir), "files that cannot be read after a kill")
        if saved == WHOLE:
            if num_amid:
                break
            shutil.rmtree(model_dir)  # too late to tell anything: begin anew
            model_dir.mkdir()
            utils.save_dict_to_json(values, model_dir / "params.json")
    finish(model_dir, flags)
    return num_kills, num_amid


def _stop_if(found: Sequence[str], title: str, cause: str = "") -> None:
    if found:
        more = [f"  and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
        lines = [f"{title}:", *(f"  {line}" for line in found[:MOST_SHOWN]), *more, *([cause] if cause else [])]
        raise utils.Stop("\n".join(lines))


def _cause(whole: Path, again: Path, flags: Sequence[str]) -> str:
    """Train once more, undisturbed, and return why a run that was killed is another one than `whole`."""
    print("- They differ. Once more without a break, to find out why ...", flush=True)
    again.mkdir()
    shutil.copy(whole / "params.json", again)
    try:
        finish(again, flags)
    except utils.Stop as stop:
        return f"Once more without a break, it did not end: {stop}"
    return NOT_REPEATED if differences(whole, again) else NOT_SAVED


def _position(model_dir: Path, num_epochs: int) -> tuple[str, bool]:
    """Return how far a run was saved, and whether that is amid it: something to continue from, and to do."""
    if not (model_dir / "last.pth.tar").exists():
        return NOTHING, False
    state = utils.read_checkpoint(model_dir / "last.pth.tar")
    if state["epoch"] >= num_epochs:
        return WHOLE, False
    return f"epoch {state['epoch'] + 1}, step {state['step']} was saved", True


@contextlib.contextmanager
def training_process(model_dir: Path, flags: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start `train.py` in a directory, wait until it trains, and make sure that it has ended when the block is left.

    Raises:
        Stop: it ends by itself with an error
    """
    command = [sys.executable, str(TRAIN), "--model_dir", str(model_dir), *flags]
    begun = _num_starts(model_dir)
    with tempfile.TemporaryFile() as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            while process.poll() is None and _num_starts(model_dir) == begun:
                time.sleep(0.01)
            yield process
        finally:
            is_killed = process.poll() is None
            process.kill()
        if process.wait() > 0 and not is_killed:  # on Windows, what is killed ends with 1
            output.seek(0)
            text = output.read().decode("utf-8", "replace").strip()
            raise utils.Stop(f"train.py ended with exit code {process.returncode}:\n{text[-2000:]}")


def _num_starts(model_dir: Path) -> int:
    path = model_dir / "train.log"
    return path.read_text(encoding="utf-8", errors="replace").count("Starting training") if path.exists() else 0


def finish(model_dir: Path, flags: Sequence[str] = ()) -> float:
    """Train a run to its end and return the seconds that the training took."""
    with training_process(model_dir, flags) as process:
        start = time.monotonic()
        process.wait()
        return time.monotonic() - start


def kill_after(delay: float, model_dir: Path, flags: Sequence[str] = ()) -> bool:
    """Train for so many seconds, then kill; return whether the process was still there."""
    with training_process(model_dir, flags) as process, contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    return process.returncode != 0


def unreadable(model_dir: Path) -> list[str]:
    """Return a line for each checkpoint, JSON file and history of a run that cannot be read."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".tar": utils.read_checkpoint,
        ".json": utils.read_json,
        ".jsonl": utils.read_lines,
    }
    found = []
    for path in sorted(model_dir.iterdir()):
        if path.suffix in readers and not path.name.startswith("."):
            with contextlib.suppress(utils.InputError):
                readers[path.suffix](path)
                continue
            found.append(f"{path.name} cannot be read")
    return found


def differences(first_dir: Path, second_dir: Path) -> list[str]:
    """Return a line for each thing in which two runs ended differently, times and machine settings aside."""
    found: list[str] = []
    for name in ("last.pth.tar", "best.pth.tar"):
        states = [_without_times(utils.read_checkpoint(path / name)) for path in (first_dir, second_dir)]
        found += _compare(name, states[0], states[1])
    histories = [utils.read_lines(path / "history.jsonl") for path in (first_dir, second_dir)]
    rows = [[{key: row[key] for key in row if key not in TIMES} for row in history] for history in histories]
    found += _compare("history.jsonl", rows[0], rows[1])
    names = {path.name for folder in (first_dir, second_dir) for path in folder.glob("metrics_*.json")}
    for name in sorted(names):
        texts = [path.read_bytes() if path.exists() else b"" for path in (first_dir / name, second_dir / name)]
        found += [f"{name}: other metrics"] if texts[0] != texts[1] else []
    return found


def _without_times(state: Mapping[str, Any]) -> dict[str, Any]:
    machine = utils.machine_settings(fetch_params_class(state["params"]["task"]))
    params = {name: value for name, value in state["params"].items() if name not in machine}
    return {**{key: state[key] for key in state if key not in TIMES}, "params": params}


def _compare(name: str, first: Any, second: Any) -> list[str]:
    """Compare tensors, plain values, and lists and dicts of them, to the bit."""
    if type(first) is not type(second):
        return [f"{name}: {type(first).__name__} and {type(second).__name__}"]
    if isinstance(first, torch.Tensor):
        return _compare_tensors(name, first, second)
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{name}: {', '.join(map(str, sorted(first.keys() ^ second.keys(), key=str)))} in one of them only"]
        return [line for key in first for line in _compare(f"{name} {key}", first[key], second[key])]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f"{name}: {len(first)} and {len(second)} entries"]
        return [line for i in range(len(first)) for line in _compare(f"{name} {i}", first[i], second[i])]
    are_nan = isinstance(first, float) and math.isnan(first) and math.isnan(second)
    return [] if first == second or are_nan else [f"{name}: {reprlib.repr(first)} and {reprlib.repr(second)}"]


def _compare_tensors(name: str, first: torch.Tensor, second: torch.Tensor) -> list[str]:
    if first.dtype != second.dtype or first.shape != second.shape:
        return [f"{name}: {first.dtype} {tuple(first.shape)} and {second.dtype} {tuple(second.shape)}"]
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)]  # NaN equals itself
    if torch.equal(*bits):
        return []
    number = int((first != second).sum())
    gap = float((first.double() - second.double()).abs().max())
    return [f"{name}: {number} of {first.numel()} numbers differ, by up to {gap:.3g}"]
