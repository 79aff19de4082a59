"""What subscribers with history receive: each message once and in order, or the report of a gap.

Random sequences of messages, joins, leaves, losses of connections and losses of the store, on one
server with the store in memory, and on two with a real Redis. `HistoryClient` checks that offsets
have no gap that was not reported; this module compares the messages with those that were stored.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import Site
from tests.history_client import HistoryClient
from tests.redis_server import RedisServer
from webpy_socketio import NoSocket, Runtime, default_runtime
from webpy_socketio.plugins import history

pytestmark = pytest.mark.time_limit(180)

PLUGIN = "webpy_socketio.plugins.history"
SIZE = 6
RULES = {"^room-": {"size": SIZE, "ttl": 3600}}
CHANNELS = ("room-1", "room-2")

channels = st.sampled_from(CHANNELS)
#: Numbers of clients and of servers.
slots = st.integers(0, 2)
sites = st.integers(0, 1)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), sites, channels, st.integers(1, 4), st.booleans()),
        st.tuples(st.just("send to both"), sites),
        st.tuples(st.just("send volatile"), sites, channels),
        st.tuples(st.just("say"), slots, channels),
        st.tuples(st.just("join"), slots, channels, st.integers(0, SIZE)),
        st.tuples(st.just("leave"), slots, channels),
        st.tuples(st.just("lose"), slots, sites),
        st.tuples(st.just("sync"), slots),
        st.tuples(st.just("clear"), channels),
        st.tuples(st.just("forget")),
    ),
    max_size=25,
)


class World:
    """Servers with one store, clients, and all messages that were stored."""

    def __init__(self, runtimes: list[Runtime], ports: list[int], forget: Callable[[], None]):
        self.runtimes = runtimes
        self.ports = ports
        self.forget = forget
        self.clients = [HistoryClient(ports[slot % len(ports)]) for slot in range(3)]
        self.count = 0
        #: Number of each stored message by channel, epoch and offset.
        self.stored: dict[tuple[str, str, int], int] = {}
        self.is_lossy = False
        self.sent = dict.fromkeys(CHANNELS, 0)

    def send(self, site: int, channel: str, count: int, wait: bool = True) -> None:
        """Send messages; without `wait`, the next step runs while they are on their way."""
        for _ in range(count):
            self.count += 1
            with contextlib.suppress(NoSocket):
                self._runtime(site).broadcast_channel(self.count, channel)
        self.sent[channel] += count
        if wait:
            self._wait(channel, self.count)

    def send_to_both(self, site: int) -> None:
        self.count += 1
        self._runtime(site).to(*CHANNELS).send(self.count)
        for channel in CHANNELS:
            self.sent[channel] += 1
            self._wait(channel, self.count)

    def send_volatile(self, site: int, channel: str) -> None:
        self._runtime(site).to(channel).volatile.emit("volatile")

    def say(self, slot: int, channel: str) -> None:
        self.count += 1
        assert self.clients[slot].call("say", self.count, channel) == "said"
        self.sent[channel] += 1
        self._wait(channel, self.count)

    def join(self, slot: int, channel: str, limit: int) -> None:
        if channel not in self.clients[slot].limits:
            assert self.clients[slot].subscribe(channel, limit)

    def leave(self, slot: int, channel: str) -> None:
        if channel in self.clients[slot].limits:
            self.clients[slot].unsubscribe(channel)

    def lose(self, slot: int, site: int) -> None:
        self.clients[slot].reconnect(self.ports[site % len(self.ports)])

    def sync(self, slot: int) -> None:
        self.clients[slot].sync()

    def clear(self, channel: str) -> None:
        self.is_lossy = True
        history.clear(channel, runtime=self.runtimes[0])

    def finish(self) -> None:
        """Wait until the clients have received all messages, and compare them."""
        for channel in CHANNELS:
            # Read by each runtime, after the messages that it stores.
            found = [history.messages(channel, runtime=each, limit=0) for each in self.runtimes]
            last = found[-1]
            for client in self.clients:
                while channel in client.limits:
                    position = client.positions[channel]
                    if position is not None and position[0] != last.epoch:
                        break  # the next message reports the gap
                    if position is not None and position[1] >= last.offset:
                        break
                    client.process_next()
            self.send(0, channel, 1)
            for client in self.clients:
                if channel in client.limits:
                    client.wait_for(channel, self.count)
        for client in self.clients:
            for channel, received in client.received.items():
                for (epoch, offset), event in received:
                    number = self.stored.get((channel, epoch, offset))  # None: removed before
                    assert None in (event, number) or event == ["message", number]
            numbers = [event[1] for event in client.events if event[0] == "message"]
            assert len(numbers) == len(set(numbers)) or self.is_lossy, "each message once"
            assert all(event[0] == "volatile" for event in client.others)
            if not self.is_lossy and max(self.sent.values()) <= SIZE:
                assert client.gaps == [], "nothing was lost"

    def close(self) -> None:
        for client in self.clients:
            client.socket.vanish()

    def _runtime(self, site: int) -> Runtime:
        return self.runtimes[site % len(self.runtimes)]

    def _wait(self, channel: str, number: int) -> None:
        """Wait until a message is stored, and note the positions of all."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = history.messages(channel, runtime=self.runtimes[0])
            for message in found.messages:
                self.stored[channel, found.epoch, message["offset"]] = message["args"][0]
            if any(message["args"] == [number] for message in found.messages):
                return
            gevent.sleep(0.005)
        raise AssertionError("the message was not stored")


