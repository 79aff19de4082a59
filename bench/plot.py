"""A chart of the table as SVG: ratios to each server, and the goals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from server_list import SERVERS
from table import Line

__all__ = ["plot"]

COLOURS = {"gevent": "#c44e52", "uvicorn": "#dd8452", "node": "#4c9a4c", "c": "#444444"}
LABELS, WIDTH, STEP, TOP = 380, 960, 22, 56

#: Minimum range of the scale; larger ratios extend it.
LEAST, MOST = 0.5, 20.0


def plot(lines: Sequence[Line]) -> str:
    """Return the chart: a line for each row that has a ratio, on a logarithmic scale.

    Rates are omitted: they show by wall-clock time what the preceding row shows by CPU time.
    """
    shown = [
        line
        for line in lines
        if any(cell.ratio for cell in line.cells.values()) and not line.unit.endswith("/s")
    ]
    ratios = [cell.ratio for line in shown for cell in line.cells.values() if cell.ratio]
    scale = _Scale(min([LEAST, *ratios]) / 1.1, max([MOST, *ratios]) * 1.1)
    height = TOP + STEP * len(shown) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *_legend(),
        *_grid(scale, height),
    ]
    for number, line in enumerate(shown):
        parts += _row(line, TOP + STEP * number + STEP / 2, scale)
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Scale:
    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most

    def __call__(self, ratio: float) -> float:
        share = math.log(ratio / self.least) / math.log(self.most / self.least)
        return LABELS + share * (WIDTH - LABELS - 20)


def _legend() -> Iterable[str]:
    yield (
        '<text x="10" y="20" font-weight="bold">How many times better than each server</text>'
        '<text x="10" y="38" fill="#666">○ goal</text>'
    )
    x = LABELS
    for server in SERVERS:
        if server.name in COLOURS:
            yield f'<circle cx="{x}" cy="16" r="5" fill="{COLOURS[server.name]}"/>'
            yield f'<text x="{x + 9}" y="20">{escape(server.title)}</text>'
            x += 24 + 6 * len(server.title)


def _grid(scale: _Scale, height: int) -> Iterable[str]:
    for ratio in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if scale.least <= ratio <= scale.most:
            x, colour = scale(ratio), "#000" if ratio == 1 else "#ddd"
            yield f'<path d="M{x:.1f} {TOP - 6}V{height - 24}" stroke="{colour}"/>'
            yield f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">×{ratio:g}</text>'


def _row(line: Line, y: float, scale: _Scale) -> Iterable[str]:
    title = escape(f"{line.title}, {line.unit}")
    yield f'<text x="{LABELS - 10}" y="{y + 4:.1f}" text-anchor="end" font-size="11">{title}</text>'
    for name, colour in COLOURS.items():
        cell = line.cells.get(name)
        if cell is not None and cell.ratio:
            yield f'<circle cx="{scale(cell.ratio):.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'
        if name in line.goals:
            x = scale(line.goals[name])
            yield (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" fill="none" stroke="{colour}" '
                'stroke-width="1.5"/>'
            )
