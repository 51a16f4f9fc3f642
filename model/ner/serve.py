"""What comes after training: predictions in words, new inputs, what an exported program needs to know."""

from __future__ import annotations

from typing import Any

from model.ner.show import READS, fetch_inputs

__all__ = ["READS", "fetch_inputs"]
READS_STDIN = True


def __getattr__(name: str) -> Any:
    if name in ("predictions", "probabilities"):
        from model.ner import net

        return getattr(net, name)
    if name in ("fetch_unlabelled", "collate_unlabelled", "show_unlabelled", "describe_inputs"):
        from model.ner import data_loader

        return getattr(data_loader, name)
    raise AttributeError(name)
