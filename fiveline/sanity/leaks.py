"""Checks for answers that leak: examples of one split in another one, and inputs that hold their own labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fiveline.device import map_tensors, tensors_of
from fiveline.metrics import IGNORED_LABEL
from fiveline.sanity import Finding
from fiveline.sanity.context import Context
from fiveline.sanity.evaluation import TOLERANCE, warm
from fiveline.sanity.survey import Survey, survey

NEAR_IMAGES, NEAR_ROWS = 0.004, 0.0004  # squared distance of thumbnails of length 1; of rows, in stds, by feature
MAX_EQUAL = 0.8  # share of the scored tokens; the last label of a sequence need not be among its tokens
MAX_LEAKED = 0.01  # share of a split that may be in train before that is a failure


def leaks(context: Context) -> Finding:
    """Is an example in two splits, exactly or nearly?"""
    train = survey(context, "train")
    known, found, status, values = set(train.inputs), [], "PASS", dict[str, Any]()
    repeats = 1 - len(known) / len(train.inputs)  # rows of few categories repeat by themselves
    for split in [split for split in context.datasets if split != "train"]:
        other, ids = survey(context, split), context.datasets[split].ids
        is_exact = torch.tensor([content in known for content in other.inputs])
        is_near = _near(other, train) & ~is_exact
        exact, near = int(is_exact.sum()), int(is_near.sum())
        positions = [other.positions[i] for i in torch.nonzero(is_exact | is_near).flatten().tolist()]
        names = [position if ids is None else ids[position] for position in positions]
        values[split] = {"exact": exact, "near": near, "examples": names[:100]}
        if names:
            kinds = [f"{number} {how}" for number, how in ((exact, "exactly"), (near, "nearly")) if number]
            found.append(f"{' and '.join(kinds)}, of {other.size} of {split} (example {names[0]})")
            is_bad = exact > max(MAX_LEAKED, repeats) * len(other.positions)
            status = "FAIL" if is_bad or status == "FAIL" else "WARN"
    notes = f"; within train, {repeats:.1%} repeat" if repeats > MAX_LEAKED else ""
    notes += f"; test was not checked ({context.no_test_reason})" if context.no_test_reason else ""
    if not found:
        summary = f"no example of {' or '.join(values)} is in train, exactly or nearly ({train.size} of train)"
        return Finding("PASS", f"{summary}{notes}", values=values)
    advice = "take them out of train or of the other split: scores on them measure memorisation (--json names them)"
    return Finding(status, f"also in train: {'; '.join(found)}{notes}", advice, values)


def _near(other: Survey, train: Survey) -> Tensor:
    """Return which examples are nearly one of train: (num_examples,), bool."""
    if other.texts is not None and train.texts is not None:
        texts = set(train.texts) - {""}
        return torch.tensor([each in texts for each in other.texts])
    ours, theirs = other.numbers, train.numbers
    if ours is None or theirs is None or ours.shape[1:] != theirs.shape[1:]:
        return torch.zeros(len(other.inputs), dtype=torch.bool)
    if other.is_image:
        return torch.cdist(ours, theirs).amin(dim=1).square() < NEAR_IMAGES
    mean, scale = theirs.mean(dim=0), theirs.std(dim=0).clamp(min=1e-6) * theirs.shape[1] ** 0.5
    distances = torch.cdist((ours - mean) / scale, (theirs - mean) / scale)
    return distances.amin(dim=1).square() < NEAR_ROWS


def visible_answers(context: Context) -> Finding:
    """Do tokens, or what a net sees of them, hold the labels that it must predict?"""
    inputs, labels = next(iter(context.sample("train", context.small_batch_size)))
    found = [t for t in tensors_of(inputs) if t.dtype == torch.int64 and t.shape == labels.shape]
    if labels.dim() != 2 or labels.is_floating_point() or not found:
        return Finding("PASS", "the inputs are not tokens with a label each")
    tokens = found[0]
    is_varied = len(labels[labels != IGNORED_LABEL].unique()) > 1
    if is_varied and _share_equal(tokens, labels) > MAX_EQUAL:
        explanation = "the labels are the input tokens themselves: the net only has to copy them"
        return Finding("FAIL", explanation, "a language model predicts the next token: labels = tokens[1:]")
    if not (is_varied and _share_equal(tokens[:, 1:], labels[:, :-1]) > MAX_EQUAL):
        return Finding("PASS", "the labels are not among the input tokens")
    effect = _effect_of_later_tokens(context, inputs, tokens)
    summary = f"the labels are the next tokens; changing later tokens changes outputs by {effect:.1g} of their spread"
    if not effect <= TOLERANCE:
        advice = "mask the attention (is_causal=True), and use no bidirectional layer: no position may see later ones"
        explanation = f"the net sees the tokens that it must predict: {summary}"
        return Finding("FAIL", explanation, advice, {"difference": effect})
    return Finding("PASS", summary, values={"difference": effect})


def _share_equal(tokens: Tensor, labels: Tensor) -> float:
    return float((tokens == labels)[labels != IGNORED_LABEL].float().mean())  # NaN without a scored label


def _effect_of_later_tokens(context: Context, inputs: Any, tokens: Tensor) -> float:
    """Swap the second half of each sequence; return the largest change of first-half outputs, over their spread."""
    model, half = warm(context).eval(), tokens.shape[1] // 2

    def with_other_ending(tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.int64 or tensor.shape != tokens.shape:
            return tensor
        return torch.cat([tensor[:, :half], tensor.roll(1, dims=0)[:, half:]], dim=1)

    with torch.inference_mode():
        before, after = (model(each) for each in (inputs, map_tensors(with_other_ending, inputs)))
    dim = 1 if before.shape[:2] == tokens.shape else 2  # the classes come last, or second
    return float((after - before).narrow(dim, 0, half).abs().max()) / (float(before.std()) + 1e-12)
