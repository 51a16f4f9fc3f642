"""The check for leaks: examples of one split in another one, exactly or nearly."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fiveline.sanity import Finding
from fiveline.sanity.context import Context
from fiveline.sanity.survey import MAX_EXAMPLES, Survey, survey
from fiveline.sanity.tokens import are_next_tokens, tokens_in

NEAR_IMAGES, NEAR_ROWS = 0.004, 0.0004  # squared distance of thumbnails of length 1; of rows, in stds, by feature
MAX_LEAKED = 0.01  # share of a split that may be in train before that is a failure


def leaks(context: Context) -> Finding:
    """Is an example in two splits, exactly or nearly?"""
    if not context.has_lengths and are_next_tokens(context.sample("train", 8)):
        return _passages(context)
    train = survey(context, "train")
    known, found, status, values = set(train.inputs), [], "PASS", dict[str, Any]()
    is_dense = _is_dense(train)
    repeats = 1 - len(known) / len(train.inputs)  # rows of few categories repeat by themselves
    for split in [split for split in context.datasets if split != "train"]:
        other, ids = survey(context, split), context.datasets[split].ids
        is_exact = torch.tensor([content in known for content in other.inputs])
        is_near = torch.zeros_like(is_exact) if is_dense else _near(other, train) & ~is_exact
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
    notes += "; near ones do not count, because many examples are near each other by chance" if is_dense else ""
    if not found:
        how = "exactly" if is_dense else "exactly or nearly"
        summary = f"no example of {' or '.join(values)} is in train, {how} ({train.size} of train)"
        return Finding("PASS", f"{summary}{notes}", values=values)
    advice = "take them out of train or of the other split: scores on them measure memorisation (--json names them)"
    return Finding(status, f"also in train: {'; '.join(found)}{notes}", advice, values)


def _passages(context: Context) -> Finding:
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
    ours, theirs = _standardised(ours, theirs), _standardised(theirs, theirs)
    return torch.cdist(ours, theirs).amin(dim=1).square() < NEAR_ROWS


def _standardised(rows: Tensor, by: Tensor) -> Tensor:
    return (rows - by.mean(dim=0)) / (by.std(dim=0).clamp(min=1e-6) * by.shape[1] ** 0.5)


def _is_dense(train: Survey) -> bool:
    """Return whether rows of numbers are near each other by chance, as in two columns of continuous numbers.

    The number of rows within a distance r grows like r ** dimension. The 10th and the 20th neighbour show the
    dimension; the first ones may be copies of the row.
    """
    if train.numbers is None or train.is_image or len(train.numbers) <= 20:
        return False
    rows = _standardised(train.numbers, train.numbers)
    neighbours = torch.cdist(rows, rows).topk(21, largest=False).values.square()  # the first is the row itself
    tenth, twentieth = neighbours[:, [10, 20]].median(dim=0).values.clamp(min=1e-12).tolist()
    half_dimension = math.log(2) / max(math.log(twentieth / tenth), 1e-3)
    return 10 * float(NEAR_ROWS / tenth) ** half_dimension * len(rows) > 1
