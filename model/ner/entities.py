"""Entities in tags: where they start and end by the rules of CoNLL, counted in whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED_LABEL = -100  # PyTorch's own ignore_index


def _kind(tag: str) -> str:
    """Return the type in a tag: PER of B-PER and I-PER, nothing of O; a tag without a prefix, NOUN, is its own."""
    return "" if tag == "O" else tag[2:] if tag.startswith(("B-", "I-")) else tag


class EntityCounter:
    """Counts the entities in a batch: those in the labels, those in the outputs, and those in both.

    An entity is a maximal chunk: B- begins one, and so does an I- after O or after another type. Both ends and the type
    must agree. Metrics ask one after the other for the same batch, so the last answers are kept.

    Args:
        tags: by number

    Source: the rules are those of conlleval.pl (Tjong Kim Sang and De Meulder, 2003), seqeval's default mode.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        kinds = {kind: number for number, kind in enumerate(dict.fromkeys(["", *map(_kind, tags)]))}
        self._outside = len(tags)  # one tag more, for what is not scored
        self._kinds = torch.tensor([*(kinds[_kind(tag)] for tag in tags), 0])  # (num_tags + 1,); 0 is outside
        self._is_begin = torch.tensor([*(tag.startswith("B-") for tag in tags), False])  # (num_tags + 1,)
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
        if self._kinds.device != labels.device:
            self._kinds, self._is_begin = self._kinds.to(labels.device), self._is_begin.to(labels.device)
        tags = torch.stack([labels, predicted]).masked_fill_(labels == IGNORED_LABEL, self._outside)
        tags = F.pad(tags, (1, 1), value=self._outside)  # (2, batch_size, max_len + 2)
        kinds = self._kinds[tags]
        # whether chunks are cut before a token; one place more than tokens, for the end
        cuts = (kinds[..., 1:] != kinds[..., :-1]) | self._is_begin[tags[..., 1:]]  # (2, batch_size, max_len + 1)
        kinds, begins, ends = kinds[..., 1:-1], cuts[..., :-1], cuts[..., 1:]  # each (2, batch_size, max_len)
        # an entity is found where it ends, if both chunks end there, began at the same place, and are of one type
        places = torch.arange(1, labels.shape[1] + 1, device=labels.device)
        starts = (begins * places).cummax(dim=2).values  # of the chunk that each token is in
        is_inside = kinds != 0
        is_found = (kinds[0] == kinds[1]) & (starts[0] == starts[1]) & ends.all(dim=0) & is_inside[0]
        is_first_true, is_first_predicted = (begins & is_inside).unbind()
        counts = torch.stack([is_first_true, is_first_predicted, is_found]).sum(dim=(1, 2))  # (3,)
        return counts[0:1], counts[1:2], counts[2:3]
