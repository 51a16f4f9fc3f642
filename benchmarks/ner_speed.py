"""Measure how fast a tagger trains, against a loop that works as CS230's does.

    python -m benchmarks.ner_speed
    python -m benchmarks.ner_speed --rounds 3 --sentences 2000

Prints tokens per second, for batches of 32 and of 5, over one epoch of made-up text of the size of CoNLL-2003: 14,000
sentences of 14.5 tokens on average, 30,000 words with Zipf's frequencies. Both train CS230's net (embedding 50, LSTM
50); the loops take turns, each in a process of its own, and the ratio is that of their medians. Writes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from benchmarks.our_loop import OurLoop
from fiveline.device import seed_everything
from model.ner import net as ner_net
from model.ner.data_loader import fetch_dataset, fetch_facts
from model.ner.params import Params

NUM_WORDS, MEAN_LENGTH = 30_000, 14.5
TAGS = ["O", *(f"{prefix}-{kind}" for kind in ("PER", "LOC", "ORG", "MISC") for prefix in "BI")]


def write_corpus(data_dir: Path, num_sentences: int) -> int:
    """Write made-up text in CS230's layout, the vocabulary too; return the number of its tokens."""
    generator = np.random.default_rng(230)
    frequencies = 1 / np.arange(1, NUM_WORDS + 1)
    lengths = np.clip(generator.gamma(1.5, MEAN_LENGTH / 1.5, num_sentences).round(), 1, 113).astype(int)
    ends = lengths.cumsum()[:-1]
    words = np.split(generator.choice(NUM_WORDS, lengths.sum(), p=frequencies / frequencies.sum()), ends)
    tags = np.split(generator.choice(len(TAGS), lengths.sum(), p=[0.83] + [0.17 / 8] * 8), ends)
    for split in ("train", "val", "test"):
        (data_dir / split).mkdir()
        sentences = "".join(" ".join(f"w{word}" for word in line) + "\n" for line in words)
        labels = "".join(" ".join(TAGS[tag] for tag in line) + "\n" for line in tags)
        (data_dir / split / "sentences.txt").write_text(sentences, encoding="utf-8")
        (data_dir / split / "labels.txt").write_text(labels, encoding="utf-8")
    vocabulary = [*(f"w{word}" for word in range(NUM_WORDS)), "<pad>", "UNK"]
    (data_dir / "words.txt").write_text("".join(f"{word}\n" for word in vocabulary), encoding="utf-8")
    (data_dir / "tags.txt").write_text("".join(f"{tag}\n" for tag in TAGS), encoding="utf-8")
    return int(lengths.sum())


def cs230_batches(
    sentences: Sequence[list[int]], tags: Sequence[list[int]], batch_size: int, pad: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch as CS230 does: lists of numbers in random order, copied one by one into padded NumPy arrays of floats."""
    order = list(range(len(sentences)))
    random.seed(230)
    random.shuffle(order)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        shape = (len(chosen), max(len(sentences[i]) for i in chosen))
        words, labels = pad * np.ones(shape), -1 * np.ones(shape)
        for row, i in enumerate(chosen):
            words[row][: len(sentences[i])] = sentences[i]
            labels[row][: len(sentences[i])] = tags[i]
        yield torch.LongTensor(words), torch.LongTensor(labels)


class Cs230Loop:
    """CS230's net and loop: log-probabilities, plain Adam, the loss read and shown at each step, metrics now and then.

    Args:
        data_dir: the dataset
        params: with facts
    """

    def __init__(self, data_dir: Path, params: Params) -> None:
        dataset = fetch_dataset("train", data_dir, params)
        examples = [dataset[i] for i in range(len(dataset))]
        self.sentences = [inputs["words"].tolist() for inputs, _ in examples]
        self.tags = [labels.tolist() for _, labels in examples]
        self.params, self.model = params, ner_net.Net(params)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=params.learning_rate)

    def epoch(self) -> None:
        """Train for one epoch."""
        self.model.train()
        total, summaries = 0.0, []
        pad = self.model.pad
        batches = cs230_batches(self.sentences, self.tags, self.params.batch_size, pad)
        progress = trange(math.ceil(len(self.sentences) / self.params.batch_size), file=io.StringIO())
        for step in progress:
            words, labels = next(batches)
            outputs = self.model({"words": words}).flatten(0, 1).log_softmax(dim=1)
            flat = labels.flatten()
            mask = (flat >= 0).float()
            picked = outputs[range(len(outputs)), flat % outputs.shape[1]]
            loss = -(picked * mask).sum() / int(mask.sum())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if step % self.params.save_summary_steps == 0:
                hits = outputs.detach().numpy().argmax(axis=1) == flat.numpy()
                summaries.append((hits.sum() / float(mask.sum()), loss.item()))
            total += loss.item()
            progress.set_postfix(loss=f"{total / (step + 1):05.3f}")


LOOPS: dict[str, type[Cs230Loop | OurLoop]] = {"CS230's": Cs230Loop, "ours": OurLoop}
_loop: Cs230Loop | OurLoop  # the one of this process


def _start(name: str, data_dir: Path, batch_size: int, num_threads: int) -> None:
    """Make a process ready to train with one of the loops."""
    global _loop
    torch.set_num_threads(num_threads)
    params = Params.from_values({"batch_size": batch_size}, "benchmark")
    params = params.with_facts(fetch_facts(data_dir, params))
    seed_everything(230)
    _loop = LOOPS[name](data_dir, params)


def _time_epoch() -> float:
    """Return the seconds that an epoch takes in this process."""
    start = time.perf_counter()
    _loop.epoch()
    return time.perf_counter() - start


def measure(data_dir: Path, num_tokens: int, batch_size: int, rounds: int, num_threads: int) -> None:
    """Let the loops take turns, each in a process of its own, and print tokens per second and their ratio.

    One process for both would be no comparison: how fast plain Adam is depends on what the memory was used for before.
    """
    speeds: dict[str, list[float]] = {name: [] for name in LOOPS}
    with contextlib.ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        processes = {
            name: stack.enter_context(
                ProcessPoolExecutor(1, context, _start, (name, data_dir, batch_size, num_threads))
            )
            for name in LOOPS
        }
        for process in processes.values():
            process.submit(int).result()  # wait until it is ready
        for _ in range(rounds):
            for name, process in processes.items():
                speeds[name].append(num_tokens / process.submit(_time_epoch).result())
    for name, values in speeds.items():
        spread = f"{min(values):>9,.0f} to {max(values):>9,.0f}"
        print(f"batch {batch_size:2}  {name:8} {statistics.median(values):>9,.0f} tokens/s  ({spread})")
    theirs, mine = speeds.values()
    ratios = [b / a for a, b in zip(theirs, mine, strict=True)]
    ratio = statistics.median(mine) / statistics.median(theirs)
    print(f"batch {batch_size:2}  ratio    {ratio:9.2f}           ({min(ratios):9.2f} to {max(ratios):9.2f} by round)")


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each loop; the median counts")
    parser.add_argument("--sentences", type=int, default=14_000, help="in the made-up text")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="that torch computes with")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        num_tokens = write_corpus(Path(folder), args.sentences)
        for batch_size in (32, 5):
            measure(Path(folder), num_tokens, batch_size, args.rounds, args.threads)


if __name__ == "__main__":
    main()