#: Seconds for one example. The time limit of the test would end only the first one that hangs, and
#: Hypothesis repeats it.
EXAMPLE_TIMEOUT = 30.0


def play(world: World, plan: list[tuple[Any, ...]]) -> None:
    try:
        with gevent.Timeout(EXAMPLE_TIMEOUT, AssertionError("a client waits for a message")):
            for name, *args in plan:
                if name == "forget":
                    world.is_lossy = True
                    world.forget()
                else:
                    getattr(world, name.replace(" ", "_"))(*args)
            world.finish()
    finally:
        world.close()
        for runtime in world.runtimes:  # the next example starts without sockets
            while runtime.sockets():
                gevent.sleep(0.005)


def add_handler(runtime: Runtime) -> None:
    @runtime.events.on_event("say")
    def say(request: Any, socket: Any, context: Any, number: int, channel: str) -> str:
        socket.broadcast_channel(number, channel)
        return "said"


FEW = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def test_followers_in_memory_receive_each_message_once_or_a_gap(serve: Callable[..., Site]) -> None:
    site = serve(plugins=[PLUGIN], history=RULES)
    add_handler(default_runtime)

    @FEW
    @given(steps)
    def check(plan: list[tuple[Any, ...]]) -> None:
        def forget() -> None:
            for channel in CHANNELS:
                history.clear(channel)

        forget()
        play(World([default_runtime], [site.port], forget), plan)

    check()


@pytest.mark.usefixtures("long_redis_timeouts")
def test_followers_of_two_servers_receive_each_message_once_or_a_gap(
    serve: Callable[..., Site], redis: RedisServer
) -> None:
    runtimes = [Runtime(), Runtime()]
    options: dict[str, Any] = {"plugins": [PLUGIN], "history": RULES, "backplane": redis.url}
    ports = [serve(runtime=runtime, **options).port for runtime in runtimes]
    for runtime in runtimes:
        add_handler(runtime)

    # The third client reads a page before the live followers receive a message of a new epoch.
    @example([("join", 0, "room-1", 1), ("forget",), ("join", 2, "room-1", 3)])
    @FEW
    @given(steps)
    def check(plan: list[tuple[Any, ...]]) -> None:
        redis.ask("FLUSHALL")
        play(World(runtimes, ports, lambda: redis.ask("FLUSHALL")), plan)

    check()
