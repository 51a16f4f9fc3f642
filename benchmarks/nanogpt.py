"""What nanoGPT's train.py does on a CPU, with its settings for characters; `python -m benchmarks.text next` runs it.

    python -m benchmarks.nanogpt FOLDER NUM_STEPS NUM_TOKENS

FOLDER holds the tokens of both splits, train.bin and val.bin, as uint16. Writes ckpt.pt beside them. As in nanoGPT, the
net has no biases, AdamW goes through the weights one after the other, and the loss of each step is printed.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS, HEADS, WIDTH, LENGTH, BATCH = 4, 4, 128, 64, 12
RATE, LOWEST_RATE, WARMUP, EVAL_INTERVAL, EVAL_BATCHES = 1e-3, 1e-4, 100, 250, 20


class Block(nn.Module):
    """Causal attention and a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(WIDTH, 4 * WIDTH, bias=False), "c_proj": nn.Linear(4 * WIDTH, WIDTH, bias=False)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of x, (B, L, W)."""
        parts = self.c_attn(self.ln_1(x)).split(WIDTH, dim=2)
        q, k, v = (part.view(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(x.shape))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class GPT(nn.Module):
    """The net; its loss is part of it."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(num_tokens, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.h = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.ln_f = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * LAYERS) if name.endswith("c_proj.weight") else 1))

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss."""
        x = self.h(self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1])))
        return F.cross_entropy(F.linear(self.ln_f(x), self.wte.weight).flatten(0, 1), labels.flatten())


def get_batch(split: str, folder: Path) -> tuple[Tensor, Tensor]:
    """Return random windows and their next tokens; the map is made again each time, as nanoGPT does it."""
    data = np.memmap(folder / f"{split}.bin", dtype=np.uint16, mode="r")
    starts = torch.randint(len(data) - LENGTH, (BATCH,))
    windows = [[torch.from_numpy(data[i + j : i + j + LENGTH].astype(np.int64)) for i in starts] for j in (0, 1)]
    return torch.stack(windows[0]), torch.stack(windows[1])


@torch.no_grad()
def estimate_losses(net: GPT, folder: Path) -> dict[str, float]:
    """Return the mean loss of random batches of each split."""
    net.eval()
    losses = {s: sum(net(*get_batch(s, folder)).item() for _ in range(EVAL_BATCHES)) for s in ("train", "val")}
    net.train()
    return {split: loss / EVAL_BATCHES for split, loss in losses.items()}


def main(folder: Path, num_steps: int, num_tokens: int) -> None:
    """Train, and keep the weights of the lowest estimate on val."""
    torch.manual_seed(1337)
    net, best, start = GPT(num_tokens), math.inf, time.time()
    decayed, others = ([w for w in net.parameters() if (w.dim() > 1) == decays] for decays in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99))
    batch = get_batch("train", folder)
    for step in range(num_steps + 1):
        share = (step - WARMUP) / (num_steps - WARMUP)
        decayed_rate = LOWEST_RATE + 0.5 * (1 + math.cos(math.pi * share)) * (RATE - LOWEST_RATE)
        for group in optimizer.param_groups:
            group["lr"] = RATE * (step + 1) / (WARMUP + 1) if step < WARMUP else decayed_rate
        if step % EVAL_INTERVAL == 0:
            losses = estimate_losses(net, folder)
            print(f"step {step}: {losses}", flush=True)
            if losses["val"] < best:
                best = losses["val"]
                if step > 0:
                    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                    torch.save(state, folder / "ckpt.pt")
        loss = net(*batch)
        batch = get_batch("train", folder)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        now = time.time()
        print(f"iter {step}: loss {loss.item():.4f}, time {1000 * (now - start):.2f} ms")
        start = now


@torch.no_grad()
def score(folder: Path, num_tokens: int) -> float:
    """Return the loss of the kept weights over all of val, in windows that follow each other."""
    net = GPT(num_tokens)
    net.load_state_dict(torch.load(folder / "ckpt.pt", weights_only=True)["model"])
    data = torch.from_numpy(np.fromfile(folder / "val.bin", dtype=np.uint16).astype(np.int64))
    windows = zip(data[:-1].split(LENGTH), data[1:].split(LENGTH), strict=True)
    return sum(net(x[None], y[None]).item() * len(y) for x, y in windows) / (len(data) - 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
