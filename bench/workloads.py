"""What is measured, and what is to be reached.

A `Work` is one run of the load against one server; it gives one `Row` of the table or several. A
`Growth` compares two works that differ in size only.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["GROWTHS", "WORKS", "Growth", "Row", "Work"]

#: Descriptors that the load and the servers need besides those of the clients.
SPARE = 100

#: The largest crowd, if the machine lets a program have so many descriptors.
LARGEST = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE)

#: The cores that the load leaves to several processes.
CORES = f"{spare} cores" if (spare := len(os.sched_getaffinity(0)) - 1) > 1 else "1 core"

PEERS = ("gevent", "uvicorn", "node")


@dataclass(frozen=True)
class Row:
    """A figure of a work, as the table shows it."""

    title: str
    figure: str
    unit: str
    #: The figure is multiplied by this to be shown.
    scale: float = 1
    more_is_better: bool = False
    #: For each peer, how many times better than it is to be reached.
    goals: Mapping[str, float] = field(default_factory=dict)
    #: What is not to be passed, in the row's unit.
    limit: float | None = None


@dataclass(frozen=True)
class Work:
    """A run of the load: which work, its options, against whom, how often, and its rows."""

    name: str
    load: str
    options: Mapping[str, float]
    rows: tuple[Row, ...]
    servers: tuple[str, ...] = ("ours", *PEERS)
    #: Servers that answer with fixed strings here: they show what the load can do, and are no peers.
    ceilings: tuple[str, ...] = ()
    rounds: int = 3
    #: How many event handlers the servers have.
    handlers: int = 1
    #: Whether two processes do it, with a Redis between them.
    relayed: bool = False
    #: How many processes share the port; none: the server is one process, and knows of no others.
    workers: int = 0
    #: Options of --quick: the same in small.
    quick: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """How many times the figure of `small` that of `large` is."""

    title: str
    small: str
    large: str
    figure: str = "cpu"
    #: What is not to be passed; "the same" leaves room for noise.
    limit: float | None = None


def _rated(
    title: str, unit: str, units: str, goals: Mapping[str, float] | None = None
) -> tuple[Row, Row]:
    """The two views of a work: the server's CPU time a unit, and units a second."""
    return (
        Row(title, "cpu", f"µs a {unit}", goals=goals or {}),
        Row(title, "rate", f"{units}/s", more_is_better=True, goals=goals or {}),
    )


def _cpu(title: str, unit: str) -> tuple[Row]:
    return (Row(title, "cpu", f"µs a {unit}"),)


_ALL = ("ours", *PEERS, "c")

#: For work of few but large units: what compiles itself as it runs needs thousands of them to be warm.
_LONG = {"warming": 2.0, "seconds": 1.5}

