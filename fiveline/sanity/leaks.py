"""Checks for answers that leak: examples of one split in another one, and inputs that hold their own labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fiveline.device import map_tensors, tensors_of
from fiveline.metrics import IGNORED_LABEL
from fiveline.sanity.context import Context, Finding
from fiveline.sanity.evaluation import TOLERANCE, warm
from fiveline.sanity.survey import Survey

NEAR_IMAGES, NEAR_ROWS = 0.004, 0.0004  # squared distance of thumbnails of length 1; of rows, in stds, by feature
MOST_EQUAL = 0.8  # share of the scored tokens; the last label of a sequence need not be among its tokens
MOST_LEAKED = 0.01  # share of a split that may be in train before that is a failure


def leaks(context: Context) -> Finding:
    """Is an example in two splits, as it is or nearly so?"""
    surveys = {split: context.survey(split) for split in context.splits}
    known, found, status = set(surveys["train"].inputs), [], "PASS"
    values: dict[str, Any] = {}
    twins = 1 - len(known) / len(surveys["train"].inputs)  # rows of few categories are alike by themselves
    for split in [split for split in context.splits if split != "train"]:
        survey = surveys[split]
        is_exact = torch.tensor([content in known for content in survey.inputs])
        is_near = _near(survey, surveys["train"]) & ~is_exact
        exact, near = int(is_exact.sum()), int(is_near.sum())
        ids = context.plain[split].ids
        positions = [survey.positions[i] for i in torch.nonzero(is_exact | is_near).flatten().tolist()]
        names = [ids[position] if ids is not None else position for position in positions]
        values[split] = {"exact": exact, "near": near, "examples": names[:100]}
        if exact or near:
            kinds = ([f"{exact} as they are"] if exact else []) + ([f"{near} nearly so"] if near else [])
            found.append(f"{' and '.join(kinds)} of {survey.told} of {split} (example {names[0]})")
            is_bad = exact > max(MOST_LEAKED, twins) * len(survey.positions)
            status = "FAIL" if is_bad or status == "FAIL" else "WARN"
    repeats = f"; within train, {twins:.1%} repeat, too" if twins > MOST_LEAKED else ""
    if context.without_test:
        repeats += f"; not looked at: test ({context.without_test})"
    if not found:
        told = f"no example of {' or '.join(values)} is in train, exactly or nearly ({surveys['train'].told} of train)"
        told += repeats
        advice = "examples of one source (a person, a document) should be in one split: only you know"
        return Finding("PASS", told, advice, values)
    advice = "take them out of train or out of the other split: their scores are those of memory (--json names them)"
    return Finding(status, f"in train, too: {'; '.join(found)}{repeats}", advice, values)


def _near(survey: Survey, train: Survey) -> Tensor:
    """Return which examples are nearly one of train: (num_examples,), bool."""
    if survey.texts is not None and train.texts is not None:
        texts = set(train.texts) - {""}
        return torch.tensor([text in texts for text in survey.texts])
    ours, theirs = survey.numbers, train.numbers
    if ours is None or theirs is None or ours.shape[1:] != theirs.shape[1:]:
        return torch.zeros(len(survey.inputs), dtype=torch.bool)
    if survey.is_image:
        return torch.cdist(ours, theirs).amin(dim=1).square() < NEAR_IMAGES
    mean, scale = theirs.mean(dim=0), theirs.std(dim=0).clamp(min=1e-6) * theirs.shape[1] ** 0.5
    distances = torch.cdist((ours - mean) / scale, (theirs - mean) / scale)
    return distances.amin(dim=1).square() < NEAR_ROWS


def visible_answers(context: Context) -> Finding:
    """Do tokens, or what a net sees of them, hold the labels that it must predict?"""
    size = context.few
    inputs, labels = next(iter(context.batches("train", context.choose("train", size), size)))
    tokens = _tokens_like(inputs, labels)
    if tokens is None:
        return Finding("PASS", "the inputs are not tokens with a label each", "nothing to do")
    scored = labels != IGNORED_LABEL
    is_varied = len(labels[scored].unique()) > 1
    if is_varied and _share_equal(tokens, labels, scored) > MOST_EQUAL:
        explanation = "the labels are the input tokens themselves: the net only has to copy them"
        return Finding("FAIL", explanation, "a language model predicts the next token: labels = tokens[1:]")
    if not is_varied or _share_equal(tokens[:, 1:], labels[:, :-1], scored[:, :-1]) <= MOST_EQUAL:
        return Finding("PASS", "the labels are not among the input tokens", "nothing to do")
    difference = _effect_of_later_tokens(context, inputs, tokens)
    values = {"difference": difference}
    told = f"the labels are the next tokens; changing later tokens changes outputs by {difference:.1g} of their spread"
    if not difference <= TOLERANCE:
        advice = (
            "mask the attention (is_causal=True), and use no bidirectional layer, so that no position sees later ones"
        )
        return Finding("FAIL", f"the net sees the tokens that it must predict: {told}", advice, values)
    return Finding("PASS", told, "nothing to do", values)


def _tokens_like(inputs: Any, labels: Tensor) -> Tensor | None:
    """Return the whole numbers among the inputs that are as many as the labels, (batch_size, length), or None."""
    if labels.dim() != 2 or labels.is_floating_point():
        return None
    found = [t for t in tensors_of(inputs) if t.dtype == torch.int64 and t.shape == labels.shape]
    return found[0] if found else None


def _share_equal(tokens: Tensor, labels: Tensor, scored: Tensor) -> float:
    return float((tokens == labels)[scored].float().mean()) if scored.any() else 0.0


def _effect_of_later_tokens(context: Context, inputs: Any, tokens: Tensor) -> float:
    """Return how much outputs change, over their spread, when the second half of each sequence is another one's."""
    model, half = warm(context).eval(), tokens.shape[1] // 2

    def with_other_ending(tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.int64 or tensor.shape != tokens.shape:
            return tensor
        return torch.cat([tensor[:, :half], tensor.roll(1, dims=0)[:, half:]], dim=1)

    with torch.inference_mode():
        before, after = (_by_position(model(each), tokens) for each in (inputs, map_tensors(with_other_ending, inputs)))
    return float((after - before)[:, :half].abs().max()) / (float(before.std()) + 1e-12)


def _by_position(outputs: Tensor, tokens: Tensor) -> Tensor:
    """Return outputs as (batch_size, length, num_classes), whichever of three usual layouts they have."""
    if outputs.shape[:2] == tokens.shape:
        return outputs
    return outputs.movedim(-1, 1) if outputs.shape[-1] == tokens.shape[1] else outputs.reshape(*tokens.shape, -1)
