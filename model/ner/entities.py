"""Entities in tags: where they start and end, by the rules that `schemes.py` names, counted in whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.ner.schemes import parse

IGNORED_LABEL = -100  # PyTorch's own ignore_index


class EntityCounter:
    """Counts the entities in a batch: those in the labels, those in the outputs, and those in both.

    An entity is a maximal chunk of one type: B- (S-, U-) begins one, and so does any tag after O or after another type;
    E- (S-, L-, U-) ends one. Both ends and the type must agree. Where there are L- or U-, a chunk counts only if B- or
    U- is its first tag and L- or U- its last. Metrics ask one after the other for the same batch, so the last answers
    are kept.

    Args:
        tags: by number

    Source: the rules of conlleval.pl (Tjong Kim Sang and De Meulder, 2003), seqeval's default mode, and of
    seqeval's strict mode with BILOU.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        parts = parse(tags)
        letters = [parts[tag][0] for tag in tags] + ["O"]  # one tag more, for what is not scored
        types = [parts[tag][1] for tag in tags] + [""]
        numbers = {kind: number for number, kind in enumerate(dict.fromkeys(["", *types]))}
        self._outside = len(tags)
        # (3, num_tags + 1): the type, where 0 is outside; whether the tag begins an entity; whether it ends one
        self._table = torch.tensor(
            [[numbers[kind] for kind in types], [x in "BSU" for x in letters], [x in "ESLU" for x in letters]]
        )
        self._is_strict = not {"L", "U"}.isdisjoint(letters)
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
        self._table = self._table.to(labels.device)
        tags = torch.stack([labels, predicted]).masked_fill_(labels == IGNORED_LABEL, self._outside)
        tags = F.pad(tags, (1, 1), value=self._outside)  # (2, batch_size, max_len + 2)
        kinds, is_first, is_last = self._table[0][tags], self._table[1][tags] > 0, self._table[2][tags] > 0
        # whether chunks are cut before a token; one place more than tokens, for the end: (2, batch_size, max_len + 1)
        cuts = (kinds[..., 1:] != kinds[..., :-1]) | is_first[..., 1:] | is_last[..., :-1]
        kinds, begins, ends = kinds[..., 1:-1], cuts[..., :-1], cuts[..., 1:]  # each (2, batch_size, max_len)
        # an entity is counted where it ends
        places = torch.arange(1, labels.shape[1] + 1, device=labels.device)
        starts = (begins * places).cummax(dim=2).values  # of the chunk that each token is in
        is_end = ends & (kinds != 0)
        if self._is_strict:
            well_begun = ((begins & is_first[..., 1:-1]) * places).cummax(dim=2).values
            is_end = is_end & is_last[..., 1:-1] & (well_begun == starts)
        # it is found where both chunks end, began at the same place, and have the same type
        is_found = is_end.all(dim=0) & (kinds[0] == kinds[1]) & (starts[0] == starts[1])
        counts = torch.stack([is_end[0], is_end[1], is_found]).sum(dim=(1, 2))  # (3,)
        return counts[0:1], counts[1:2], counts[2:3]
