"""A transformer that reads text, its loss, and the metrics.

The names and shapes of its weights are GPT-2's, so that checkpoints of nanoGPT and GPT-2 load. Letters in the comments
on shapes: B texts in the batch, L tokens of a text, W width, H heads, D = W / H features of a head, V vocabulary.

Sources: Vaswani et al., Attention Is All You Need (2017); Radford et al., Language Models are Unsupervised Multitask
Learners (2019); Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding (2021).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fiveline.metrics import IGNORED_LABEL
from model.text.params import Params

Metric = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Cache = list[tuple[Tensor, Tensor]]  # keys and values of the tokens so far, (B, H, L, D) each, for each block


class Attention(nn.Module):
    """Each token takes a mixture of the values of the tokens that it may see."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.num_heads, self.is_rotary, self.is_causal = (
            params.num_heads,
            params.positions == "rotary",
            is_causal(params),
        )
        self.dropout_rate = params.dropout_rate
        self.c_attn = nn.Linear(params.width, 3 * params.width)  # queries, keys and values
        self.c_proj = nn.Linear(params.width, params.width)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Return features, (B, L, W), of x, (B, L, W).

        Args:
            x: features of the tokens
            mask: (B, 1, 1, L), bool, which tokens may be seen; None for all
            cache: of this block, one entry or none: the tokens before x, which are then seen too; the new ones are added
        """
        q, k, v = self.c_attn(x).chunk(3, dim=2)  # (B, L, W) each
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, H, L, D) each
        num_before = cache[0][0].shape[2] if cache else 0
        if self.is_rotary:
            q, k = rotated(q, num_before), rotated(k, num_before)
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0][0], k], dim=2), torch.cat([cache[0][1], v], dim=2)
            cache[:] = [(k, v)]
        is_causal = self.is_causal and num_before == 0  # with a cache, x is one token, which sees all before it
        dropout_rate = self.dropout_rate if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout_rate, is_causal)  # (B, H, L, D)
        y = self.c_proj(y.transpose(1, 2).flatten(2))  # (B, L, W)
        return F.dropout(y, self.dropout_rate, self.training)


class FeedForward(nn.Module):
    """Two linear layers, applied to each token alone."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.dropout_rate = params.dropout_rate
        self.c_fc = nn.Linear(params.width, 4 * params.width)
        self.c_proj = nn.Linear(4 * params.width, params.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return features, (B, L, W), of x, (B, L, W)."""
        x = F.gelu(self.c_fc(x), approximate="tanh")  # (B, L, 4 W); GPT-2's approximation
        return F.dropout(self.c_proj(x), self.dropout_rate, self.training)  # (B, L, W)


class Block(nn.Module):
    """Attention, then a feed-forward layer; each reads normalised features, and adds to the features."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(params.width), Attention(params)
        self.ln_2, self.mlp = nn.LayerNorm(params.width), FeedForward(params)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Return features, (B, L, W), of x, (B, L, W); mask and cache are those of `Attention`."""
        x = x + self.attn(self.ln_1(x), mask, cache)  # (B, L, W)
        return x + self.mlp(self.ln_2(x))  # (B, L, W)


class Net(nn.Module):
    """Embeddings, blocks, a last normalisation, and a linear layer; before it, `label` averages over the tokens."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.params, self.pad = params, params.facts.get("pad")
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(params.vocabulary_size, params.width)})
        if params.positions == "learned":
            self.transformer["wpe"] = nn.Embedding(params.context_length, params.width)
        self.transformer["h"] = nn.ModuleList(Block(params) for _ in range(params.num_layers))
        self.transformer["ln_f"] = nn.LayerNorm(params.width)
        self.lm_head: nn.Linear | None = None
        self.classifier: nn.Linear | None = None
        if params.target == "label":
            self.classifier = nn.Linear(params.width, len(params.facts["classes"]))
        elif not params.tie_weights:
            self.lm_head = nn.Linear(params.width, params.vocabulary_size, bias=False)
        self.reset_weights()

    @torch.no_grad()
    def reset_weights(self) -> None:
        """Draw the weights as GPT-2 does: smaller in the layers that add to the features, because there are many."""
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.dim() == 2:
                is_added = name.endswith("c_proj.weight")
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * self.params.num_layers) if is_added else 0.02)

    def forward(self, tokens: Tensor, cache: list[Cache] | None = None) -> Tensor:
        """Return logits: (B, L, V) for `next`, (B, number of classes) for `label`.

        Args:
            tokens: numbers of tokens, (B, L), int64; L is at most context_length
            cache: from `new_cache`; then tokens are those that follow the ones in the cache
        """
        num_before = cache[0][0][0].shape[2] if cache and cache[0] else 0
        mask = None if self.pad is None else (tokens != self.pad)[:, None, None]  # (B, 1, 1, L)
        x = self.transformer["wte"](tokens)  # (B, L, W)
        if "wpe" in self.transformer:
            places = torch.arange(num_before, num_before + tokens.shape[1], device=tokens.device)  # (L,)
            x = x + self.transformer["wpe"](places)  # (B, L, W)
        x = F.dropout(x, self.params.dropout_rate, self.training)
        for i, block in enumerate(self.transformer["h"]):
            x = block(x, mask, None if cache is None else cache[i])  # (B, L, W)
        x = self.transformer["ln_f"](x)  # (B, L, W)
        if self.classifier is not None:
            weights = (tokens != self.pad).unsqueeze(2).to(x.dtype)  # (B, L, 1), 0 at padding
            return self.classifier((x * weights).sum(1) / weights.sum(1))  # (B, number of classes)
        if self.lm_head is not None:
            return self.lm_head(x)  # (B, L, V)
        return F.linear(x, self.transformer["wte"].weight)  # (B, L, V)

    def new_cache(self) -> list[Cache]:
        """Return an empty cache for `forward`: one for each block."""
        return [[] for _ in self.transformer["h"]]


