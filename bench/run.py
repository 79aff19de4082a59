"""Measure this package and its peers side by side, and print one table. See README.rst.

Installs the peers and compiles the C programs first, if that has not been done.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from environment import HERE, SetupError, build_c
from measurement import (
    Figures,
    MeasurementError,
    measure,
    measure_inside,
    measure_relay,
    measure_workers,
)
from plot import plot
from report import Report
from server_list import CONTESTANTS, Entrant, enter
from table import lines
from workloads import WORKS, Work

#: Seconds for which a work is done before it is measured, and for which it is measured.
TIMES = {"warming": 1.0, "seconds": 1.0}
QUICK_TIMES = {"warming": 0.3, "seconds": 0.3}

_BEGAN = time.monotonic()


def main() -> int:
    """Run from the command line; returns the exit status: 0 if all could be measured."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _end)
    try:
        build_c()
    except SetupError as error:
        return _fail(str(error))
    entrants, missing = enter(arguments.servers)
    for name, why in missing.items():
        _tell(f"{name} takes no part: {why}")
    race = _Race(entrants, arguments)
    for name in arguments.only:
        race.run(WORKS[name])
    report = Report(
        list(lines(race.results)),
        race.results,
        _about(entrants, arguments.quick),
        # What more there is to say was said when it happened, and is this machine's own matter.
        {what: why.partition("\n")[0] for what, why in {**missing, **race.failures}.items()},
    )
    whole = set(arguments.only) == set(WORKS) and not arguments.quick and arguments.rounds is None
    _write(report, arguments.results, "bench" if whole else "partial")
    sys.stdout.write(report.text())
    return 1 if report.failures else 0


class _Race:
    """The rounds of a work, in which the servers take turns: what disturbs one disturbs all."""

    def __init__(self, entrants: dict[str, Entrant], arguments: argparse.Namespace) -> None:
        self._entrants = entrants
        self._arguments = arguments
        self.results: dict[str, dict[str, list[Figures]]] = {}
        self.failures: dict[str, str] = {}

    def run(self, work: Work) -> None:
        results = self.results[work.name] = {
            name: [] for name in self._entrants if name in work.servers
        }
        given, quick = self._arguments.rounds, self._arguments.quick
        rounds = given or (1 if quick else work.rounds)
        for number in range(rounds):
            for name, found in results.items():
                if f"{work.name}, {name}" not in self.failures:
                    _tell(f"{work.name}: {name}, round {number + 1} of {rounds}")
                    self._measure(work, name, found)

    def _measure(self, work: Work, name: str, found: list[Figures]) -> None:
        quick = self._arguments.quick
        options = {**TIMES, **work.options}
        if quick:
            options.update({**QUICK_TIMES, **work.quick})
        try:
            command = self._entrants[name].command
            if work.relayed:
                found.append(measure_relay(command, [str(work.handlers)], work.load, options))
            elif work.workers:
                found.append(measure_workers(command, work.workers, work.load, options))
            elif work.load:
                found.append(measure(command, [str(work.handlers)], work.load, options))
            else:
                found.append(measure_inside(f"{work.name}.py"))
        except MeasurementError as error:
            self.failures[f"{work.name}, {name}"] = str(error)
            _tell(f"{work.name}: {name} failed: {error}")


def _arguments() -> argparse.Namespace:
    def names(known: list[str]) -> Callable[[str], list[str]]:
        def some(text: str) -> list[str]:
            chosen = text.split(",")
            if unknown := sorted(set(chosen) - set(known)):
                raise argparse.ArgumentTypeError(
                    f"{', '.join(unknown)}: choose from {', '.join(known)}"
                )
            return [name for name in known if name in chosen]

        return some

    workloads, servers = list(WORKS), [one.name for one in CONTESTANTS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", type=names(workloads), default=workloads, metavar="WORK,...",
                        help=f"of {', '.join(workloads)}")  # fmt: skip
    parser.add_argument("--servers", type=names(servers), default=servers, metavar="SERVER,...",
                        help=f"of {', '.join(servers)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, metavar="N", help="instead of each work's own number")
    parser.add_argument("--quick", action="store_true",
                        help="a glance: one short round, small crowds")  # fmt: skip
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER",
                        help="where the table is written to")  # fmt: skip
    return parser.parse_args()


def _about(entrants: dict[str, Entrant], quick: bool) -> dict[str, str]:
    command = " ".join(["python bench/run.py", *sys.argv[1:]])
    return {
        **({"quick": "short rounds, and smaller crowds than the rows say"} if quick else {}),
        "command": command,
        "took": f"{(time.monotonic() - _BEGAN) / 60:.1f} minutes",
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
        **{name: entrant.versions for name, entrant in entrants.items()},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _write(report: Report, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in {
        "txt": report.text(),
        "rst": report.rst(),
        "json": report.json(),
        "svg": plot(report.lines),
    }.items():
        (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")


def _tell(text: str) -> None:
    """Say what goes on, with the minutes and seconds since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _BEGAN), 60)
    sys.stderr.write(f"{minutes:2}:{seconds:02} {text}\n")


def _end(number: int, frame: object) -> None:
    """End in good order, so that no server stays behind."""
    sys.exit(128 + number)


def _fail(text: str) -> int:
    _tell(text)
    return 1


if __name__ == "__main__":
    sys.exit(main())
