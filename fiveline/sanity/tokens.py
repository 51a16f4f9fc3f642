"""Checks of nets that read tokens: are the answers among the inputs, does the order count, is text in two splits?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fiveline.device import map_tensors, tensors_of
from fiveline.metrics import IGNORED_LABEL
from fiveline.sanity import Finding
from fiveline.sanity.context import Context
from fiveline.sanity.evaluation import TOLERANCE

MAX_EQUAL = 0.8  # share of the scored tokens; the last label of a sequence need not be among its tokens
PLACES = (1, 0, 2, -1, 3, -2)  # where a label may stand among the tokens: 1 for the next one
NUM_EXAMPLES = 4  # the ones with the most different tokens
MAX_EXAMPLES = 4000  # in a split; a larger split is sampled
MAX_LEAKED = 0.01  # share of a split that may be in train before that is a failure


def tokens_in(inputs: Any, labels: Tensor) -> Tensor | None:
    """Return the tokens that have a label each, (batch_size, length); None if there are no such tokens."""
    found = [t for t in tensors_of(inputs) if t.dtype == torch.int64 and t.shape == labels.shape]
    return found[0] if labels.dim() == 2 and not labels.is_floating_point() and found else None


def place_of_labels(tokens: Tensor, labels: Tensor) -> int | None:
    """Return how many places after its token a label stands among the tokens; None if it is not there."""
    if len(labels[labels != IGNORED_LABEL].unique()) < 2:
        return None
    length, shares = tokens.shape[1], dict[int, float]()
    for place in PLACES:
        start, stop = max(0, -place), length - max(0, place)
        scored = labels[:, start:stop] != IGNORED_LABEL
        is_equal = tokens[:, start + place : stop + place] == labels[:, start:stop]
        shares[place] = float(is_equal[scored].float().mean())  # NaN without a scored label
    best = max(PLACES, key=lambda place: shares[place])
    return best if shares[best] > MAX_EQUAL else None


def are_next_tokens(batches: Iterable[tuple[Any, Tensor]]) -> bool:
    """Return whether the label of each token is the token after it."""
    pairs = ((tokens_in(inputs, labels), labels) for inputs, labels in batches)
    return all(tokens is not None and place_of_labels(tokens, labels) == 1 for tokens, labels in pairs)


def visible_answers(context: Context) -> Finding:
    """Do tokens, or what a net sees of them, hold the labels that it must predict?"""
    inputs, labels = next(iter(context.sample("train", context.small_batch_size)))
    tokens = tokens_in(inputs, labels)
    if tokens is None:
        return Finding("PASS", "the inputs are not tokens with a label each")
    place = place_of_labels(tokens, labels)
    if place is None:
        return Finding("PASS", "the labels are not among the input tokens")
    advice = "a language model predicts the next token: labels = tokens[1:]"
    if place == 0:
        return Finding("FAIL", "the labels are the input tokens themselves: the net only has to copy them", advice)
    if place != 1:
        explanation = f"shifted wrongly: the label of a token is the one at distance {place:+d}, not the next one (+1)"
        return Finding("FAIL", explanation, advice)
    half = tokens.shape[1] // 2
    with_other_ending = torch.cat([tokens[:, :half], tokens.roll(1, dims=0)[:, half:]], dim=1)
    effect = _effect(with_large_weights(context), inputs, tokens, with_other_ending, (0, half))
    summary = f"the labels are the next tokens; changing later tokens changes outputs by {effect:.1g} of their spread"
    if not effect <= TOLERANCE:
        advice = "mask the attention (is_causal=True), and use no bidirectional layer: no position may see later ones"
        explanation = f"the net sees the tokens that it must predict: {summary}"
        return Finding("FAIL", explanation, advice, {"difference": effect})
    return Finding("PASS", summary, values={"difference": effect})


def token_order(context: Context) -> Finding:
    """Do outputs depend on the earlier tokens of a sequence, and on their order?"""
    batches = list(context.batches("train", context.choose("train", 64), 1))  # one sequence each: without padding
    is_next, (inputs, labels) = are_next_tokens(batches[:1]), batches[0]
    sequences = [sequence for inputs, _ in batches if (sequence := _sequence(inputs)) is not None]
    is_read = tokens_in(inputs, labels) is not None or (context.has_lengths and labels.dim() == 1)
    varied = [i for i in range(len(sequences)) if len(sequences[i].unique()) > 2]
    if not is_read or not varied:
        return Finding("PASS", "the inputs are not sequences of different tokens")
    model, known = with_large_weights(context), torch.cat(sequences, dim=1).unique()
    by_token, by_order = 0.0, 0.0  # the largest changes of outputs, over their spread
    for i in sorted(varied, key=lambda i: -len(sequences[i].unique()))[:NUM_EXAMPLES]:
        inputs, tokens, last = batches[i][0], sequences[i], sequences[i].shape[1] - 1
        others = torch.cat([known[torch.randint(len(known), (1, last))], tokens[:, last:]], dim=1)
        by_token = max(by_token, _effect(model, inputs, tokens, others, (last, 1)))
        turned = torch.cat([tokens[:, 1:last], tokens[:, :1], tokens[:, last:]], dim=1)
        with Unmasked():  # else later layers see a little of the order through the mask
            by_order = max(by_order, _effect(model, inputs, tokens, turned, (last, 1)))
    status, values = "FAIL" if is_next else "WARN", {"by_token": by_token, "by_order": by_order}
    if by_token <= TOLERANCE:
        advice = "look at the mask: True lets a token be seen (in nn.MultiheadAttention, True hides it)"
        return Finding(status, "no output depends on an earlier token of its sequence", advice, values)
    if by_order <= TOLERANCE:
        explanation = "positions are unused: earlier tokens in another order give the same outputs"
        return Finding(status, explanation, "add position embeddings to the tokens, or rotate queries and keys", values)
    return Finding("PASS", "outputs depend on the earlier tokens and on their order", values=values)


def _sequence(inputs: Any) -> Tensor | None:
    """Return the tokens of a batch, (batch_size, length), or None."""
    return next((t for t in tensors_of(inputs) if t.dtype == torch.int64 and t.dim() == 2), None)


def with_large_weights(context: Context) -> nn.Module:
    """Return a net in eval mode whose weights hide nothing of what its layers can do; first weights may be tiny."""
    model = context.fetch_trainer().model.eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    return model


def _effect(model: nn.Module, inputs: Any, tokens: Tensor, others: Tensor, places: tuple[int, int]) -> float:
    """Return how much other tokens change the outputs at the places (first, number), over the outputs' spread.

    If a whole sequence has one label, all outputs count.
    """
    changed = map_tensors(lambda tensor: others if tensor is tokens else tensor, inputs)
    with torch.inference_mode():
        before, after = (tensors_of(model(each))[0] for each in (inputs, changed))
    difference = after - before
    if before.dim() > 2:  # the classes come last, or second
        difference = difference.narrow(1 if before.shape[:2] == tokens.shape else 2, *places)
    return float(difference.abs().max()) / (float(before.std()) + 1e-12)


class Unmasked(TorchFunctionMode):
    """Let attention see all tokens. A net without positions then gives the same outputs for any order."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is F.scaled_dot_product_attention:
            args = args[:3]
            kwargs = {name: value for name, value in kwargs.items() if name in ("query", "key", "value", "scale")}
        elif function is F.multi_head_attention_forward:
            kwargs |= {"attn_mask": None, "is_causal": False}
        elif function in (Tensor.masked_fill, Tensor.masked_fill_, torch.masked_fill) and args[2:] == (-torch.inf,):
            return args[0]
        return function(*args, **kwargs)


