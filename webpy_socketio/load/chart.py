"""The latencies of a load test over time as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape

from webpy_socketio.load.report import duration
from webpy_socketio.load.result import Interval, Result

__all__ = ["chart"]

_WIDTH, _HEIGHT = 860, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 70, 50

#: Percentile and colour of each line.
_LINES = ((50.0, "#2a7de1"), (95.0, "#dd8452"), (99.0, "#c44e52"))


def chart(result: Result) -> str:
    """Return a chart of p50, p95 and p99 in each interval, on a logarithmic scale."""
    shown = [one for one in result.intervals if one.latency.count]
    title = (
        f"{result.connected:,} clients, {result.send_rate:,.4g} events per second: "
        f"latency of {result.measured_with}s"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="44" fill="#666">{escape(result.url)}</text>',
    ]
    if shown:
        parts += _axes_and_lines(shown, result.seconds)
    else:
        parts.append(f'<text x="{_LEFT}" y="{_HEIGHT / 2}">no latency was measured</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes_and_lines(shown: list[Interval], seconds: float) -> Iterator[str]:
    values = [one.latency.percentile(percent) for one in shown for percent, _ in _LINES]
    low, high = min(values) / 1.2, max(values) * 1.2
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def y(value: float) -> float:
        return bottom - math.log(value / low) / math.log(high / low) * (bottom - _TOP)

    def x(moment: float) -> float:
        return _LEFT + moment / max(seconds, 1.0) * (right - _LEFT)

    yield from _grid(low, high, seconds, x, y)
    for number, (percent, colour) in enumerate(_LINES):
        points = [(x(one.begin), y(one.latency.percentile(percent))) for one in shown]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from (
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="2.5" fill="{colour}"/>'
            for left, top in points
        )
        place = _WIDTH - 220 + 70 * number
        yield f'<circle cx="{place}" cy="40" r="5" fill="{colour}"/>'
        yield f'<text x="{place + 9}" y="44">p{percent:g}</text>'


def _grid(
    low: float,
    high: float,
    seconds: float,
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for power in range(-6, 4):
        for step in (1, 2, 5):
            value = step * 10.0**power
            if low <= value <= high:
                yield f'<path d="M{_LEFT} {y(value):.1f}H{right}" stroke="#ddd"/>'
                yield _text(_LEFT - 8, y(value) + 4, "end", duration(value))
    for tenth in range(0, 11, 2):
        moment = max(seconds, 1.0) * tenth / 10
        yield _text(x(moment), bottom + 20, "middle", f"{moment:.3g} s")
    yield f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#000"/>'


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
