"""Continue a text, one token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model.text.net import Net


@torch.inference_mode()
def generate(
    model: Net, prompt: Sequence[int], temperature: float = 0.8, top_k: int | None = None, seed: int = 230
) -> Iterator[int]:
    """Yield the next tokens, without end.

    Args:
        model: in eval mode; its keys and values of earlier tokens are cached, which saves time
        prompt: one token or more; the net sees the last context_length tokens of the text
        temperature: logits are divided by it; 0 always takes the most probable token
        top_k: choose among this many most probable tokens; None: among all
        seed: decides the choices
    """
    context_length, device = model.params.context_length, next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed % 2**64)
    temperature, top_k = (temperature, top_k) if temperature > 1e-6 else (1.0, 1)  # below, logits overflow
    text, num_cached = list(prompt), context_length
    while True:
        if num_cached == context_length:  # the window moves, and all positions with it: empty the caches
            new, caches, num_cached = text[-context_length:], [dict[str, Tensor]() for _ in model.transformer.h], 0
        logits = model(torch.tensor([new], device=device), caches)[0, -1].float().cpu()  # (V,)
        num_cached += len(new)
        if top_k is not None:
            logits = logits.where(logits >= logits.topk(min(top_k, len(logits))).values[-1], -torch.inf)
        new = [int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))]
        text += new
        yield new[0]
