"""Continue a text, one token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.text.net import cached_length

if TYPE_CHECKING:
    from model.text.net import Net


@torch.inference_mode()
def generate(
    model: Net,
    prompt: Sequence[int],
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 230,
    use_cache: bool = True,
) -> Iterator[int]:
    """Yield the next tokens, without end.

    Args:
        model: in eval mode
        prompt: one token or more; the net sees the last context_length tokens of the text
        temperature: logits are divided by it; 0 always takes the most probable token
        top_k: choose among this many most probable tokens; None: among all
        seed: decides the choices
        use_cache: keep the keys and values of earlier tokens, which gives the same tokens in less time
    """
    context_length, device = model.params.context_length, next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens, new, caches = list(prompt), list(prompt)[-context_length:], model.new_caches()
    while True:
        if not use_cache or cached_length(caches) + len(new) > context_length:  # all positions move: start again
            new, caches = tokens[-context_length:], model.new_caches()
        logits = model(torch.tensor([new], device=device), caches)[0, -1].float().cpu()  # (V,)
        new = [choose(logits, temperature, top_k, generator)]
        tokens += new
        yield new[0]


def choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """Return the number of a token, drawn by its probability."""
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        logits = logits.where(logits >= logits.topk(top_k).values[-1], -torch.inf)
    return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
