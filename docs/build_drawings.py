"""Draw the tutorial's figures, docs/tutorial/drawings/*.svg, readable on light and on dark pages.

    python -m docs.build_drawings

The loss curve is computed: it trains small nets on data/digits for some seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from docs.shapes import FOLDER, arrow, box, cells, lines, svg, text, unit

DIGITS = Path(__file__).parents[1] / "data/digits"

PLACES = {
    "w1": 80 + 60j, "a": 80 + 150j, "w2": 80 + 240j, "w3": 290 + 36j, "b": 290 + 112j, "c": 290 + 188j,
    "w4": 290 + 264j, "d": 500 + 150j, "L": 660 + 150j,
}  # fmt: skip
VALUES = {"a": 3, "w1": 1, "w2": 3, "w3": 4, "w4": 2, "b": 3, "c": 9, "d": 30, "L": 900}
GRADIENTS = {"a": 600, "w1": 720, "w2": 360, "w3": 180, "w4": 540, "b": 240, "c": 120, "d": 60, "L": 1}
EDGES = {  # from, to: the derivative of `to` with respect to `from`
    ("w1", "b"): "a = 3", ("a", "b"): "w1 = 1", ("a", "c"): "w2 = 3", ("w2", "c"): "a = 3", ("w3", "d"): "b = 3",
    ("b", "d"): "w3 = 4", ("c", "d"): "w4 = 2", ("w4", "d"): "c = 9", ("d", "L"): "2d = 60",
}  # fmt: skip


def graph() -> str:
    """Draw the graph of the chain rule: values forward, gradients backward."""
    parts = []
    for top, numbers, is_forward in ((30, VALUES, True), (360, GRADIENTS, False)):
        heading = "forward: values" if is_forward else "backward: gradients of L; on each arrow its own derivative"
        parts.append(text(20, top - 4, heading, "bold", "start"))
        for (start, end), derivative in EDGES.items():
            near, far = PLACES[start] + top * 1j, PLACES[end] + top * 1j
            rim, middle = 27 * unit(far - near), (near + far) / 2
            parts.append(arrow(near + rim, far - rim) if is_forward else arrow(far - rim, near + rim, "red"))
            if not is_forward:
                parts.append(text(middle.real, middle.imag + 4, derivative, "small red onto"))
        for name, place in PLACES.items():
            x, y, leaf = place.real, place.imag + top, " leaf" if name[0] in "aw" else ""
            parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="25" class="box{leaf}"/>')
            parts.append(text(x, y - 3, name, "in bold") + text(x, y + 14, str(numbers[name]), "in"))
    parts += lines(560, 246, ("b = w1 · a", "c = w2 · a", "d = w3 · b + w4 · c", "L = d²"), "grey")
    parts += lines(560, 590, ("dL/da has two paths:", "60 · 4 · 1 + 60 · 2 · 3", "= 240 + 360 = 600"), "grey")
    return svg(740, 680, "A graph with values forward and gradients backward", *parts)


def broadcasting() -> str:
    """Draw a column plus a row."""
    parts = [
        cells(30, 40, [[10, 10], [20, 20], [30, 30]], ghosts=[(i, 1) for i in range(3)]),
        text(140, 107, "+"),
        cells(170, 40, [[1, 2]] * 3, ghosts=[(i, j) for i in (1, 2) for j in (0, 1)]),
        text(280, 107, "="),
        cells(310, 40, [[11, 12], [21, 22], [31, 32]]),
        *(text(x, 24, words, "bold") for x, words in ((70, "column"), (210, "row"), (350, "column + row"))),
        *(text(x, 184, words, "code") for x, words in ((70, "(3, 1)"), (210, "(2,)"), (350, "(3, 2)"))),
        text(210, 204, "counts as (1, 2)", "small grey"),
        *lines(
            430, 90, ("Dashed entries are repeated:", "they are read again and", "take no memory."), "small grey", 18
        ),
    ]
    return svg(620, 220, "A column of three plus a row of two is a table of three by two", *parts)


def strides() -> str:
    """Draw six numbers in memory, and two views of them."""
    parts = [
        text(30, 66, "memory", "bold", "start"),
        cells(120, 40, [range(6)]),
        arrow(140 + 38j, 176 + 38j, "green", bend=9),
        text(158, 20, "1 place", "small green"),
        arrow(140 + 82j, 256 + 82j, "red", bend=-14),
        text(198, 112, "3 places", "small red"),
    ]
    grid, turned = [[0, 1, 2], [3, 4, 5]], [[0, 3], [1, 4], [2, 5]]
    tables = [(60, "grid", "(2, 3)", "(3, 1)", grid), (340, "grid.t()", "(3, 2)", "(1, 3)", turned)]
    for x, name, shape, stride, rows in tables:
        columns = len(rows[0])
        right, down = ("green", "red") if columns == 3 else ("red", "green")
        parts += [
            text(x + 20, 150, name, "code", "start"),
            cells(x + 20, 190, rows),
            arrow(x + 40 + 186j, x + 78 + 186j, right, bend=7),
            text(x + 59, 170, f"+{stride[4]}", f"small {right}"),
            arrow(x + 16 + 210j, x + 16 + 248j, down, bend=-7),
            text(x - 10, 234, f"+{stride[1]}", f"small {down}"),
            *lines(x + 40 * columns + 40, 226, (f"shape {shape}", f"stride {stride}"), "", 22),
        ]
    return svg(620, 325, "Six numbers in memory, seen through two pairs of shape and stride", *parts)


def losses(
    learning_rate: float, num_examples: int, num_wrong: int, num_steps: int, batch_size: int
) -> list[tuple[float, float]]:
    """Train a small net on some of the digits, some of them with wrong labels; return each step's train and val loss.

    A loss above 10 counts as 10. All sums are in 64 bits, so that another machine draws nearly the same curve.
    """
    import numpy as np
    import torch
    import torch.nn.functional as F

    arrays = [np.load(DIGITS / f"{split}.npz") for split in ("train", "val")]
    images, val_images = (torch.tensor(array["images"] / 255).flatten(1) for array in arrays)
    labels, val_labels = (torch.tensor(array["labels"].astype(np.int64)) for array in arrays)
    labels[:num_wrong] = (labels[:num_wrong] + 1) % 10
    generator = torch.Generator().manual_seed(230)
    weights = [torch.randn(n, m, generator=generator, dtype=torch.float64) / n**0.5 for n, m in ((64, 32), (32, 10))]
    weights = [weight.requires_grad_() for weight in weights]

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy((x @ weights[0]).tanh() @ weights[1], y)

    curve = []
    for _ in range(num_steps):
        rows = torch.randint(0, num_examples, (batch_size,), generator=generator)
        with torch.no_grad():
            val_loss = loss_of(val_images, val_labels).item()
        loss = loss_of(images[rows], labels[rows])
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data -= learning_rate * gradient
        curve.append((min(loss.item(), 10.0), min(val_loss, 10.0)))
    return curve


def curve(x: int, values: Sequence[float], top: float, color: str) -> str:
    """Return a curve of 300 x 200 pixels; `top` is the value at its upper edge."""
    step = 300 / (len(values) - 1)
    points = [f"{x + i * step:.0f} {250 - 200 * min(value / top, 1):.0f}" for i, value in enumerate(values)]
    return f'<path d="M{" ".join(points)}" class="line thick {color}"/>'


def loss() -> str:
    """Draw losses at three learning rates, and train and val loss of a net that memorises."""
    parts = []
    for x, heading, top in ((60, "three learning rates", 4), (440, "200 examples, 40 labels wrong", 2.5)):
        parts.append(f'<path d="M{x} 50V250H{x + 300}" class="line"/>')
        parts += [text(x - 8, 54, f"{top:g}", "small grey", "end"), text(x - 8, 254, "0", "small grey", "end")]
        parts += [text(x, 26, f"loss, {heading}", "bold", "start"), text(x + 300, 270, "steps", "small grey", "end")]
    for rate, color, y in ((0.005, "blue", 118), (0.5, "green", 218), (3.0, "red", 72)):
        rates, _ = zip(*losses(rate, 1258, 0, 121, 64), strict=True)
        parts += [curve(60, rates, 4, color), text(300, y, f"learning rate {rate:g}", f"small {color}")]
    train_values, val_values = zip(*losses(0.5, 200, 40, 601, 200)[::10], strict=True)
    for values, name, color, y in ((train_values, "train", "blue", 228), (val_values, "val", "red", 120)):
        parts += [curve(440, values, 2.5, color), text(700, y, name, f"small {color}")]
    title = "Left: the loss at three learning rates. Right: train and val loss of a net that memorises"
    return svg(780, 285, title, *parts)


BOXES = {
    "params": (20, 20, "experiments/<run>/params.json", "read by model/<task>/params.py"),
    "data": (20, 120, "model/<task>/data_loader.py", "an example of data/<dataset>/"),
    "state": (290, 20, "fiveline/state.py", "weights, position, learning rate"),
    "loader": (290, 120, "fiveline/loader.py", "which examples are in a batch"),
    "evaluate": (290, 220, "evaluate.py", "val, without a step"),
    "run": (290, 320, "experiments/<run>/", "checkpoints, history, metrics"),
    "net": (560, 20, "model/<task>/net.py", "outputs, loss, metrics"),
    "step": (560, 120, "train.py", "the five lines"),
    "metrics": (560, 220, "fiveline/metrics.py", "sums, divided once"),
    "saving": (560, 320, "fiveline/saving.py", "when to save"),
}
WAY = [("data", "loader"), ("loader", "step"), ("step", "metrics"), ("loader", "evaluate"), ("evaluate", "metrics"),
       ("metrics", "saving"), ("saving", "run")]  # fmt: skip
SETTINGS = [("params", "data"), ("state", "loader"), ("net", "step")]


def batch() -> str:
    """Draw a batch's way through the files."""
    width, height, parts = 240, 62, []
    for start, end in [*WAY, *SETTINGS]:
        (x1, y1, *_), (x2, y2, *_) = BOXES[start], BOXES[end]
        right, down = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)  # each 1, 0 or -1
        near = complex(x1 + width / 2 * (1 + right), y1 + height / 2 * (1 + down))
        far = complex(x2 + width / 2 * (1 - right), y2 + height / 2 * (1 - down))
        parts.append(arrow(near, far, "blue" if (start, end) in WAY else "grey"))
    for name, (x, y, file, words) in BOXES.items():
        style = "box leaf" if name in {end for _, end in WAY} | {"data"} else "box"
        parts += box(x, y, (width, height), style, file, words)
    parts += lines(
        20, 250, ("Blue: the way of a batch, and of its", "metrics. Grey: what decides about it."), "small grey"
    )
    return svg(820, 402, "The files that a batch passes, in order", *parts)


