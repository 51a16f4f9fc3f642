"""The shapes that the tutorial's figures are made of, as SVG; style.css beside the figures has their colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "tutorial/drawings"
STYLE = (FOLDER / "style.css").read_text(encoding="utf-8")
HEADS = "".join(
    f'<marker id="{color}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
    f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 8 4 0 8z" class="{color}"/></marker>'
    for color in ("grey", "blue", "red", "green")
)


def svg(width: int, height: int, title: str, *parts: str) -> str:
    """Return a drawing; the title is read aloud by screen readers."""
    head = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">
<title>{title}</title>
<style>
{STYLE}</style>
<defs>{HEADS}</defs>
<rect width="{width}" height="{height}" rx="6" class="paper"/>"""
    return "\n".join((head, *parts, "</svg>", ""))


def text(x: float, y: float, words: str, style: str = "", anchor: str = "middle") -> str:
    """Return one line of text, whose baseline is at y."""
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{style}">{words}</text>'


def arrow(start: complex, end: complex, color: str = "grey", bend: float = 0) -> str:
    """Return an arrow between points x + y j; `bend` moves its middle to the left, by that many pixels."""
    middle = (start + end) / 2 - 2j * bend * unit(end - start)
    x, y, z = (f"{each.real:.1f} {each.imag:.1f}" for each in (start, middle, end))
    return f'<path d="M{x}Q{y} {z}" class="line {color}" marker-end="url(#{color})"/>'


def unit(vector: complex) -> complex:
    """Return the vector of the same direction whose length is 1."""
    return vector / abs(vector)


def lines(x: float, y: float, notes: Sequence[str], style: str, gap: int = 20) -> list[str]:
    """Return several lines of text that begin at x, the first one at y."""
    return [text(x, y + gap * i, note, style, "start") for i, note in enumerate(notes)]


def box(x: float, y: float, size: tuple[int, int], style: str, words: str, small: str) -> list[str]:
    """Return a box with a name in it, and a line of small text."""
    (width, height), middle, gap = size, x + size[0] / 2, 14 + size[1] // 10
    frame = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="{style}"/>'
    y += (height - gap) / 2 + 6
    return [frame, text(middle, y, words, "in code") + text(middle, y + gap, small, "in small")]


def cells(x: float, y: float, rows: Sequence[Sequence[object]], ghosts: Sequence[tuple[int, int]] = ()) -> str:
    """Return a table of numbers; the cells in `ghosts`, (row, column), are only repeated and take no memory."""
    parts = []
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            style, ghost = ("ghost", " grey") if (i, j) in ghosts else ("box", "")
            parts.append(f'<rect x="{x + 40 * j:g}" y="{y + 40 * i:g}" width="40" height="40" class="{style}"/>')
            parts.append(text(x + 40 * j + 20, y + 40 * i + 25, str(entry), f"in{ghost}"))
    return "\n".join(parts)
