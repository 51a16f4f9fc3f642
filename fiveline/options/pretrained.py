"""Start from trained weights, `pretrained: PATH`: a file, or the directory of another run, for its best weights.

The last layer keeps its random weights if its classes differ. Every other tensor of the net needs a trained tensor of
the same name and shape. A net may have, each optional:

    renamed(weights)    returns the weights of other code, a dict, under the net's names
    published()         returns the weights for `pretrained: true`, and a text that names them
    named_by            dict: tensor -> the fact, a list, that names its rows (of an embedding) or its columns; and
                        "outputs" -> the fact that names the rows of the last layer, if it is not `classes`
"""

from __future__ import annotations

import collections
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import utils

KEYS = ("state_dict", "model", "model_state_dict")  # a file with more than weights has them under such a key
PREFIXES = ("module.", "model.")  # DistributedDataParallel and Lightning put them before all names


class Source(NamedTuple):
    """Weights to start from, and their source."""

    weights: Mapping[str, Tensor]
    name: str
    sha256: str | None  # the file's checksum
    facts: Mapping[str, Any] | None  # facts of the run that trained them; None: unknown


def read_source(params: utils.Params) -> Source | None:
    """Return the weights in the file that `pretrained` names; None if it is a boolean. InputError: a broken file."""
    if not isinstance(params.pretrained, str):
        return None
    path = Path(params.pretrained)
    path = path / "best.pth.tar" if path.is_dir() else path
    try:
        data = utils.read_bytes(path)
        parse = _parse_safetensors if path.suffix == ".safetensors" else utils.parse_checkpoint
        state: Any = parse(data, path)
    except utils.InputError as error:
        raise utils.InputError(f"pretrained: {error}") from None
    state = state if isinstance(state, dict) else {"": state}
    weights = next((state[key] for key in KEYS if isinstance(state.get(key), dict)), state)
    if not weights or not all(isinstance(key, str) and isinstance(weights[key], Tensor) for key in weights):
        found = ", ".join(f"{name} ({type(weights[name]).__name__})" for name in list(weights)[:4])
        raise utils.InputError(
            f"pretrained: {path}: expected tensors by name, alone or under {', '.join(KEYS)}; found {found or 'none'}"
        )
    facts = state["facts"] if utils.is_of_train(state) else None
    return Source(weights, str(path), hashlib.sha256(data).hexdigest(), facts)


def _parse_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError:
        raise utils.InputError(f"{path}: needs a package that is not installed; pip install safetensors") from None
    try:
        return load(data)
    except SafetensorError as error:
        raise utils.InputError(f"{path}: damaged, or not a safetensors file ({error})") from None


@torch.no_grad()
def initialize(net: Any, params: utils.Params, source: Source | None) -> dict[str, Any] | None:
    """Give a new net its first weights, from `read_source`; return their source, for run.json.

    Raises:
        InputError: the weights belong to another net
    """
    if hasattr(net, "initialize"):
        net.initialize()
    if params.pretrained is False:
        return None
    if source is None and not hasattr(net, "published"):
        raise utils.InputError("pretrained=true: this net has no published weights; name a file or a run's directory")
    if source is None:
        weights, name = net.published()
        source = Source(weights, name, None, facts={})  # without classes the last layer stays new
    own, weights = net.state_dict(), _renamed(net, source.weights)
    matched = _match_names(net, weights, source.facts or {}, params.facts)
    new = _find_new(net, weights, source.facts, params.facts)
    if len(new) == len(own):
        raise utils.InputError(f"pretrained: {source.name}: the net has no layer but the last, whose classes differ")
    weights.update({name: own[name] for name in new})
    try:
        utils.load_weights({"state_dict": weights}, net, Path(source.name))
    except utils.InputError as error:
        raise utils.InputError(f"pretrained: {error}") from None
    notes = [f"- Loaded {len(own) - len(new)} of {len(own)} tensors from {source.name}"]
    notes += [f"new: {', '.join(new)}"] if new else []
    logging.info("; ".join([*notes, *matched]))
    return {"source": source.name, "sha256": source.sha256, "new": new}


def _renamed(net: Any, weights: Mapping[str, Tensor]) -> Any:
    """Return weights under the net's names: without the prefixes of wrappers, and as its `renamed` returns them."""
    found = {name.replace("_orig_mod.", ""): weight for name, weight in weights.items()}  # torch.compile puts it there
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in found) and not next(iter(net.state_dict()), "").startswith(prefix):
            found = {name.removeprefix(prefix): weight for name, weight in found.items()}
    result: Any = collections.OrderedDict(net.renamed(found) if hasattr(net, "renamed") else found)
    result._metadata = getattr(weights, "_metadata", {})  # versions, by which modules of torchvision read old names
    return result


def _match_names(net: nn.Module, weights: Any, their_facts: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Put the vectors of words, or the columns of features, where the net has the same word or feature; list them."""
    notes, own = [], net.state_dict()
    for name, fact in getattr(net, "named_by", {}).items():
        theirs, ours = their_facts.get(fact) or [], facts.get(fact) or []
        if name not in own.keys() & weights.keys() or not (theirs and ours):
            continue
        if theirs == ours and weights[name].shape == own[name].shape:
            continue
        axis = 0 if isinstance(net.get_submodule(name.rpartition(".")[0]), nn.Embedding) else 1
        if weights[name].select(axis, 0).shape == own[name].select(axis, 0).shape:  # else it is of another net
            places = {each: place for place, each in enumerate(theirs)}
            pairs = [(place, places[each]) for place, each in enumerate(ours) if each in places]
            to, from_ = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
            rows = weights[name].index_select(axis, from_).to(own[name].dtype)
            weights[name] = own[name].index_copy(axis, to, rows)
            notes.append(f"{name}: {len(pairs)} of {len(ours)} {fact}")
    return notes


def _find_new(net: nn.Module, weights: Mapping[str, Tensor], theirs: Any, facts: Mapping[str, Any]) -> list[str]:
    """Return the names of the last layer's tensors if it stays new: its classes differ, or its weights do not fit."""
    own, fact = net.state_dict(), getattr(net, "named_by", {}).get("outputs", "classes")
    last = [name for name, weight in net.named_parameters(remove_duplicate=False) if weight.ndim > 1][-1]
    names = [name for name in own if name.rpartition(".")[0] == last.rpartition(".")[0]]
    fits = all(name in weights and weights[name].shape == own[name].shape for name in names)
    return [] if fits and (theirs is None or theirs.get(fact) == facts.get(fact)) else names