def transformer() -> str:
    """Draw the net of model/text: what happens to the features of each token."""
    rows = [
        (350, "tokens", "(B, L) numbers", "box"),
        (290, "wte + wpe", "(B, L, W) embeddings", "box"),
        (220, "ln_1, attn", "mixes earlier tokens", "box leaf"),
        (150, "ln_2, mlp", "each token alone", "box leaf"),
        (80, "ln_f", "(B, L, W) features", "box"),
        (20, "wte again", "(B, L, V) logits", "box"),
    ]
    parts = ['<rect x="180" y="138" width="360" height="134" rx="6" class="ghost"/>']
    for (below, *_), (above, *_) in zip(rows, rows[1:], strict=False):
        parts.append(arrow(320 + below * 1j, 320 + (above + 44) * 1j))
    for y in (150, 220):  # the way past a layer
        parts.append(arrow(335 + (y + 58) * 1j, 335 + (y - 12) * 1j, "blue", bend=-60))
        parts.append(text(448, y + 27, "+", "blue bold"))
    for y, code, words, style in rows:
        parts += box(220, y, (200, 44), style, code, words)
    parts += lines(555, 210, ["a block: num_layers times"], "small grey")
    parts += lines(20, 60, ("Blue: the features go past each layer,", "which adds to them."), "small grey", 18)
    return svg(740, 414, "The transformer, from tokens at the bottom to logits at the top", *parts)


DRAWINGS = {f"{draw.__name__}.svg": draw for draw in (graph, broadcasting, strides, loss, batch, transformer)}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
