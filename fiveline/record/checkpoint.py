"""Checkpoints: ordinary `torch.save` files with the seed's three keys; never unpickled, never loaded when damaged."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import textwrap
import traceback
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiveline.record.atomic import write_atomically
from fiveline.record.check import Result, check_values
from fiveline.record.errors import InputError, explain, is_out_of_memory
from fiveline.record.files import read_bytes
from fiveline.record.script import import_quickly

if TYPE_CHECKING:
    import torch
    from torch import nn


def save_checkpoint(state: Mapping[str, Any], is_best: bool, checkpoint: Path | str) -> None:
    """Save `state`, tensors and builtins only, as `last.pth.tar`, and also as `best.pth.tar` if `is_best`."""
    folder, data = Path(checkpoint), _to_bytes(state)
    if is_best:  # first, so that `last` never claims a best that is not there
        write_atomically(folder / "best.pth.tar", data)
    write_atomically(folder / "last.pth.tar", data, folder / "last.previous.pth.tar")


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Save `state` in one file, atomically."""
    write_atomically(path, _to_bytes(state))


def _to_bytes(state: Mapping[str, Any]) -> memoryview:
    import torch

    buffer = io.BytesIO()  # torch.save into a file would hide that the disk is full
    torch.save(dict(state), buffer)
    return buffer.getbuffer()


def checksum(path: Path) -> str:
    """Return the SHA-256 of a checkpoint's file; evaluate.py records it beside the scores."""
    return hashlib.sha256(_read_file(path)).hexdigest()


def _read_file(path: Path) -> bytes:
    if path.exists():
        return read_bytes(path)
    names = sorted(p.name.removesuffix(".pth.tar") for p in path.parent.glob("*.pth.tar"))
    hint = "the folder has none; train first, or give a path that ends in .pth.tar"
    there = f"there are: {', '.join(names)}" if names else hint
    raise InputError(f"{path}: there is no such checkpoint ({there})")


def _is_damaged(data: bytes) -> bool:
    """Return whether a zip file does not fit its CRC-32s, which `torch.load` ignores; before 2020, torch wrote none."""
    try:
        return data.startswith(b"PK") and zipfile.ZipFile(io.BytesIO(data)).testzip() is not None
    except MemoryError:
        raise
    except Exception:  # a dozen kinds, by where the damage is: BadZipFile, zlib.error, EOFError, ...
        return True


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: ours, or any dict with a `state_dict`, such as CS230's."""
    state = parse_checkpoint(_read_file(path), path)
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise InputError(f"{path}: expected a dict with the key 'state_dict', as train.py and CS230 save it")
    return state


def parse_checkpoint(data: bytes, path: Path) -> Any:
    """Return the tensors and plain values of a checkpoint's file; refuse a damaged one, and one that would run code."""
    if _is_damaged(data):
        raise InputError(f"{path}: damaged (its checksum does not fit its {len(data):,} bytes); it was not loaded")
    import_quickly("torch")  # not before: a missing or damaged file is reported without it
    import torch

    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise a dozen kinds
        if is_out_of_memory(error):
            raise
        # torch's own message is not passed on: it explains how to load the file in spite of the danger
        reason = f"damaged, or not a checkpoint: torch cannot read it ({type(error).__name__})"
        if refused := re.search(r"\bGLOBAL (\S+)", str(error)):
            hint = "; save float(x) or torch.from_numpy(x) in its place" if refused[1].startswith("numpy") else ""
            reason = f"refused, it holds more than tensors and plain values: {refused[1]}{hint}"
        raise InputError(f"{path}: {reason}") from None
    if isinstance(state, dict) and is_of_train(state):
        check_values(Result, state, str(path))
    return state


def checkpoint_path(model_dir: Path, restore_file: str) -> Path:
    """Return the file that --restore_file names: `best` is in the run's directory, `a/b.pth.tar` is a path."""
    path = Path(restore_file)
    if not path.name.endswith(".pth.tar"):
        return model_dir / f"{restore_file}.pth.tar"
    return path if path.exists() or path.name != restore_file else model_dir / restore_file


def scores_name(split: str, path: Path, model_dir: Path) -> str:
    """Return the name of a checkpoint's scores in a run's directory: `test_best`, or `test_of_other_run_best`."""
    stem, folder = path.name.removesuffix(".pth.tar"), path.parent.resolve()
    of_other = f"of_{re.sub(r'[^a-zA-Z0-9_.+=-]', '_', folder.name)[:120]}_" if folder != model_dir.resolve() else ""
    return f"{split}_{of_other}{stem}"


def is_of_train(state: Mapping[str, Any]) -> bool:
    """Return whether train.py saved a checkpoint; CS230's does not hold what it was trained with."""
    return "facts" in state or {"schedule", "best_epoch"} <= state.keys()


@contextlib.contextmanager
def blaming_checkpoint(path: Path | str, key: str) -> Iterator[None]:
    """Turn any error of a block that uses a part of a checkpoint into an InputError that names file and part."""
    try:
        yield
    except Exception as error:  # torch and Python raise a dozen kinds
        if explain(error) is not None:  # out of memory, for example, which is not the checkpoint's mistake
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        where = f"{Path(place.filename).name}, line {place.lineno}"
        hint = "other code saved it, or that line has a bug"
        raise InputError(f"{path}: {key} does not fit this code ({reason}; {where}): {hint}") from error


def load_weights(state: Mapping[str, Any], model: nn.Module, path: Path) -> None:
    """Load the weights of a checkpoint; an InputError lists the keys that are missing, unknown or of another shape."""
    with blaming_checkpoint(path, "state_dict"):
        try:
            model.load_state_dict(state["state_dict"])
        except RuntimeError as error:
            if "Error(s) in loading state_dict" not in str(error):
                raise
            reason = textwrap.shorten(str(error).partition(":")[2], 300, placeholder="...")
            raise InputError(f"{path}: a checkpoint of another net than the params describe: {reason}") from None


def load_checkpoint(
    checkpoint: Path | str, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Load weights, and the optimizer's state if one is given, from a checkpoint file; return all its contents."""
    state = read_checkpoint(Path(checkpoint))
    load_weights(state, model, Path(checkpoint))
    if optimizer is not None:
        with blaming_checkpoint(checkpoint, "optim_dict"):
            optimizer.load_state_dict(state["optim_dict"])
    return state
