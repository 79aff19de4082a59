"""The workloads, and the goals of their figures.

A `Workload` is one run of the load against one server, with one or more `Row`s in the table. A
`Growth` compares two workloads that differ in size only.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["GROWTHS", "WORKLOADS", "Growth", "Row", "Workload"]

#: Descriptors of the load and the servers besides those of the clients.
SPARE = 100

#: The largest number of clients, if the limit of descriptors allows it.
LARGEST = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE)

#: The cores that the load leaves to the servers.
CORES = f"{spare} cores" if (spare := len(os.sched_getaffinity(0)) - 1) > 1 else "1 core"

PEERS = ("gevent", "uvicorn", "node", "bun")


@dataclass(frozen=True)
class Row:
    """A figure of a workload in the table."""

    title: str
    figure: str
    unit: str
    #: Factor between the figure and the shown value.
    scale: float = 1
    more_is_better: bool = False
    #: The ratio to reach for each server.
    goals: Mapping[str, float] = field(default_factory=dict)
    #: Upper limit, in the row's unit.
    limit: float | None = None


@dataclass(frozen=True)
class Workload:
    """A run of the load: its options, servers, rounds and rows."""

    name: str
    load: str
    options: Mapping[str, float]
    rows: tuple[Row, ...]
    servers: tuple[str, ...] = ("ours", *PEERS)
    #: Servers that answer with fixed strings here: upper bounds, excluded from comparisons.
    ceilings: tuple[str, ...] = ()
    rounds: int = 3
    #: Number of event handlers of the servers.
    handlers: int = 1
    #: Whether two processes with a Redis between them are measured.
    relayed: bool = False
    #: Seconds of connection state recovery; 0: off.
    recovery: int = 0
    #: Number of workers that share the port; 0: a single process without a supervisor.
    workers: int = 0
    #: Options with --quick.
    quick: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """The ratio of the figure of `large` to that of `small`."""

    title: str
    small: str
    large: str
    figure: str = "cpu"
    #: Upper limit of the ratio; a constant cost allows for noise.
    limit: float | None = None


def _rated(
    title: str, unit: str, units: str, goals: Mapping[str, float] | None = None
) -> tuple[Row, Row]:
    """Return the two rows of a workload: CPU time per unit, and units per second."""
    return (
        Row(title, "cpu", f"µs a {unit}", goals=goals or {}),
        Row(title, "rate", f"{units}/s", more_is_better=True, goals=goals or {}),
    )


def _cpu(title: str, unit: str) -> tuple[Row]:
    return (Row(title, "cpu", f"µs a {unit}"),)


_ALL = ("ours", *PEERS, "c")

#: For workloads of few large units: just-in-time compilers need thousands of units to warm up.
_LONG = {"warming": 1.6, "seconds": 1.2}

_WORKLOADS = [
    Workload(
        "broadcast",
        "broadcast",
        {"clients": 500},
        _rated(
            "broadcast, one a turn, 500 subscribers",
            "recipient",
            "recipients",
            {"gevent": 6, "node": 2.5, "bun": 1.8, "c": 0.95},
        ),
        _ALL,
    ),
    Workload(
        "bursts",
        "broadcast",
        {"clients": 500, "per_turn": 10},
        _rated(
            "broadcast, bursts of 10, 500 subscribers",
            "recipient",
            "recipients",
            {"gevent": 10, "node": 10, "c": 0.9},
        ),
        _ALL,
    ),
    Workload(
        "ack",
        "echo",
        {"clients": 50},
        _rated(
            "message with acknowledgement, 50 clients",
            "message",
            "messages",
            {"gevent": 6, "node": 1.5, "bun": 1},
        ),
        _ALL,
        ceilings=("c",),
    ),
    *[
        Workload(
            f"room-{members}",
            "rooms",
            {"members": members, "rooms": 100 // members},
            _rated(
                f"room message with acknowledgement, rooms of {members}",
                "message",
                "messages",
                {"node": 2, "bun": 1.5},
            ),
        )
        for members in (10, 100)
    ],
    Workload(
        "connects",
        "connects",
        {"clients": 50, **_LONG},
        _rated(
            "connection made and closed", "connection", "connections", {"node": 1.8, "bun": 0.5}
        ),
        _ALL,
        ceilings=("c",),
    ),
    Workload(
        "pairs",
        "pairs",
        {"clients": 50},
        _rated("subscribe and unsubscribe, acknowledged", "pair", "pairs", {"node": 1.2}),
        _ALL,
        ceilings=("c",),
    ),
    Workload(
        "large",
        "broadcast",
        {"clients": 500, "size": 65_536},
        _rated("broadcast of 64 KB, 500 subscribers", "recipient", "recipients"),
        _ALL,
        rounds=2,
    ),
    Workload(
        "polling-messages",
        "polling-messages",
        {"clients": 50, **_LONG},
        _rated("message with acknowledgement, long-polling", "message", "messages", {"node": 1}),
        rounds=2,
    ),
    Workload(
        "polling-handshakes",
        "polling-handshakes",
        {"clients": 50, **_LONG},
        _rated(
            "connection made and closed, long-polling", "connection", "connections", {"node": 1}
        ),
        rounds=2,
    ),
    Workload(
        "idle",
        "idle",
        {"clients": 10_000},
        (
            Row("idle WebSocket connection", "bytes", "KB", 1 / 1024, limit=6),
            Row("10,000 connections: the process", "memory", "MB", 1 / 1024**2),
            Row("10,000, a broadcast each second: half of all within", "p50", "ms", 1000),
            Row(
                "10,000, a broadcast each second: 99 % within",
                "p99",
                "ms",
                1000,
                goals={"node": 3},
            ),
            Row("10,000, a broadcast each second", "cpu", "µs a recipient"),
        ),
        rounds=1,
        quick={"clients": 2000, "ticks": 2},
    ),
    Workload(
        "disconnect-1000",
        "disconnects",
        {"clients": 1000},
        _cpu("disconnect, of 1,000 clients", "client"),
        rounds=2,
    ),
    Workload(
        "disconnect-20000",
        "disconnects",
        {"clients": LARGEST},
        _cpu(f"disconnect, of {LARGEST:,} clients", "client"),
        # uvicorn uses the same manager as gevent, and would take two more minutes to open.
        ("ours", "gevent", "node", "bun"),
        rounds=1,
        quick={"clients": 3000},
    ),
]

_SIZES = (100, 10_000)

#: For numerous workloads.
_SHORT = {"warming": 0.7, "seconds": 0.7}

_WORKLOADS += [
    Workload(
        f"connections-{size}",
        "echo",
        {"clients": 50, "others": size - 50, **_SHORT},
        _cpu(f"message, {size:,} connections", "message"),
        # The Python servers would take half a minute to open them.
        ("ours", "node", "bun"),
        rounds=1,
        quick={"others": min(size, 2000)},
    )
    for size in _SIZES
]
_WORKLOADS += [
    Workload(
        f"channels-{size}",
        "echo",
        {"clients": 100, "channels": size // 100, **_SHORT},
        _cpu(f"message, {size:,} channels", "message"),
        rounds=1,
    )
    for size in _SIZES
]
_WORKLOADS += [
    Workload(
        f"handlers-{size}",
        "echo",
        {"clients": 50, **_SHORT},
        _cpu(f"message, {size:,} bound handlers" if size > 1 else "message, 1 handler", "message"),
        rounds=1,
        handlers=size,
    )
    for size in (1, *_SIZES)
]
_WORKLOADS.append(
    Workload(
        "micro",
        "",  # no load: the program runs its own measurement
        {},
        (
            Row("emit of a signal with three receivers", "emit", "µs", limit=3),
            Row("100 channels, 100 bound handlers, one of which runs", "addressed", "µs", limit=20),
            Row("100 channels, 100 bound handlers, all of which run", "all", "µs"),
            *(
                Row(f"{title}, room of {size}, without the sends", f"{name}_{size}", "µs")
                for size in (10, 100, 500)
                for name, title in (
                    ("broadcast_channel", "socket.broadcast_channel()"),
                    ("to_emit", "socket.to().emit()"),
                )
            ),
            *(
                Row(
                    f"socket.to().emit() against broadcast_channel(), room of {size}",
                    f"to_emit_ratio_{size}",
                    "times",
                    limit=1.05,
                )
                for size in (10, 100, 500)
            ),
        ),
        ("ours",),
        rounds=3,
    )
)
_WORKLOADS.append(
    Workload(
        "relay",
        "relay",
        {"clients": 1},
        (
            *_rated(
                "message by Redis to another process",
                "message",
                "messages",
                {"gevent": 5, "node": 2},
            ),
            Row("by Redis, half of all add no more than", "p50", "ms", 1000, goals={"node": 1}),
            Row("by Redis, 99 % add no more than", "p99", "ms", 1000),
        ),
        servers=("ours", "gevent", "uvicorn", "node"),
        relayed=True,
        quick={"samples": 100},
    )
)
_WORKLOADS += [
    Workload(
        f"workers-{workers}",
        "echo",
        {"clients": 200},
        (Row(f"messages, {title}", "rate", "messages/s", more_is_better=True),),
        ("ours",),
        workers=workers,
    )
    for workers, title in ((1, "1 worker"), (2, "2 workers"))
]
_WORKLOADS.append(
    Workload(
        "presence",
        "",
        {},
        (
            Row("presence in Redis, 10,000 members: join", "join_cpu", "µs of CPU a member"),
            Row(
                "presence in Redis, 10,000 members: join, by the clock", "join_wall", "µs a member"
            ),
            Row("presence in Redis, 10,000 members: leave", "leave_cpu", "µs of CPU a member"),
            Row(
                "presence in Redis, 10,000 members: leave, by the clock",
                "leave_wall",
                "µs a member",
            ),
            Row("10,000 members, another process learns them within", "state", "ms", 1000),
            Row("10,000 members at rest, writes to Redis", "writes", "writes/s", limit=0.2),
            Row("10,000 members at rest, CPU", "rest_cpu", "ms/s", 1000),
        ),
        ("ours",),
        rounds=2,
    )
)

_WORKLOADS += [
    Workload(
        "recovery",
        "",
        {},
        (
            *(
                Row(f"broadcast, {size} subscribers, {title}", f"{name}_{size}", unit, limit=limit)
                for size in (5, 10, 100, 500)
                for name, title, unit, limit in (
                    ("off", "without recovery", "µs", None),
                    ("on", "with recovery", "µs", None),
                    ("ratio", "with recovery against without", "times", 1.1),
                )
            ),
            Row("connection memory, without recovery", "memory_off", "KB", 1 / 1024),
            Row("connection memory, with recovery", "memory_on", "KB", 1 / 1024),
            Row("connection memory, added by recovery", "memory_added", "KB", 1 / 1024, limit=1),
        ),
        ("ours",),
        rounds=2,
    ),
    Workload(
        "returns",
        "returns",
        {"clients": 5000},
        (
            Row("5,000 clients return, 20 missed messages each", "seconds", "s", limit=5),
            Row("a client that returns", "cpu", "µs"),
        ),
        ("ours",),
        rounds=2,
        recovery=60,
        quick={"clients": 1000},
    ),
]

#: By name, in the order of the table.
WORKLOADS = {workload.name: workload for workload in _WORKLOADS}

GROWTHS = (
    Growth(
        f"disconnect, {LARGEST:,} clients against 1,000",
        "disconnect-1000",
        "disconnect-20000",
        limit=1.25,
    ),
    Growth("message, 10,000 connections against 100", "connections-100", "connections-10000"),
    Growth("message, 10,000 channels against 100", "channels-100", "channels-10000"),
    Growth("message, 10,000 handlers against 1", "handlers-1", "handlers-10000"),
    Growth(f"messages a second, 2 workers against 1, on {CORES}", "workers-1", "workers-2", "rate"),
)