_WORKS = [
    Work(
        "broadcast",
        "broadcast",
        {"clients": 500},
        _rated(
            "broadcast, one a turn, 500 subscribers",
            "recipient",
            "recipients",
            {"gevent": 6, "node": 2.5, "c": 0.9},
        ),
        _ALL,
    ),
    Work(
        "bursts",
        "broadcast",
        {"clients": 500, "per_turn": 10},
        _rated(
            "broadcast, bursts of 10, 500 subscribers",
            "recipient",
            "recipients",
            {"gevent": 10, "node": 10},
        ),
        _ALL,
    ),
    Work(
        "ack",
        "echo",
        {"clients": 50},
        _rated(
            "message with acknowledgement, 50 clients",
            "message",
            "messages",
            {"gevent": 6, "node": 1.5},
        ),
        _ALL,
        ceilings=("c",),
    ),
    Work(
        "connects",
        "connects",
        {"clients": 50, **_LONG},
        _rated("connection made and closed", "connection", "connections", {"node": 2}),
        _ALL,
        ceilings=("c",),
    ),
    Work(
        "pairs",
        "pairs",
        {"clients": 50},
        _rated("subscribe and unsubscribe, acknowledged", "pair", "pairs"),
        _ALL,
        ceilings=("c",),
    ),
    Work(
        "large",
        "broadcast",
        {"clients": 500, "size": 65_536},
        _rated("broadcast of 64 KB, 500 subscribers", "recipient", "recipients"),
        _ALL,
        rounds=2,
    ),
    Work(
        "polling-messages",
        "polling-messages",
        {"clients": 50, **_LONG},
        _rated("message with acknowledgement, long-polling", "message", "messages"),
        rounds=2,
    ),
    Work(
        "polling-handshakes",
        "polling-handshakes",
        {"clients": 50, **_LONG},
        _rated("connection made and closed, long-polling", "connection", "connections"),
        rounds=2,
    ),
    Work(
        "idle",
        "idle",
        {"clients": 10_000},
        (
            Row("idle WebSocket connection", "bytes", "KB", 1 / 1024, limit=10),
            Row("10,000 connections: the process", "memory", "MB", 1 / 1024**2),
            Row("10,000, a broadcast each second: half of all within", "p50", "ms", 1000),
            Row("10,000, a broadcast each second: 99 % within", "p99", "ms", 1000),
            Row("10,000, a broadcast each second", "cpu", "µs a recipient"),
        ),
        rounds=1,
        quick={"clients": 2000, "ticks": 2},
    ),
    Work(
        "disconnect-1000",
        "disconnects",
        {"clients": 1000},
        _cpu("disconnect, of 1,000 clients", "client"),
        rounds=2,
    ),
    Work(
        "disconnect-20000",
        "disconnects",
        {"clients": LARGEST},
        _cpu(f"disconnect, of {LARGEST:,} clients", "client"),
        # uvicorn's would be the same manager as gevent's, and two minutes more of opening.
        ("ours", "gevent", "node"),
        rounds=1,
        quick={"clients": 3000},
    ),
]

_SIZES = (100, 1000, 10_000)

#: For those of which there are many.
_SHORT = {"warming": 0.7, "seconds": 0.7}

_WORKS += [
    Work(
        f"connections-{size}",
        "echo",
        {"clients": 50, "others": size - 50, **_SHORT},
        _cpu(f"message, {size:,} connections", "message"),
        rounds=1,
        quick={"others": min(size, 2000)},
    )
    for size in _SIZES
]
_WORKS += [
    Work(
        f"channels-{size}",
        "echo",
        {"clients": 100, "channels": size // 100, **_SHORT},
        _cpu(f"message, {size:,} channels", "message"),
        rounds=1,
    )
    for size in _SIZES
]
_WORKS += [
    Work(
        f"handlers-{size}",
        "echo",
        {"clients": 50, **_SHORT},
        _cpu(f"message, {size:,} bound handlers" if size > 1 else "message, 1 handler", "message"),
        rounds=1,
        handlers=size,
    )
    for size in (1, *_SIZES)
]
_WORKS.append(
    Work(
        "micro",
        "",  # no load: the program measures itself
        {},
        (
            Row("emit of a signal with three receivers", "emit", "µs", limit=3),
            Row("100 channels, 100 bound handlers, one of which runs", "addressed", "µs", limit=20),
            Row("100 channels, 100 bound handlers, all of which run", "all", "µs"),
        ),
        ("ours",),
        rounds=5,
    )
)
_WORKS.append(
    Work(
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
            Row("by Redis, half of all add no more than", "p50", "ms", 1000),
            Row("by Redis, 99 % add no more than", "p99", "ms", 1000),
        ),
        relayed=True,
        quick={"samples": 100},
    )
)
_WORKS += [
    Work(
        f"workers-{workers}",
        "echo",
        {"clients": 200},
        (Row(f"messages, {title}", "rate", "messages/s", more_is_better=True),),
        ("ours",),
        workers=workers,
    )
    for workers, title in ((1, "1 worker"), (2, "2 workers"))
]
_WORKS.append(
    Work(
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

#: All of them, by name, in the order of the table.
WORKS = {work.name: work for work in _WORKS}

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
