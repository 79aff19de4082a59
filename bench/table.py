"""The table: the measurements as rows of medians, ranges, ratios and goals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from measurement import Figures
from workloads import GROWTHS, WORKLOADS, Growth, Row

__all__ = ["Cell", "Line", "Results", "lines"]

OURS = "ours"

#: The figures of each round, by workload and server.
Results = Mapping[str, Mapping[str, Sequence[Figures]]]


@dataclass(frozen=True)
class Cell:
    """A server's figure over the rounds, and the ratio to ours (None: unknown)."""

    median: float
    low: float
    high: float
    ratio: float | None = None


@dataclass
class Line:
    """A row of the table."""

    title: str
    unit: str
    cells: dict[str, Cell] = field(default_factory=dict)
    goal: str = ""
    #: Whether the goal is met; None without a goal, or without measurements to compare.
    met: bool | None = None
    #: The ratio to reach for each server.
    goals: Mapping[str, float] = field(default_factory=dict)
    #: The highest utilization of the load's core in these runs, without ceilings, 0 to 1.
    busy: float | None = None


def lines(results: Results) -> Iterator[Line]:
    """Yield the rows of all measured workloads in order, then the growth of costs."""
    for name, workload in WORKLOADS.items():
        if measured := {server: found for server, found in results.get(name, {}).items() if found}:
            for row in workload.rows:
                yield _line(row, measured, workload.ceilings)
    for growth in GROWTHS:
        line = _growth(growth, results)
        if line.cells:
            yield line


def _line(row: Row, measured: Mapping[str, Sequence[Figures]], ceilings: tuple[str, ...]) -> Line:
    line = Line(row.title, row.unit, goals=row.goals)
    for server, rounds in measured.items():
        values = [figures[row.figure] * row.scale for figures in rounds]
        line.cells[server] = Cell(median(values), min(values), max(values))
        for figures in rounds:
            if "busy" in figures and server not in ceilings:
                line.busy = max(line.busy or 0, figures["busy"])
    ours = line.cells.get(OURS)
    if ours is not None:
        for server, cell in line.cells.items():
            if server not in (OURS, *ceilings) and ours.median > 0 and cell.median > 0:
                better = cell.median / ours.median
                ratio = 1 / better if row.more_is_better else better
                line.cells[server] = Cell(cell.median, cell.low, cell.high, ratio)
    _judge(line, row.limit)
    return line


def _growth(growth: Growth, results: Results) -> Line:
    line = Line(growth.title, "times")
    small, large = results.get(growth.small, {}), results.get(growth.large, {})
    for server in small:
        before = [figures[growth.figure] for figures in small[server]]
        after = [figures[growth.figure] for figures in large.get(server, ())]
        if before and after:
            line.cells[server] = Cell(
                median(after) / median(before), min(after) / max(before), max(after) / min(before)
            )
    _judge(line, growth.limit)
    return line


def _judge(line: Line, limit: float | None) -> None:
    """Set the goal of a row, and whether all parts of it are met."""
    parts, verdicts = [], []
    for server, factor in line.goals.items():
        parts.append(f"{factor:g} × {server}")
        cell = line.cells.get(server)
        if cell is not None and cell.ratio is not None:
            verdicts.append(cell.ratio >= factor)
    if limit is not None:
        parts.append(f"≤ {limit:g}")
        if OURS in line.cells:
            verdicts.append(line.cells[OURS].median <= limit)
    line.goal = ", ".join(parts)
    line.met = None if len(verdicts) < len(parts) or not parts else all(verdicts)
