"""The result of a load test as text, with a plot for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from webpy_socketio.load.histogram import PERCENTILES, Histogram
from webpy_socketio.load.result import ACKNOWLEDGEMENT, Result

__all__ = ["duration", "report"]

#: Columns of the longest bar.
_BAR = 50

#: Seconds of lag of the load generator above which latencies are not those of the server.
_MAX_LAG = 0.05


def report(result: Result) -> str:
    """Return the report; it ends with a newline."""
    return "\n".join([*_lines(result), *_plot(result.latency)]) + "\n"


def duration(seconds: float) -> str:
    """Format a duration with three digits: ``850 µs``, ``12.5 ms`` or ``1.25 s``."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _lines(result: Result) -> Iterator[str]:
    failed = result.clients - result.connected
    what = 'acknowledgements of "{}"' if result.measured_with == ACKNOWLEDGEMENT else "pings"
    yield f"{result.url}" + (", interrupted" if result.is_interrupted else "")
    yield ""
    yield f"clients     {result.connected:,} connected" + (f", {failed:,} not" if failed else "")
    yield (
        f"events      {result.sent:,} sent in {result.seconds:.3g} s "
        f"({result.send_rate:,.4g} per second), {result.received:,} received"
    )
    yield f"latency     {_summary(result.latency)}"
    if result.latency.count:
        yield f"            of {result.latency.count:,} {what.format(result.event)}"
    yield f"connecting  {_summary(result.connecting)}"
    if result.measured_with != ACKNOWLEDGEMENT and result.sent:
        yield f'note        no handler acknowledges "{result.event}": latency without handlers'
    if result.lag.percentile(99) > _MAX_LAG:
        yield (
            f"warning     the load generator was late (p99 {duration(result.lag.percentile(99))}): "
            "reduce --clients or --rate,\n            or use several machines"
        )
    yield f"errors      {sum(result.errors.values()):,}"
    for kind, count in result.errors.most_common():
        yield f"            {count:,} × {kind}"


def _summary(histogram: Histogram) -> str:
    if not histogram.count:
        return "not measured"
    parts = [f"p{value:g} {duration(histogram.percentile(value))}" for value in PERCENTILES]
    return ", ".join([*parts, f"max {duration(histogram.maximum)}"])


def _plot(latency: Histogram) -> Iterator[str]:
    """Return the distribution as bars, in steps of 1, 2 and 5."""
    if not latency.count:
        return
    borders = [step * 10.0**power for power in range(-5, 4) for step in (1, 2, 5)]
    counts = []
    passed = 0
    for border in borders:
        up_to = latency.count_up_to(border)
        counts.append((border, up_to - passed))
        passed = up_to
    first = next(number for number, (_, count) in enumerate(counts) if count)
    last = max(number for number, (_, count) in enumerate(counts) if count)
    largest = max(count for _, count in counts)
    yield ""
    for border, count in counts[first : last + 1]:
        bar = "#" * max(1 if count else 0, round(count / largest * _BAR))
        yield f"  up to {duration(border):>6}  {bar:<{_BAR}} {count / latency.count:>6.1%}"