def passages(context: Context) -> Finding:
    """Look for passages of train in the other splits: a copy need not begin where a window of tokens begins."""
    windows = {split: _windows(context, split) for split in context.datasets}
    length = 3 * min(each.shape[1] for each in windows.values()) // 4
    hashes = {split: _passage_hashes(each, length) for split, each in windows.items()}
    train = hashes["train"]
    while (usual := _share_known(train[::8], train[torch.arange(len(train)) % 8 > 0])) > 0.5 and len(train) > 16:
        train = train[::2]  # windows that overlap share passages
    shares = {split: _share_known(each, train) for split, each in hashes.items() if split != "train"}
    found = ", ".join(f"{share:.1%} of {len(hashes[split]):,} windows of {split}" for split, share in shares.items())
    summary = f"a passage of {length} tokens of {len(train):,} windows of train is in {found}, and within train in "
    summary += f"{usual:.1%}"
    values = {"usual": usual, **shares}
    if max(shares.values()) > 2 * usual + MAX_LEAKED:
        advice = "take the common text out of train or of the other split: scores on it measure memorisation"
        return Finding("FAIL", f"text of train is in another split: {summary}", advice, values)
    return Finding("PASS", summary, values=values)


def _windows(context: Context, split: str) -> Tensor:
    """Return the tokens of windows of a split that have one length, (num_windows, length)."""
    batches = context.batches(split, context.choose(split, MAX_EXAMPLES), 512)
    found = [tokens.cpu() for inputs, labels in batches if (tokens := tokens_in(inputs, labels)) is not None]
    return torch.cat([tokens for tokens in found if tokens.shape[1] == found[0].shape[1]])


def _passage_hashes(windows: Tensor, length: int) -> Tensor:
    """Return a hash of each passage of this length in each window, (num_windows, num_passages)."""
    factors = torch.randint(-(2**62), 2**62, (length,), generator=torch.Generator().manual_seed(0))
    number = windows.shape[1] - length + 1
    hashes = torch.zeros(len(windows), number, dtype=torch.int64)
    for i, factor in enumerate(factors):
        hashes += factor * windows[:, i : i + number]  # modulo 2**64
    return hashes


def _share_known(hashes: Tensor, known: Tensor) -> float:
    """Return the share of windows with a known passage."""
    return float(torch.isin(hashes, known).any(dim=1).float().mean())
