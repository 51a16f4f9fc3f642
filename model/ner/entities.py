"""Entities in tags: where they start and end, by the rules that `schemes.py` names, counted in whole batches.

An entity is a chunk of one type. B-, S-, or any tag after O or after another type begins it; E- or S- ends it. In
bilou a chunk counts only if B- or U- is its first tag and L- or U- its last. A tag of another scheme counts as in
seqeval; in bilou, where seqeval refuses it, it counts as O.

Source: conlleval.pl (Tjong Kim Sang and De Meulder, 2003), and seqeval's strict mode for bilou.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fiveline.metrics import IGNORED_LABEL
from model.ner.schemes import OUTSIDE


class EntityCounter:
    """Counts the entities of batches, for the tags (in the order of their numbers) of a scheme of `schemes.py`."""

    def __init__(self, tags: Sequence[str], scheme: str) -> None:
        parts = [_split(tag, scheme) for tag in (*tags, OUTSIDE)]  # one tag more, for tokens that are not scored
        kinds = [kind for _, kind in parts]
        self.outside = len(tags)
        self.kinds = torch.tensor([kinds.index(kind) for kind in kinds])  # (num_tags + 1,)
        rules = _strict_rules if scheme == "bilou" else _default_rules
        # between two tags: 0, or 2 if a chunk begins, or 3 if it begins well; and whether an entity ends
        table = torch.tensor([[rules(before, now) for now in parts] for before in parts])
        self.begins, self.ends = table[..., 0], table[..., 1] > 0  # both (num_tags + 1, num_tags + 1)

    def count(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return (5,), int64: tokens, correctly tagged tokens, entities in labels, in outputs, and in both.

        Outputs are logits, (batch_size, max_len, num_tags); labels, (batch_size, max_len), are -100 at padding.
        """
        if self.kinds.device != labels.device:
            self.kinds, self.begins, self.ends = (t.to(labels.device) for t in (self.kinds, self.begins, self.ends))
        predicted, is_scored = outputs.argmax(dim=2), labels != IGNORED_LABEL
        tags = torch.stack([labels, predicted]).masked_fill_(~is_scored, self.outside)
        tags = F.pad(tags, (1, 1), value=self.outside)  # (2, batch_size, max_len + 2)
        before, now = tags[..., :-1], tags[..., 1:]  # at each token, and at the end: (2, batch_size, max_len + 1)
        places = torch.arange(2, 2 * now.shape[2] + 2, 2, device=labels.device)
        begins = self.begins[before, now]
        # where each token's chunk began, times 2, and 1 more if it began well: (2, batch_size, max_len)
        starts = torch.where(begins > 0, begins + places, 0).cummax(dim=2).values[..., :-1]
        kinds = self.kinds[before[..., 1:]]
        is_end = self.ends[before, now][..., 1:] & (starts % 2 == 1)  # an entity is counted at its last token
        is_found = is_end[0] & is_end[1] & (kinds[0] == kinds[1]) & (starts[0] == starts[1])
        return torch.stack([is_scored, predicted == labels, is_end[0], is_end[1], is_found]).sum(dim=(1, 2))


def _split(tag: str, scheme: str) -> tuple[str, str]:
    """Return letter and type of a tag as seqeval does; the type of a plain tag is the whole tag."""
    if tag == OUTSIDE or (scheme == "bilou" and tag[0] not in "BILU"):
        return OUTSIDE, "_"
    return ("I", tag) if scheme == "plain" else (tag[0], tag[1:].split("-", maxsplit=1)[-1] or "_")


def _default_rules(before: tuple[str, str], now: tuple[str, str]) -> tuple[int, bool]:
    """Return how a chunk begins and whether one ends between two tags: seqeval's start_of_chunk and end_of_chunk."""
    is_other = before[1] != now[1]
    begins = now[0] in "BS" or (before[0] in "ESO" and now[0] in "EI") or (now[0] not in "O." and is_other)
    ends = before[0] in "ES" or (before[0] in "BI" and now[0] in "BSO") or (before[0] not in "O." and is_other)
    return 3 * begins, ends


def _strict_rules(before: tuple[str, str], now: tuple[str, str]) -> tuple[int, bool]:
    """Return how a chunk begins and whether an entity ends between two bilou tags."""
    is_cut = before[1] != now[1] or OUTSIDE in (before[0], now[0]) or now[0] in "BU" or before[0] in "LU"
    return is_cut * (3 if now[0] in "BU" else 2), is_cut and before[0] in "LU"
