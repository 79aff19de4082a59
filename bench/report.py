"""The table as text, reStructuredText and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from server_list import SERVERS
from table import Cell, Line, Results

__all__ = ["Report"]


@dataclass
class Report:
    """The results of one run."""

    lines: Sequence[Line]
    results: Results
    #: Machine, versions and command.
    about: Mapping[str, str]
    #: What could not be measured, with the causes.
    failures: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Return the table for a terminal."""
        rows = [self._header(), *map(self._row, self.lines)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        table.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*table, "", *self._notes()]) + "\n"

    def rst(self) -> str:
        """Return the table for a documentation page."""
        out = [".. list-table::", "   :header-rows: 1", ""]
        for row in [self._header(), *map(self._row, self.lines)]:
            out += [
                f"   {' ' if number else '*'} - {cell}".rstrip() for number, cell in enumerate(row)
            ]
        return "\n".join([*out, "", *(f"- {note}" for note in self._notes() if note)]) + "\n"

    def json(self) -> str:
        """Return the table and every figure of every round, for programs."""
        return (
            json.dumps(
                {
                    "about": self.about,
                    "table": [asdict(line) for line in self.lines],
                    "failures": self.failures,
                    "rounds": self.results,
                },
                indent=1,
                ensure_ascii=False,
            )
            + "\n"
        )

    def _servers(self) -> list[str]:
        present = {server for line in self.lines for server in line.cells}
        return [one.name for one in SERVERS if one.name in present]

    def _header(self) -> list[str]:
        return ["workload", "unit", *self._servers(), "goal", "met", "load"]

    def _row(self, line: Line) -> list[str]:
        cells = [_shown(line.cells.get(server)) for server in self._servers()]
        met = {None: "", True: "yes", False: "NO"}[line.met]
        busy = "" if line.busy is None else f"{line.busy:.0%}"
        return [line.title, line.unit, *cells, line.goal, met, busy]

    def _notes(self) -> list[str]:
        names = ", ".join(
            f"{one.name}: {one.title}" for one in SERVERS if one.name in self._servers()
        )
        return [
            "median [minimum..maximum], and how many times better ours is: ×2 is half the cost, "
            "or twice the rate",
            "load: the highest utilization of the load's core; near 100 % it limits the rate",
            names,
            "",
            *(f"{what}: {which}" for what, which in self.about.items()),
            *(f"not measured: {what}: {why}" for what, why in self.failures.items()),
        ]


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    ratio = "" if cell.ratio is None else f" ×{_number(cell.ratio)}"
    range_ = "" if cell.low == cell.high else f" [{_number(cell.low)}..{_number(cell.high)}]"
    return f"{_number(cell.median)}{range_}{ratio}"


def _number(value: float) -> str:
    """Return the number with three significant digits."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{3 - len(str(int(value)))}f}"
