"""A transformer that reads text, its loss, and the metrics.

The names and shapes of its weights are GPT-2's, so that checkpoints of nanoGPT and GPT-2 load. Letters in the comments
on shapes: B texts in the batch, L tokens of a text, W width, H heads, D = W / H features of a head, V vocabulary.

Sources: Vaswani et al., Attention Is All You Need (2017); Radford et al., Language Models are Unsupervised Multitask
Learners (2019); Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding (2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fiveline.metrics import IGNORED_LABEL
from model.text.params import Params

Cache = dict[str, Tensor]  # a block's "k" and "v": the keys and values of the tokens so far, (B, H, L, D) each


class Attention(nn.Module):
    """Each token takes a mixture of the values of the tokens that it may see."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.num_heads, self.dropout_rate = params.num_heads, params.dropout_rate
        self.is_rotary = params.positions == "rotary"
        self.is_causal = params.target == "next"  # a token must not see the token that it predicts
        self.c_attn = nn.Linear(params.width, 3 * params.width)  # queries, keys and values
        self.c_proj = nn.Linear(params.width, params.width)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Return features, (B, L, W), of x, (B, L, W).

        Args:
            x: features of the tokens
            mask: (B, 1, 1, L), bool: the tokens that may be seen; None for all
            cache: keys and values of the tokens before x, which x sees as well; this call adds the new ones
        """
        num_before = cache["k"].shape[2] if cache else 0
        qk, v = self.c_attn(x).split([2 * x.shape[2], x.shape[2]], dim=2)  # (B, L, 2 W) and (B, L, W)
        qk = qk.unflatten(2, (2 * self.num_heads, -1))  # (B, L, 2 H, D)
        if self.is_rotary:
            qk = rotated(qk, num_before)  # (B, L, 2 H, D)
        q, k = qk.transpose(1, 2).chunk(2, dim=1)  # (B, H, L, D) each
        v = v.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, H, L, D)
        if cache:
            k, v = torch.cat([cache["k"], k], dim=2), torch.cat([cache["v"], v], dim=2)  # (B, H, tokens so far, D)
        if cache is not None:
            cache.update(k=k, v=v)
        is_causal = self.is_causal and num_before == 0  # with a cache, x is one token, which sees all cached ones
        dropout_rate = self.dropout_rate if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout_rate, is_causal)  # (B, H, L, D)
        y = self.c_proj(y.transpose(1, 2).flatten(2))  # (B, L, W)
        return F.dropout(y, self.dropout_rate, self.training)


class FeedForward(nn.Module):
    """Two linear layers, applied to each token alone."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.dropout_rate, self.approximation = params.dropout_rate, "tanh" if params.gelu == "tanh" else "none"
        self.c_fc = nn.Linear(params.width, 4 * params.width)
        self.c_proj = nn.Linear(4 * params.width, params.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return features, (B, L, W), of x, (B, L, W)."""
        x = F.gelu(self.c_fc(x), approximate=self.approximation)  # (B, L, 4 W)
        return F.dropout(self.c_proj(x), self.dropout_rate, self.training)  # (B, L, W)


class Block(nn.Module):
    """Attention, then a feed-forward layer; each reads normalised features and adds its output to the features."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(params.width), Attention(params)
        self.ln_2, self.mlp = nn.LayerNorm(params.width), FeedForward(params)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Return features, (B, L, W), of x, (B, L, W); `Attention` explains mask and cache."""
        x = x + self.attn(self.ln_1(x), mask, cache)  # (B, L, W)
        return x + self.mlp(self.ln_2(x))  # (B, L, W)


class Transformer(nn.Module):
    """Embeddings, blocks and a last normalisation."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.dropout_rate = params.dropout_rate
        self.wte = nn.Embedding(len(params.facts["token_bytes"]), params.width)
        self.wpe = nn.Embedding(params.context_length, params.width) if params.positions == "learned" else None
        self.h = nn.ModuleList(Block(params) for _ in range(params.num_layers))
        self.ln_f = nn.LayerNorm(params.width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, caches: list[Cache] | None = None) -> Tensor:
        """Return features, (B, L, W), of tokens, (B, L); `Attention` explains mask and the cache of each block."""
        x = self.wte(tokens)  # (B, L, W)
        if self.wpe is not None:
            first = caches[0]["k"].shape[2] if caches and caches[0] else 0  # the number of tokens in the caches
            x = x + self.wpe(torch.arange(first, first + tokens.shape[1], device=tokens.device))  # (B, L, W)
        x = F.dropout(x, self.dropout_rate, self.training)
        for i, block in enumerate(self.h):
            x = block(x, mask, caches[i] if caches else None)  # (B, L, W)
        return self.ln_f(x)  # (B, L, W)


class Net(nn.Module):
    """A transformer, and a linear layer: for `next` the token embedding, for `label` one that reads the end token."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.params, self.end, self.pad = params, params.facts.get("end"), params.facts.get("pad")
        self.named_by = {"transformer.wte.weight": "characters"}  # for `pretrained` with a run on another text
        self.transformer = Transformer(params)
        self.classifier = nn.Linear(params.width, len(params.facts["classes"])) if params.target == "label" else None
        self.reset_weights()

    def reset_weights(self) -> None:
        """Draw the weights as GPT-2 does: smaller in the layers that add to the features, since there are many."""
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.dim() == 2:
                is_added = name.endswith("c_proj.weight")
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * self.params.num_layers) if is_added else 0.02)

    def forward(self, tokens: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """Return logits: (B, L, V) for `next`, (B, number of classes) for `label`.

        Args:
            tokens: numbers of tokens, (B, L), int64; L is at most context_length
            caches: to generate, a dict for each block, at first empty; each call after the first has one token
        """
        if self.classifier is None:
            x = self.transformer(tokens, None, caches)  # (B, L, W)
            return F.linear(x, self.transformer.wte.weight)  # (B, L, V)
        is_text, is_end = torch.ne(tokens, self.pad), torch.eq(tokens, self.end)  # (B, L) each
        x = self.transformer(tokens, is_text[:, None, None])  # (B, L, W)
        return self.classifier((x * is_end.unsqueeze(2)).sum(1))  # (B, number of classes)

    def renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a nanoGPT or GPT-2 checkpoint under this net's names, and in its shapes.

        Hugging Face transposes the linear layers of the blocks; nanoGPT may lack biases, which are then 0. Positions
        after context_length are left out, as is lm_head if it equals the token embedding.
        """
        width, embedding = self.params.width, weights.get("transformer.wte.weight", torch.empty(0))
        found = {
            name if name.startswith(("transformer.", "classifier.")) else f"transformer.{name}": weight
            for name, weight in weights.items()
            if not name.endswith((".attn.bias", ".attn.masked_bias"))  # causal masks
            and not (name == "lm_head.weight" and torch.equal(weight, embedding))
        }
        if getattr(found.get("transformer.h.0.mlp.c_fc.weight"), "shape", None) == (width, 4 * width):  # transposed
            linear = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
            found = {name: weight.T if name.endswith(linear) else weight for name, weight in found.items()}
        for name, weight in self.state_dict().items():
            if name.endswith(".bias") and name.replace(".bias", ".weight") in found:
                found.setdefault(name, torch.zeros_like(weight))
        if (places := found.get("transformer.wpe.weight")) is not None and places.dim() == 2:
            found["transformer.wpe.weight"] = places[: self.params.context_length]
        return found


def rotated(x: Tensor, first: int) -> Tensor:
    """Return x, (B, L, vectors, D), with each pair of features rotated in proportion to the token's position.

    The product of a query and a key then depends on the distance between their tokens. `first` is the first position.
    """
    half = x.shape[3] // 2  # the features i and i + half are a pair
    speeds = 10_000.0 ** (-torch.arange(half, device=x.device) / half)  # (D / 2,)
    angles = torch.arange(first, first + x.shape[1], device=x.device)[:, None, None] * speeds  # (L, 1, D / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    others = x.roll(half, dims=3)  # the other feature of each pair, (B, L, vectors, D)
    return x * torch.cat([cos, cos], dim=2) + others * torch.cat([-sin, sin], dim=2)  # (B, L, vectors, D)


def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the labels; torch.nn.functional.cross_entropy does the same.

    Args:
        outputs: logits, (B, L, V) or (B, number of classes)
        labels: numbers of the next tokens, (B, L), or of the classes, (B,); int64; -100 does not count
    """
    log_probabilities, labels = F.log_softmax(outputs.flatten(0, -2), dim=1), labels.flatten()  # (number of labels, V)
    is_scored = labels != IGNORED_LABEL
    chosen = log_probabilities.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)  # (number of labels,)
    return -(chosen * is_scored).sum() / is_scored.sum()


def accuracy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count the correct predictions, and the labels."""
    is_scored = labels != IGNORED_LABEL
    return ((outputs.argmax(-1) == labels) & is_scored).sum(), is_scored.sum()


def macro_f1(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count, for each class, twice its correct predictions, and its predictions and labels together."""
    predicted, true = (F.one_hot(each, outputs.shape[1]) for each in (outputs.argmax(1), labels))
    return 2 * (predicted * true).sum(0), predicted.sum(0) + true.sum(0)  # (number of classes,) each


def perplexity(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the losses, and count them; perplexity is the exponential of their mean."""
    total = F.cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="sum")  # -100 adds 0
    return total, (labels != IGNORED_LABEL).sum()


def metrics(params: Params) -> dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Return the metrics: accuracy, and for `label` macro F1, for `next` perplexity and bits per byte."""
    if params.target == "label":
        return {"accuracy": accuracy, "macro_f1": macro_f1}
    token_bytes = torch.tensor(params.facts["token_bytes"])  # (V,)

    def bits_per_byte(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        num_bytes = token_bytes.to(labels.device)[labels.clamp(min=0)] * (labels != IGNORED_LABEL)  # (B, L)
        return perplexity(outputs, labels)[0] / math.log(2), num_bytes.sum()

    bits_per_byte.lower_is_better = perplexity.lower_is_better = True  # type: ignore[attr-defined]
    perplexity.finish = torch.exp  # type: ignore[attr-defined]
    return {"accuracy": accuracy, "bits_per_byte": bits_per_byte, "perplexity": perplexity}
