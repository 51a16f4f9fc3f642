"""Checkpoints: ordinary `torch.save` files with the seed's three keys, sealed with a checksum, never unpickled.

The seal is the comment field that every zip file has: the file stays one that `torch.load` reads, and whoever flips a
bit or cuts a piece off is noticed before anything is loaded.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiveline.record.contents import check_nesting, check_net, fitting
from fiveline.record.errors import TOO_MANY_FILES, InputError, is_out_of_memory
from fiveline.record.files import write_atomically
from fiveline.record.regular import read_bytes
from fiveline.record.script import import_quickly

if TYPE_CHECKING:
    import torch
    from torch import nn

_MARK = b"sha256:"
_SEAL_BYTES = len(_MARK) + 64
_END = b"PK\x05\x06"  # the record that ends a zip file; its last two bytes give the comment's length
_END_BYTES = 22
LONGEST_FOLDER = 120  # bytes of a file's name, which must hold more than that


def _seal(data: memoryview) -> list[bytes | memoryview]:
    """Return a zip file's bytes, in parts, with a SHA-256 of themselves in its comment field; nothing is copied."""
    assert data[-_END_BYTES:-18] == _END and not any(data[-2:]), "torch.save wrote no plain zip file"
    length = _SEAL_BYTES.to_bytes(2, "little")
    digest = hashlib.sha256(data[:-2])
    digest.update(length)
    return [data[:-2], length, _MARK, digest.hexdigest().encode()]


def _verify(data: bytes, path: Path) -> None:
    """Raise InputError unless the bytes are what was written; files of other programs have their zip checksums only."""
    damaged = InputError(f"{path}: damaged (its checksum does not fit its {len(data):,} bytes); it was not loaded")
    mark, digest = data[-_SEAL_BYTES:-64], data[-64:]
    if mark == _MARK:
        if hashlib.sha256(memoryview(data)[:-_SEAL_BYTES]).hexdigest().encode() != digest:  # not copied for it
            raise damaged
    elif data.startswith(b"PK"):
        if data[-_END_BYTES : -_END_BYTES + 4] != _END or any(data[-2:]):  # cut within the comment, or before the seal
            raise damaged
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                broken_entry = archive.testzip()
        except Exception as error:  # a dozen kinds, by where the flip is: BadZipFile, zlib.error, EOFError, ...
            if is_out_of_memory(error):
                raise
            raise damaged from None
        if broken_entry is not None:
            raise damaged
    elif _MARK in data[-2 * _SEAL_BYTES :] or b"PK\x01\x02" in data[-4096:]:
        raise damaged  # a zip file that lost its head, not one of torch's old format


