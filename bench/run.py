"""Measure this package and other servers side by side, and print a table. See README.rst.

Installs the servers and compiles the C programs on the first run.
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

import scaling
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
from server_list import SERVERS, ReadyServer, prepare
from table import lines
from workloads import WORKLOADS, Workload

#: Seconds of warming up, and of the measurement.
TIMES = {"warming": 0.7, "seconds": 0.8}
QUICK_TIMES = {"warming": 0.3, "seconds": 0.3}

_START = time.monotonic()


def main() -> int:
    """Run from the command line; returns the exit status: 0 if all workloads were measured."""
    if sys.argv[1:2] == ["scaling"]:
        return scaling.main(sys.argv[2:])
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _exit)
    try:
        build_c()
    except SetupError as error:
        return _fail(str(error))
    ready, missing = prepare(arguments.servers)
    for name, cause in missing.items():
        _log(f"{name} is not measured: {cause}")
    run = _Run(ready, arguments)
    for name in arguments.only:
        run.measure(WORKLOADS[name])
    report = Report(
        list(lines(run.results)),
        run.results,
        _about(ready, arguments.quick),
        # Further lines were logged when the failure happened, and depend on this machine.
        {what: cause.partition("\n")[0] for what, cause in {**missing, **run.failures}.items()},
    )
    complete = (
        set(arguments.only) == set(WORKLOADS) and not arguments.quick and arguments.rounds is None
    )
    _write(report, arguments.results, "bench" if complete else "partial")
    sys.stdout.write(report.text())
    return 1 if report.failures else 0


class _Run:
    """The rounds of workloads; the servers alternate, so that disturbances affect all of them."""

    def __init__(self, ready: dict[str, ReadyServer], arguments: argparse.Namespace) -> None:
        self._ready = ready
        self._arguments = arguments
        self.results: dict[str, dict[str, list[Figures]]] = {}
        self.failures: dict[str, str] = {}

    def measure(self, workload: Workload) -> None:
        results = self.results[workload.name] = {
            name: [] for name in self._ready if name in workload.servers
        }
        given, quick = self._arguments.rounds, self._arguments.quick
        rounds = given or (1 if quick else workload.rounds)
        for number in range(rounds):
            for name, found in results.items():
                if f"{workload.name}, {name}" not in self.failures:
                    _log(f"{workload.name}: {name}, round {number + 1} of {rounds}")
                    self._measure(workload, name, found)

    def _measure(self, workload: Workload, name: str, found: list[Figures]) -> None:
        quick = self._arguments.quick
        options = {**TIMES, **workload.options}
        if quick:
            options.update({**QUICK_TIMES, **workload.quick})
        handlers = [str(workload.handlers)]
        try:
            command = self._ready[name].command
            if workload.relayed:
                found.append(measure_relay(command, handlers, workload.load, options))
            elif workload.workers:
                found.append(measure_workers(command, workload.workers, workload.load, options))
            elif workload.load:
                found.append(measure(command, handlers, workload.load, options, workload.recovery))
            else:
                found.append(measure_inside(f"{workload.name}.py"))
        except MeasurementError as error:
            self.failures[f"{workload.name}, {name}"] = str(error)
            _log(f"{workload.name}: {name} failed: {error}")


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

    workloads, servers = list(WORKLOADS), [one.name for one in SERVERS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", type=names(workloads), default=workloads, metavar="WORKLOAD,...",
                        help=f"of {', '.join(workloads)}")  # fmt: skip
    parser.add_argument("--servers", type=names(servers), default=servers, metavar="SERVER,...",
                        help=f"of {', '.join(servers)}")  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="rounds of each workload, instead of its default"
    )
    parser.add_argument("--quick", action="store_true",
                        help="one short round with fewer clients")  # fmt: skip
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER",
                        help="folder of the results")  # fmt: skip
    return parser.parse_args()


def _about(ready: dict[str, ReadyServer], quick: bool) -> dict[str, str]:
    command = " ".join(["python bench/run.py", *sys.argv[1:]])
    return {
        **({"quick": "short rounds, and fewer clients than the titles say"} if quick else {}),
        "command": command,
        "took": f"{(time.monotonic() - _START) / 60:.1f} minutes",
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
        **{name: server.versions for name, server in ready.items()},
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


def _log(text: str) -> None:
    """Log progress, with the time since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _START), 60)
    sys.stderr.write(f"{minutes:2}:{seconds:02} {text}\n")


def _exit(number: int, frame: object) -> None:
    """Exit through `SystemExit`, so that servers are stopped."""
    sys.exit(128 + number)


def _fail(text: str) -> int:
    _log(text)
    return 1


if __name__ == "__main__":
    sys.exit(main())
