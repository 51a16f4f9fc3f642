"""Continue a text, one token at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from model.text.net import Net


@torch.inference_mode()
def generate(
    model: Net,
    tokens: list[int],
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 230,
    use_cache: bool = True,
) -> Iterator[int]:
    """Yield the next tokens.

    Args:
        model: in eval mode
        tokens: the beginning, at least one token; its last context_length tokens count
        num_tokens: how many to yield
        temperature: logits are divided by it; 0 always takes the most probable token
        top_k: choose among this many most probable tokens; None: among all
        seed: of the choices
        use_cache: keep the keys and values of earlier tokens, which gives the same tokens in less time
    """
    context_length, device = model.params.context_length, next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens = list(tokens)
    cache, new = model.new_cache(), tokens[-context_length:]
    for _ in range(num_tokens):
        if not use_cache or cached_length(cache) + len(new) > context_length:  # all positions move: begin again
            cache, new = model.new_cache(), tokens[-context_length:]
        logits = model(torch.tensor([new], device=device), cache if use_cache else None)[0, -1].float().cpu()  # (V,)
        token = choose(logits, temperature, top_k, generator)
        tokens.append(token)
        new = [token]
        yield token


def cached_length(cache: list[list[tuple[torch.Tensor, torch.Tensor]]]) -> int:
    """Return the number of tokens in a cache."""
    return cache[0][0][0].shape[2] if cache[0] else 0


def choose(logits: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """Return the number of a token, drawn by its probability."""
    if temperature == 0:
        return int(logits.argmax())
    logits = logits / temperature
    if top_k is not None and top_k < len(logits):
        logits = logits.where(logits >= logits.topk(top_k).values[-1], -torch.inf)
    return int(torch.multinomial(logits.softmax(0), 1, generator=generator))
