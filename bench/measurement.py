"""One measurement: a new server on one core, and the load on another."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from database import RedisError, running_redis
from environment import BUILD, HERE

__all__ = [
    "Figures",
    "MeasurementError",
    "measure",
    "measure_inside",
    "measure_relay",
    "measure_workers",
    "pick_cores",
    "pinned",
    "running_server",
]

#: The figures of one measurement by name; see `measure`.
Figures = dict[str, float]

#: Seconds that a server may take to start, and a measurement to finish.
START_TIMEOUT = 30
TIMEOUT = 180


class MeasurementError(Exception):
    """A measurement failed, and yields no figures; the text names the cause."""


def measure(
    server: Sequence[str],
    arguments: Sequence[str],
    workload: str,
    options: Mapping[str, float],
    recovery: int = 0,
) -> Figures:
    """Run a workload against a server, with connection state recovery for some seconds or without.

    Returns:
        At least ``units`` (of work done), ``cpu`` (of the server, microseconds per unit), ``rate``
        (units per second) and ``busy`` (fraction of the time in which the load was busy).

    Raises:
        MeasurementError: The server or the load failed.
    """
    server_core, load_core = pick_cores()
    command = [*server, "0", *arguments]
    with running_server(command, {server_core}, BENCH_RECOVERY=str(recovery)) as (port, pid):
        return _load(workload, port, pid, options, load_core)


def measure_relay(
    server: Sequence[str], arguments: Sequence[str], workload: str, options: Mapping[str, float]
) -> Figures:
    """Run a workload against two processes and a Redis, whose URL is their last argument.

    All three share the cores that the load leaves; the CPU time is that of the two processes.
    """
    with _redis() as (url, others, load_core), contextlib.ExitStack() as stack:
        command = [*server, "0", *arguments, url]
        port, pid = stack.enter_context(running_server(command, others))
        port2, pid2 = stack.enter_context(running_server(command, others, "server2.log"))
        return _load(workload, port, pid, {**options, "port2": port2, "pid2": pid2}, load_core)


def measure_workers(
    server: Sequence[str], workers: int, workload: str, options: Mapping[str, float]
) -> Figures:
    """Run a workload against several workers of `ours.py` on one port.

    They share the cores that the load leaves. The CPU time is the supervisor's, and meaningless.
    """
    interpreter, program = server
    with _redis() as (url, others, load_core):
        command = [interpreter, "-m", "webpy_socketio", "serve", "ours:application"]
        command += ["--settings", "workers", "--workers", str(workers)]
        command += ["--host", "127.0.0.1", "--port", "0", "--quiet"]
        folder = Path(program).parent
        with running_server(command, others, folder=folder, BENCH_REDIS=url) as (port, pid):
            return _load(workload, port, pid, options, load_core)


@contextlib.contextmanager
def _redis() -> Iterator[tuple[str, set[int], int]]:
    """Start Redis; yields its URL, the cores that the load leaves, and the load's core."""
    load_core = pick_cores()[1]
    others = os.sched_getaffinity(0) - {load_core} or {load_core}
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(running_redis(others))
        except RedisError as error:
            raise MeasurementError(str(error)) from None
        yield url, others, load_core


def _load(workload: str, port: int, pid: int, options: Mapping[str, float], core: int) -> Figures:
    settings = [f"{name}={value:.9g}" for name, value in options.items()]
    found = _run_json([str(BUILD / "load"), workload, str(port), str(pid), *settings], {core})
    found["cpu"] = found["server_cpu"] / found["units"] * 1e6
    found["rate"] = found["units"] / found["wall"]
    found["busy"] = found["load_cpu"] / found["wall"]
    return found


def measure_inside(program: str) -> Figures:
    """Run a program that measures the package in its own process."""
    return _run_json([sys.executable, str(HERE / program)], {pick_cores()[0]})


def pick_cores() -> tuple[int, int]:
    """Return a core for the server and one for the load; the same if there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-1], cores[0]


def _run_json(command: Sequence[str], cores: set[int]) -> Figures:
    with pinned(cores):
        program = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    try:
        out, errors = program.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"not finished within {TIMEOUT} s") from None
    finally:
        program.kill()
        program.wait()
    if program.returncode:
        raise MeasurementError(errors.strip()[-500:] or f"exit status {program.returncode}")
    found: Figures = json.loads(out)
    return found


@contextlib.contextmanager
def running_server(
    command: Sequence[str],
    cores: set[int],
    name: str = "server.log",
    folder: Path | None = None,
    **environment: str,
) -> Iterator[tuple[int, int]]:
    """Run a server; yields its port and process ID.

    The first line that it prints must end with the port.
    """
    log = BUILD / name
    with log.open("wb") as errors, pinned(cores):
        server = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env={**os.environ, **environment},
        )
    assert server.stdout is not None
    try:
        readable, _, _ = select.select([server.stdout], [], [], START_TIMEOUT)
        line = server.stdout.readline() if readable else b""
        port = line.strip(b"/\n").rpartition(b":")[2]
        if not port.isdigit():
            raise MeasurementError(f"the server does not start:{_tail(log)}")
        try:
            yield int(port), server.pid
        except MeasurementError as error:
            raise MeasurementError(f"{error}{_tail(log)}") from None
    finally:
        server.kill()  # a graceful stop is not measured
        server.wait()
        server.stdout.close()


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Pin processes that are started in this context, and their threads, to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _tail(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    return f"\n{text[-500:]}" if text else ""
