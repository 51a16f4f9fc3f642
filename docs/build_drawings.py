"""Draw the tutorial's figures, docs/tutorial/drawings/*.svg, readable on light and on dark pages.

    python -m docs.build_drawings

The loss curve is computed: it trains small nets on data/digits for some seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "tutorial/drawings"
DIGITS = Path(__file__).parents[1] / "data/digits"
STYLE = """<style>
svg { --ink: #1f2328; --paper: #ffffff; --soft: #eaeef2; --grey: #656d76; --blue: #0969da; --red: #cf222e;
  --green: #1a7f37; font: 14px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --paper: #0d1117; --soft: #262c36; --grey: #9198a1;
  --blue: #58a6ff; --red: #ff7b72; --green: #3fb950; } }
text { fill: var(--ink); stroke: var(--paper); stroke-width: 5; paint-order: stroke; }
.in { stroke: none; } .onto { stroke-width: 12; }
.grey { fill: var(--grey); } .small { font-size: 12px; } .bold { font-weight: 600; }
.code { font: 600 13px ui-monospace, monospace; }
.blue { fill: var(--blue); } .red { fill: var(--red); } .green { fill: var(--green); }
.line { fill: none; stroke: var(--grey); stroke-width: 1.5; } .thick { stroke-width: 2; }
.line.blue { stroke: var(--blue); } .line.red { stroke: var(--red); } .line.green { stroke: var(--green); }
.box { fill: var(--soft); stroke: var(--grey); } .leaf { stroke: var(--blue); stroke-width: 2; }
.ghost { fill: none; stroke: var(--grey); stroke-dasharray: 3 3; } .paper { fill: var(--paper); }
</style>"""
HEADS = "".join(
    f'<marker id="{color}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
    f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 8 4 0 8z" class="{color}"/></marker>'
    for color in ("grey", "blue", "red", "green")
)
Point = tuple[float, float]


def svg(width: int, height: int, title: str, *parts: str) -> str:
    """Return a drawing; the title is read aloud by screen readers."""
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    paper = f'<rect width="{width}" height="{height}" rx="6" class="paper"/>'
    return "\n".join((frame, f"<title>{title}</title>", STYLE, f"<defs>{HEADS}</defs>", paper, *parts, "</svg>", ""))


def text(x: float, y: float, words: str, style: str = "", anchor: str = "middle") -> str:
    """Return one line of text, whose baseline is at y."""
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{style}">{words}</text>'


def arrow(start: Point, end: Point, color: str = "grey", bend: float = 0) -> str:
    """Return an arrow; `bend` moves its middle to the left of its direction, by that many pixels."""
    (x1, y1), (x2, y2) = start, end
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    x, y = (x1 + x2) / 2 + 2 * bend * (y2 - y1) / length, (y1 + y2) / 2 - 2 * bend * (x2 - x1) / length
    path = f"M{x1:.1f} {y1:.1f}Q{x:.1f} {y:.1f} {x2:.1f} {y2:.1f}"
    return f'<path d="{path}" class="line {color}" marker-end="url(#{color})"/>'


def cells(x: float, y: float, rows: Sequence[Sequence[object]], side: int = 40, ghosts: Sequence[Point] = ()) -> str:
    """Return a table of numbers; the cells in `ghosts`, (row, column), are only repeated and take no memory."""
    parts = []
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            is_ghost = (i, j) in ghosts
            place = f'x="{x + j * side:g}" y="{y + i * side:g}" width="{side}" height="{side}"'
            parts.append(f'<rect {place} class="{"ghost" if is_ghost else "box"}"/>')
            style = "in grey" if is_ghost else "in"
            parts.append(text(x + (j + 0.5) * side, y + (i + 0.5) * side + 5, str(entry), style))
    return "\n".join(parts)


PLACES = {
    "w1": (80, 60), "a": (80, 150), "w2": (80, 240), "w3": (290, 36), "b": (290, 112), "c": (290, 188),
    "w4": (290, 264), "d": (500, 150), "L": (660, 150),
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
            (x1, y1), (x2, y2) = PLACES[start], PLACES[end]
            length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
            step_x, step_y = 27 * (x2 - x1) / length, 27 * (y2 - y1) / length  # from the centre to the rim
            near, far = (x1 + step_x, y1 + step_y + top), (x2 - step_x, y2 - step_y + top)
            parts.append(arrow(near, far) if is_forward else arrow(far, near, "red"))
            if not is_forward:
                parts.append(text((x1 + x2) / 2, (y1 + y2) / 2 + top + 4, derivative, "small red onto"))
        for name, (x, y) in PLACES.items():
            leaf = " leaf" if name[0] in "aw" else ""
            parts.append(f'<circle cx="{x}" cy="{y + top}" r="25" class="box{leaf}"/>')
            parts.append(text(x, y + top - 3, name, "in bold") + text(x, y + top + 14, str(numbers[name]), "in"))
    notes = ("b = w1 · a", "c = w2 · a", "d = w3 · b + w4 · c", "L = d²")
    parts += [text(560, 246 + 20 * i, note, "grey", "start") for i, note in enumerate(notes)]
    paths = ("dL/da has two paths:", "60 · 4 · 1 + 60 · 2 · 3", "= 240 + 360 = 600")
    parts += [text(560, 590 + 20 * i, note, "grey", "start") for i, note in enumerate(paths)]
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
        text(430, 90, "Dashed entries are repeated:", "small grey", "start"),
        text(430, 108, "they are read again and", "small grey", "start"),
        text(430, 126, "take no memory.", "small grey", "start"),
    ]
    return svg(620, 220, "A column of three plus a row of two is a table of three by two", *parts)


def strides() -> str:
    """Draw six numbers in memory, and two views of them."""
    parts = [
        text(30, 66, "memory", "bold", "start"),
        cells(120, 40, [range(6)]),
        arrow((140, 38), (176, 38), "green", bend=9),
        text(158, 20, "1 place", "small green"),
        arrow((140, 82), (256, 82), "red", bend=-14),
        text(198, 112, "3 places", "small red"),
    ]
    tables = [
        (60, "grid", "(2, 3)", "(3, 1)", [[0, 1, 2], [3, 4, 5]]),
        (340, "grid.t()", "(3, 2)", "(1, 3)", [[0, 3], [1, 4], [2, 5]]),
    ]
    for x, name, shape, stride, rows in tables:
        columns = len(rows[0])
        right, down = ("green", "red") if columns == 3 else ("red", "green")
        parts += [
            text(x + 20, 150, name, "code", "start"),
            cells(x + 20, 190, rows),
            arrow((x + 40, 186), (x + 78, 186), right, bend=7),
            text(x + 59, 170, f"+{stride[4]}", f"small {right}"),
            arrow((x + 16, 210), (x + 16, 248), down, bend=-7),
            text(x - 10, 234, f"+{stride[1]}", f"small {down}"),
            text(x + 20 + 40 * columns + 20, 226, f"shape {shape}", "", "start"),
            text(x + 20 + 40 * columns + 20, 248, f"stride {stride}", "", "start"),
        ]
    return svg(620, 325, "Six numbers in memory, seen through two pairs of shape and stride", *parts)


def losses(learning_rate: float, num_examples: int, num_wrong: int, num_steps: int, batch_size: int) -> list[Point]:
    """Train a small net on some of the digits, some of them with wrong labels; return each step's train and val loss.

    A loss above 10 counts as 10. All sums are in 64 bits, so that another machine draws nearly the same curve.
    """
    import numpy as np
    import torch
    import torch.nn.functional as F

    def read(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        with np.load(DIGITS / f"{split}.npz") as arrays:
            return torch.tensor(arrays["images"] / 255).flatten(1), torch.tensor(arrays["labels"].astype(np.int64))

    (images, labels), (val_images, val_labels) = read("train"), read("val")
    labels[:num_wrong] = (labels[:num_wrong] + 1) % 10
    generator = torch.Generator().manual_seed(230)
    sizes = [(64, 32), (32, 10)]
    weights = [torch.randn(size, generator=generator, dtype=torch.float64) / size[0] ** 0.5 for size in sizes]
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


def curve(origin: Point, values: Sequence[float], top: float, color: str) -> str:
    """Return a curve of 300 x 200 pixels; `top` is the value at its upper edge."""
    x, y = origin
    step = 300 / (len(values) - 1)
    points = [f"{x + i * step:.0f} {y - 200 * min(value / top, 1):.0f}" for i, value in enumerate(values)]
    return f'<path d="M{" ".join(points)}" class="line thick {color}"/>'


def loss() -> str:
    """Draw losses at three learning rates, and train and val loss of a net that memorises."""
    parts = []
    headings = ("three learning rates", "200 examples, 40 labels wrong")
    for x, heading, top in ((60, headings[0], 4), (440, headings[1], 2.5)):
        parts.append(f'<path d="M{x} 50V250H{x + 300}" class="line"/>')
        parts += [text(x - 8, 54, f"{top:g}", "small grey", "end"), text(x - 8, 254, "0", "small grey", "end")]
        parts += [text(x, 26, f"loss, {heading}", "bold", "start"), text(x + 300, 270, "steps", "small grey", "end")]
    for rate, color, y in ((0.005, "blue", 118), (0.5, "green", 218), (3.0, "red", 72)):
        values = [train for train, _ in losses(rate, 1258, 0, 121, 64)]
        parts += [curve((60, 250), values, 4, color), text(300, y, f"learning rate {rate:g}", f"small {color}")]
    points = losses(0.5, 200, 40, 601, 200)[::10]
    for number, name, color, y in ((0, "train", "blue", 228), (1, "val", "red", 120)):
        values = [point[number] for point in points]
        parts += [curve((440, 250), values, 2.5, color), text(700, y, name, f"small {color}")]
    return svg(
        780, 285, "Left: the loss at three learning rates. Right: train and val loss of a net that memorises", *parts
    )


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
        near = (x1 + width / 2 * (1 + right), y1 + height / 2 * (1 + down))
        far = (x2 + width / 2 * (1 - right), y2 + height / 2 * (1 - down))
        parts.append(arrow(near, far, "blue" if (start, end) in WAY else "grey"))
    for name, (x, y, file, words) in BOXES.items():
        style = "box leaf" if name in {end for _, end in WAY} | {"data"} else "box"
        parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="{style}"/>')
        parts.append(text(x + width / 2, y + 27, file, "in code") + text(x + width / 2, y + 47, words, "in small"))
    notes = ("Blue: the way of a batch, and of its", "metrics. Grey: what decides about it.")
    parts += [text(20, 250 + 20 * i, note, "small grey", "start") for i, note in enumerate(notes)]
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
        parts.append(arrow((320, below), (320, above + 44)))
    for y in (150, 220):  # the way past a layer
        parts.append(arrow((335, y + 58), (335, y - 12), "blue", bend=-60))
        parts.append(text(448, y + 27, "+", "blue bold"))
    for y, code, words, style in rows:
        parts.append(f'<rect x="220" y="{y}" width="200" height="44" rx="6" class="{style}"/>')
        parts.append(text(320, y + 19, code, "in code") + text(320, y + 37, words, "in small"))
    parts.append(text(555, 210, "a block: num_layers times", "small grey", "start"))
    parts.append(text(20, 60, "Blue: the features go past each layer,", "small grey", "start"))
    parts.append(text(20, 78, "which adds to them.", "small grey", "start"))
    return svg(740, 414, "The transformer, from tokens at the bottom to logits at the top", *parts)


DRAWINGS: dict[str, Callable[[], str]] = {
    "graph.svg": graph,
    "broadcasting.svg": broadcasting,
    "strides.svg": strides,
    "loss.svg": loss,
    "batch.svg": batch,
    "transformer.svg": transformer,
}


def main() -> None:
    """Run the script."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