def is_causal(params: Params) -> bool:
    """Return whether a token sees only the tokens before it: to predict the next one, it must not see that one."""
    return params.target == "next"


def rotated(x: Tensor, first: int) -> Tensor:
    """Return x, (B, H, L, D), with each pair of features turned by an angle that grows with the token's position.

    The product of a query and a key then depends on the distance of their tokens. `first` is the first position.
    """
    half = x.shape[3] // 2
    speeds = 10_000.0 ** (-torch.arange(half, device=x.device) / half)  # (D / 2,)
    angles = torch.arange(first, first + x.shape[2], device=x.device)[:, None] * speeds  # (L, D / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half:]  # (B, H, L, D / 2) each
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=3)  # (B, H, L, D)


def log_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return -log of the probability of each label, (number of labels,); 0 where the label is -100."""
    log_probabilities = F.log_softmax(outputs.flatten(0, -2), dim=1)  # (number of labels, V)
    chosen = log_probabilities.gather(1, labels.flatten().clamp(min=0).unsqueeze(1)).squeeze(1)
    return -chosen * (labels.flatten() != IGNORED_LABEL)


def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the labels; torch.nn.functional.cross_entropy does the same.

    Args:
        outputs: logits, (B, L, V) or (B, number of classes)
        labels: numbers of the next tokens, (B, L), or of the classes, (B,); int64; -100 does not count
    """
    return log_losses(outputs, labels).sum() / (labels != IGNORED_LABEL).sum()


def accuracy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count the correct predictions, and the labels."""
    is_scored = labels != IGNORED_LABEL
    return ((outputs.argmax(-1) == labels) & is_scored).sum(), is_scored.sum()


def metrics(params: Params) -> dict[str, Metric]:
    """Return the metrics: accuracy; for `label` macro F1, for `next` perplexity and bits per byte."""
    return _label_metrics(len(params.facts["classes"])) if params.target == "label" else _next_metrics(params)


def _label_metrics(num_classes: int) -> dict[str, Metric]:
    def macro_f1(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        predicted, is_scored = outputs.argmax(-1), labels != IGNORED_LABEL
        called, true = (F.one_hot(each[is_scored], num_classes) for each in (predicted, labels))
        return 2 * (called * true).sum(0), called.sum(0) + true.sum(0)  # (number of classes,) each

    return {"accuracy": accuracy, "macro_f1": macro_f1}


def _next_metrics(params: Params) -> dict[str, Metric]:
    token_bytes = torch.tensor(params.facts["token_bytes"])  # (V,): the length of each token in UTF-8
    losses = functools.lru_cache(maxsize=1)(log_losses)  # both metrics need them

    def bits_per_byte(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        num_bytes = token_bytes.to(labels.device)[labels.clamp(min=0)] * (labels != IGNORED_LABEL)
        return losses(outputs, labels).sum() / math.log(2), num_bytes.sum()

    def perplexity(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return losses(outputs, labels).sum(), (labels != IGNORED_LABEL).sum()

    bits_per_byte.lower_is_better = perplexity.lower_is_better = True  # type: ignore[attr-defined]
    perplexity.finish = torch.exp  # type: ignore[attr-defined]
    return {"accuracy": accuracy, "bits_per_byte": bits_per_byte, "perplexity": perplexity}
