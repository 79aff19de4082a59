"""Measure presence in Redis with 10,000 members in one channel; prints JSON.

The store alone, without sockets, and a Redis on another core. Microseconds per member: CPU time of
the process, and wall-clock time.
"""

# ruff: noqa: E402 - gevent patches before other imports

from gevent import monkey

monkey.patch_all()

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator

import gevent
import gevent.event
from database import RedisError, running_redis

from webpy_socketio import connect_redis
from webpy_socketio.plugins.presence.periodic import Intervals
from webpy_socketio.plugins.presence.redis import RedisStore
from webpy_socketio.plugins.presence.store import Change, Channel, State

MEMBERS = 10_000

#: Seconds without changes: two heartbeats.
IDLE_TIME = 10.0

ROOM = ("/", "room")

#: Commands in Redis's statistics that only read, or run a script.
READS = {
    *("evalsha", "time", "get", "exists", "zscore", "zrangebyscore", "hmget", "hgetall", "hlen"),
    *("sscan", "xrange", "info", "ping", "subscribe", "config|resetstat"),
}


class _Node:
    """A store and its listener."""

    def __init__(self, url: str) -> None:
        self._moved = gevent.event.Event()
        self.store = RedisStore(url, "bench", self, 10.0, Intervals())

    def on_local_change(self, change: Change) -> None:
        pass

    def on_change(self, change: Change) -> None:
        self._moved.set()

    def on_reset(self, channel: Channel) -> None:
        self._moved.set()

    def wait(self, condition: Callable[[State], bool]) -> None:
        while (state := self.store.state(ROOM)) is None or not condition(state):
            self._moved.clear()
            self._moved.wait()


def main() -> None:
    """Print the measurements."""
    here = os.sched_getaffinity(0)
    others = set(range(os.cpu_count() or 1)) - here
    try:
        with running_redis(others or here) as url:
            figures = _measure(url)
    except RedisError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(figures) + "\n")


def _measure(url: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    node = _Node(url)
    node.store.watch(ROOM, "0")
    with _measuring("join", figures):
        for number in range(MEMBERS):
            node.store.join(ROOM, str(number), f"key {number}", {"name": f"Member {number}"})
            if number % 100 == 99:  # the handlers of one event-loop iteration
                gevent.sleep(0)
        node.wait(lambda state: len(state.members) == MEMBERS)
    other = _Node(url)
    began = time.perf_counter()
    other.store.watch(ROOM, "0")
    other.wait(lambda state: len(state.members) == MEMBERS)
    figures["state"] = time.perf_counter() - began
    other.store.close()
    figures.update(_measure_idle(url))
    with _measuring("leave", figures):
        for number in range(MEMBERS):
            node.store.leave(ROOM, str(number), 0.0)
            if number % 100 == 99:
                gevent.sleep(0)
        node.wait(lambda state: not state.members)
    node.store.close()
    return figures


def _measure_idle(url: str) -> dict[str, float]:
    link = connect_redis(url, 5.0)
    link.execute(("CONFIG", "RESETSTAT"))
    began = time.process_time()
    gevent.sleep(IDLE_TIME)
    used = time.process_time() - began
    (answer,) = link.execute(("INFO", "commandstats"))
    link.close()
    calls = {}
    for line in answer.decode().split():
        if line.startswith("cmdstat_"):
            name, _, rest = line.removeprefix("cmdstat_").partition(":calls=")
            calls[name] = int(rest.partition(",")[0])
    writes = sum(count for name, count in calls.items() if name not in READS)
    return {"writes": writes / IDLE_TIME, "rest_cpu": used / IDLE_TIME}


@contextlib.contextmanager
def _measuring(name: str, figures: dict[str, float]) -> Iterator[None]:
    began, used = time.perf_counter(), time.process_time()
    yield
    figures[f"{name}_wall"] = (time.perf_counter() - began) / MEMBERS * 1e6
    figures[f"{name}_cpu"] = (time.process_time() - used) / MEMBERS * 1e6


if __name__ == "__main__":
    main()