def save_checkpoint(state: Mapping[str, Any], is_best: bool, checkpoint: Path | str) -> None:
    """Save `state` as `last.pth.tar` in a folder, and as `best.pth.tar` too if `is_best`.

    The last one before it stays as `last.previous.pth.tar`, should the new one rot.

    Args:
        state: the seed's keys `epoch`, `state_dict`, `optim_dict`, and whatever else; tensors and builtins only
        is_best: whether these are the best weights so far
        checkpoint: the folder (a `model_dir`)

    Raises:
        OSError: the disk is full or read-only; the old files are untouched
    """
    folder, parts = Path(checkpoint), _to_parts(state)
    if is_best:  # first, so that `last` never says that a best was found which is not there
        write_atomically(folder / "best.pth.tar", parts)
    write_atomically(folder / "last.pth.tar", parts, folder / "last.previous.pth.tar")


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Save `state` in one file, atomically and with its checksum."""
    write_atomically(path, _to_parts(state))


def _to_parts(state: Mapping[str, Any]) -> list[bytes | memoryview]:
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return _seal(buffer.getbuffer())


def checksum(path: Path) -> str:
    """Return the SHA-256 of a checkpoint's file, to tell it from one that takes its place.

    Raises:
        InputError: no such file, or it cannot be read
    """
    return hashlib.sha256(_read_bytes(path)).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        names = sorted(p.name.removesuffix(".pth.tar") for p in path.parent.glob("*.pth.tar"))
        there = f"there are: {', '.join(names)}" if names else "there is none at all; train first"
        if not path.parent.is_dir():
            there = "nor a folder for it; expected best, last, or a path that ends in .pth.tar"
        raise InputError(f"{path}: there is no such checkpoint ({there})") from None
    except OSError as error:
        if error.errno in TOO_MANY_FILES:  # which says nothing about this one
            raise
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, on the CPU.

    Args:
        path: a file of `save_checkpoint`, or of any code that saved a dict with a `state_dict` (CS230's, for one)

    Raises:
        InputError: no such file, damaged, not a checkpoint, or one that would run code when loaded
    """
    data = _read_bytes(path)
    _verify(data, path)
    import_quickly("torch")  # here, because a missing or damaged file is told without it
    import torch

    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise a dozen kinds, by where a file stops making sense
        if is_out_of_memory(error):  # says nothing about the file
            raise
        # torch's own message is not passed on: it explains how to load the file nevertheless
        refused = re.search(r"\bGLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused:
            hint = "; save float(x) or torch.from_numpy(x) in its place" if refused[1].startswith("numpy") else ""
            raise InputError(
                f"{path}: refused, it holds more than tensors and plain values: {refused[1]}{hint}"
            ) from None
        raise InputError(f"{path}: not a checkpoint that torch can read ({type(error).__name__})") from None
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise InputError(f"{path}: expected a dict with the key 'state_dict', as train.py and CS230 save it")
    check_nesting(state, path)
    if is_ours(state):
        check_net(state, path)
    return state


def checkpoint_path(model_dir: Path, restore_file: str) -> Path:
    """Return the file that --restore_file means: `best` is one of the run's directory, `a/b.pth.tar` is a path.

    `best.pth.tar`, where there is no such file here, is `best`.
    """
    path = Path(restore_file)
    if not path.name.endswith(".pth.tar"):
        return model_dir / f"{restore_file}.pth.tar"
    return path if path.exists() or path.name != restore_file else model_dir / restore_file


def scores_name(split: str, path: Path, model_dir: Path) -> str:
    """Return what the scores of a checkpoint are called in a run's directory: `test_best`.

    Those of a checkpoint that is kept elsewhere name its folder, `test_of_other_run_best`: they are not the run's own.
    """
    stem, folder = path.name.removesuffix(".pth.tar"), path.parent.resolve()
    if folder == model_dir.resolve():
        return f"{split}_{stem}"
    safe = re.sub(r"[^\w.+=-]", "_", folder.name).encode()[:LONGEST_FOLDER].decode(errors="ignore")
    return f"{split}_of_{safe}_{stem}"


def is_ours(state: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint says what it was trained with, as ours do and CS230's do not."""
    return "facts" in state or {"schedule", "best_epoch"} <= state.keys()


def load_weights(state: Mapping[str, Any], model: nn.Module, path: Path) -> None:
    """Load the weights of a checkpoint into a model.

    Args:
        state: from `read_checkpoint`
        model: the net that the hyperparameters describe
        path: the checkpoint's, for the message

    Raises:
        InputError: it is a checkpoint of another net; says which keys are missing, unknown or of another shape
    """
    theirs: dict[str, torch.Tensor] = state["state_dict"]
    ours = model.state_dict()
    missing = [key for key in ours if key not in theirs and not key.endswith("num_batches_tracked")]
    unknown = [key for key in theirs if key not in ours]
    shapes = [
        f"{key} {_shape(theirs[key])} instead of {_shape(ours[key])}"
        for key in ours
        if key in theirs and _shape(theirs[key]) != _shape(ours[key])
    ]
    reasons = [("it lacks", missing), ("it has besides", unknown), ("of another shape", shapes)]
    if any(keys for _, keys in reasons):
        told = "; ".join(f"{reason} {_first(keys)}" for reason, keys in reasons if keys)
        raise InputError(f"{path}: a checkpoint of another net than the params describe: {told}")
    with fitting(path, "state_dict"):
        model.load_state_dict(
            theirs, strict=False
        )  # strict but for num_batches_tracked, which PyTorch 0.4 did not have


def _shape(value: Any) -> Any:
    return tuple(value.shape) if hasattr(value, "shape") else type(value).__name__


def _first(keys: list[str], most: int = 4) -> str:
    return ", ".join(map(str, keys[:most])) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def load_checkpoint(
    checkpoint: Path | str, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Load weights, and the optimizer's state if one is given, from a checkpoint file; return all that it holds.

    Raises:
        InputError: as `read_checkpoint` and `load_weights` say, or there is no such optimizer's state in it
    """
    state = read_checkpoint(Path(checkpoint))
    load_weights(state, model, Path(checkpoint))
    if optimizer is not None:
        try:
            optimizer.load_state_dict(state["optim_dict"])
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(f"{checkpoint}: holds no state for this optimizer ({error})") from None
    return state
