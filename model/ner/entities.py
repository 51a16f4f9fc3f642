"""Entities in tags: where they start and end, by the rules that `schemes.py` names, counted in whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.ner.schemes import OUTSIDE, guess

IGNORED_LABEL = -100  # PyTorch's own ignore_index


class EntityCounter:
    """Counts the entities in a batch: those in the labels, those in the outputs, and those in both.

    An entity is a maximal chunk of one type: B- (S-) begins one, and so does any tag after O or after another type;
    E- (S-) ends one. Both ends and the type must agree. In bilou a chunk counts only if B- or U- is its first tag and
    L- or U- its last. A tag of another scheme counts as seqeval counts it; in bilou, where seqeval refuses it, as O.
    Metrics ask one after the other for the same batch, so the last answers are kept.

    Args:
        tags: by number
        scheme: of the tags of train; None: a guess from `tags`

    Source: the rules of conlleval.pl (Tjong Kim Sang and De Meulder, 2003), seqeval's default mode, and of
    seqeval's strict mode with BILOU.
    """

    def __init__(self, tags: Sequence[str], scheme: str | None = None) -> None:
        scheme = scheme or guess(tags)
        parts = [_split(tag, scheme) for tag in (*tags, OUTSIDE)]  # one tag more, for what is not scored
        kinds = [kind for _, kind in parts]
        self._outside = len(tags)
        self._kinds = torch.tensor([kinds.index(kind) for kind in kinds])  # (num_tags + 1,)
        rules = _strict_rules if scheme == "bilou" else _default_rules
        # whether a chunk begins between two tags; whether it begins well; whether an entity ends:
        # (num_tags + 1, num_tags + 1, 3)
        self._rules = torch.tensor([[rules(before, now) for now in parts] for before in parts])
        self._outputs: Tensor | None = None  # of the batch last asked for; its labels, and the two answers
        self._labels: Tensor | None = None
        self._predicted: Tensor
        self._counts: tuple[Tensor, Tensor, Tensor]

    def count(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return how many entities are in the labels, in the outputs, and in both: three tensors, (1,), int64.

        They are vectors of one entry, because a scalar 0 / 0 is NaN: a net that finds nothing has precision 0.

        Args:
            outputs: logits, (batch_size, max_len, num_tags)
            labels: tag numbers, (batch_size, max_len); -100 where nothing is scored
        """
        predicted = self.predict(outputs)
        if self._labels is not labels:
            self._labels, self._counts = labels, self._count(predicted, labels)
        return self._counts

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the tags' numbers, (batch_size, max_len), int64.

        Args:
            outputs: logits, (batch_size, max_len, num_tags)
        """
        if self._outputs is not outputs:
            self._outputs, self._labels, self._predicted = outputs, None, outputs.argmax(dim=2)
        return self._predicted

    def _count(self, predicted: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._rules, self._kinds = self._rules.to(labels.device), self._kinds.to(labels.device)
        tags = torch.stack([labels, predicted]).masked_fill_(labels == IGNORED_LABEL, self._outside)
        tags = F.pad(tags, (1, 1), value=self._outside)  # (2, batch_size, max_len + 2)
        # before each token, and after the last: each (2, batch_size, max_len + 1)
        begins, begins_well, ends = self._rules[tags[..., :-1], tags[..., 1:]].unbind(dim=3)
        places = torch.arange(1, labels.shape[1] + 2, device=labels.device)
        starts = (begins * places).cummax(dim=2).values[..., :-1]  # of the chunk that each token is in
        starts_well = (begins_well * places).cummax(dim=2).values[..., :-1]
        kinds = self._kinds[tags[..., 1:-1]]  # (2, batch_size, max_len), as the following
        # an entity is counted where it ends
        is_end = ends[..., 1:] & (starts == starts_well)
        # it is found where both chunks end, began at the same place, and have the same type
        is_found = is_end.all(dim=0) & (kinds[0] == kinds[1]) & (starts[0] == starts[1])
        counts = torch.stack([is_end[0], is_end[1], is_found]).sum(dim=(1, 2))  # (3,)
        return counts[0:1], counts[1:2], counts[2:3]


def _split(tag: str, scheme: str) -> tuple[str, str]:
    """Return letter and type of a tag, as seqeval sees it; all of a plain tag is its type."""
    if tag == OUTSIDE or (scheme == "bilou" and tag[0] not in "BILU"):
        return OUTSIDE, "_"
    return ("I", tag) if scheme == "plain" else (tag[0], tag[1:].split("-", maxsplit=1)[-1] or "_")


def _default_rules(before: tuple[str, str], now: tuple[str, str]) -> tuple[bool, bool, bool]:
    """Return whether an entity starts or ends between two tags, by seqeval's start_of_chunk and end_of_chunk."""
    pair, is_other = before[0] + now[0], before[1] != now[1]
    begins = now[0] in "BS" or pair in ("EE", "EI", "SE", "SI", "OE", "OI") or (now[0] not in "O." and is_other)
    ends = before[0] in "ES" or pair in ("BB", "BS", "BO", "IB", "IS", "IO") or (before[0] not in "O." and is_other)
    return begins, begins, ends


def _strict_rules(before: tuple[str, str], now: tuple[str, str]) -> tuple[bool, bool, bool]:
    """Return whether an entity starts or ends between two bilou tags."""
    is_cut = before[1] != now[1] or OUTSIDE in (before[0], now[0]) or now[0] in "BU" or before[0] in "LU"
    return is_cut, is_cut and now[0] in "BU", is_cut and before[0] in "LU"
