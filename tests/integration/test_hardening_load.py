"""Tests of `test_hardening` with large numbers of clients and messages.

They check that resources are limited and that messages arrive once and in order, not the speed.
``make torture`` runs the full loads, and ``make test`` a part of each (`scaled`).
"""

from __future__ import annotations

import contextlib
import gc
import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
from gevent import socket

from tests.conftest import Journal, Site, socket_of
from tests.engines import eventually
from tests.load_clients import (
    HELD,
    CountedServer,
    Gone,
    Polling,
    Start,
    WebSocket,
    close_all,
    counts,
    scaled,
    together,
)
from webpy_socketio import (
    Disconnected,
    NoSocket,
    Socket,
    broadcast_channel,
    on_event,
    on_message,
    on_subscribe,
    signals,
)
from webpy_socketio.engine import EngineConfig
from webpy_socketio.runtime import default_runtime

pytestmark = [pytest.mark.torture, pytest.mark.time_limit(180)]


class TestSlowSenders:
    """Connections that send a byte every 5 s are closed by the header and body timeouts."""

    PLACES = (
        ("line", b"GET /cou"),
        ("headers", b"GET /counts HTTP/1.1\r\nHost: a\r\nX-Slow: "),
        ("body", b"POST /counts HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"),
    )

    def test_slow_senders_are_closed_and_others_served(self, start: Start) -> None:
        """The number of bytes of each is limited, and other clients are served meanwhile."""
        server = start()
        before = server.warm_up()
        total = scaled(500, 60)
        sent: Counter[tuple[str, int]] = Counter()

        def trickle(number: int) -> None:
            place, beginning = self.PLACES[number % len(self.PLACES)]
            with contextlib.closing(socket.create_connection(("127.0.0.1", server.port))) as sock:
                sock.sendall(beginning)
                reading = gevent.spawn(sock.recv, 65_536)
                count = 0
                while reading.join(5.0) or not reading.ready():
                    sock.sendall(b"x")
                    count += 1
                assert reading.get().startswith(b"HTTP/1.1 408 ")
                sent[place, count] += 1

        slow = [gevent.spawn(trickle, number) for number in range(total)]
        answered = 0
        while not all(each.ready() for each in slow):
            assert server.counts()["sessions"] == 0
            answered += 1
            gevent.sleep(0.1)
        gevent.joinall(slow, raise_error=True)
        assert sum(sent.values()) == total
        assert max(count for place, count in sent if place != "body") <= 2
        # Each byte restarts the 20 s without progress; the minimum rate closes the connection.
        assert max(count for place, count in sent if place == "body") <= 5
        assert answered >= 20
        server.settle(before)


class TestHandshakeFlood:
    def test_many_unused_sessions_end_with_the_ping_timeout(self, start: Start) -> None:
        count = scaled(25_000, 2_000)
        intervals = {"ping_interval": scaled(5, 1), "ping_timeout": scaled(5, 3)}
        server = start(**intervals, max_sessions=count)
        before = server.warm_up()

        def shake(number: int) -> str:
            client = Polling(server.port, connect=False)
            client.vanish()
            return client.sid

        sids = together(shake, count)
        assert "" not in sids
        assert len(set(sids)) == count
        server.settle(before)
        after = server.counts()
        assert after["connects"] == 2, "no handler was called for the others"
        # Sessions that are not released would take several kilobytes each.
        assert after["memory"] - before["memory"] < count * 8_192

    def test_sessions_beyond_the_limit_are_rejected(self, start: Start) -> None:
        limit, more = scaled(EngineConfig().max_sessions, 1_000), 100
        server = start(ping_interval=30, ping_timeout=30, max_sessions=limit)

        def shake(number: int) -> int:
            client = Polling(server.port, connect=False)
            client.vanish()
            return client.status

        statuses = Counter(together(shake, limit + more))
        assert statuses == {200: limit, 503: more}
        with pytest.raises(Gone):
            WebSocket(server.port)
        assert server.counts()["sessions"] == limit


class TestBackpressure:
    def test_messages_reach_all_readers_and_close_a_slow_reader(self, start: Start) -> None:
        """Sends up to 10 GB and counts it; `test_load` checks the contents of messages."""
        total, size, batch = scaled(100_000, 10_000), 1000, 500
        server = start(ping_interval=600, ping_timeout=600)
        before = server.warm_up()
        speaker = WebSocket(server.port)
        listeners = together(lambda number: WebSocket(server.port), scaled(98, 18))
        lazy = WebSocket(server.port)
        lazy.stop_reading()
        # A frame header of four bytes, and the packet.
        whole = total * (4 + len('42["message",""]') + size)
        received = [0] * len(listeners)

        def drain(number: int) -> None:
            wire = listeners[number].wire
            room = bytearray(262_144)
            while received[number] < whole:
                received[number] += wire._sock.recv_into(room)

        for client in listeners:
            client.stop_reading()
        draining = [gevent.spawn(drain, number) for number in range(len(listeners))]
        event_count = 0

        def count_event(event: list[Any]) -> None:
            nonlocal event_count
            assert event[1].startswith(f"{event_count} ")
            event_count += 1

        speaker.heard = count_event
        largest = memory = 0
        for first in range(0, total, batch):
            speaker.call("publish", first, batch, size)
            # The next batch starts when all readers have received this one, so that only the client
            # that does not read falls behind.
            expected = (first + batch) * (whole // total)
            while min(received) < expected or event_count < first + batch:
                gevent.sleep(0)
            if first % 2500 == 0:
                found = server.counts()
                largest, memory = max(largest, found["outbox"]), max(memory, found["memory"])
        gevent.joinall(draining, raise_error=True)
        assert received == [whole] * len(listeners)
        assert event_count == total
        assert largest <= 4 << 20
        assert memory - before["memory"] < 64 << 20
        found = server.eventually(lambda counts: counts["sessions"] == 1 + len(listeners))
        assert found["reasons"] == {"transport close": 2, "slow reader": 1}


class TestRaces:
    def test_subscribing_while_disconnecting_leaves_nothing(
        self, serve: Callable[..., Site]
    ) -> None:
        """Broadcasts, also from handlers, run while clients connect and disconnect."""
        site = serve()
        came: Counter[tuple[str, str]] = Counter()
        ended: Counter[tuple[str, str]] = Counter()
        errors: list[BaseException] = []
        signals.error.connect(lambda sender, exception, **extra: errors.append(exception))

        @signals.subscribe.connect
        def subscribed(sender: Any, channel: str, **extra: Any) -> None:
            came[sender.session_id, channel] += 1
            sender.broadcast_channel("subscribed", channel)

        @signals.unsubscribe.connect
        def unsubscribed(sender: Any, channel: str, **extra: Any) -> None:
            came[sender.session_id, channel] -= 1
            sender.broadcast_channel("unsubscribed", channel)

        for stage in (signals.disconnect, signals.finish):

            def end(sender: Any, name: str = stage.name, **extra: Any) -> None:
                ended[sender.session_id, name] += 1

            stage.connect(end)
        steady = WebSocket(site.port)
        steady.subscribe("room")
        events = Journal()
        steady.heard = lambda event: events.append(event[1]) if type(event[1]) is int else None
        before = counts(site.server)
        lives = scaled(10_000, 500)

        def live(number: int) -> None:
            client = WebSocket(site.port)
            found = default_runtime.registry.find(client.id)
            assert found is not None
            with contextlib.suppress(Gone):
                client.emit("__subscribe__", "room")
                gevent.spawn(self.subscribe, found)
                client.emit("__subscribe__", "attic")
                for _ in range(number % 4):
                    gevent.sleep(0)
                if number % 3 == 0:
                    found.disconnect()
                elif number % 3 == 1:
                    client.send("41")
            client.wire.close(reset=number % 2 == 0)
            if number % 10 == 0:
                broadcast_channel(number // 10, "room")

        together(live, lives)
        eventually(lambda: sum(ended.values()) >= 2 * lives)
        events.wait(lambda events: len(events) == lives // 10)
        assert sorted(events) == list(range(lives // 10))
        assert set(ended.values()) == {1}
        came[steady.id, "room"] -= 1  # still subscribed
        assert not any(came.values()), "every subscription was ended once"
        space = default_runtime.registry.namespace("/")
        assert list(space.sockets) == [steady.id]
        assert [each.session_id for each in space.channels.members("room")] == [steady.id]
        assert len(space.channels) == len(space.channels._held) == 1
        assert errors == []
        left: dict[str, int] = {}

        def settled() -> bool:
            now = counts(site.server)
            left.update({name: now[name] - before[name] for name in HELD})
            return not any(number > 0 for number in left.values())

        eventually(settled)
        close_all()

    @staticmethod
    def subscribe(found: Any) -> None:
        found.subscribe("hall")


class TestChannels:
    def test_many_channels_use_little_memory(self, serve: Callable[..., Site]) -> None:
        """All names are new, and handlers with channel patterns are bound."""

        @on_subscribe(channel="^room-1")
        def bound(request: Any, socket: Any, context: Any, channel: str) -> None:
            context["count"] = context.get("count", 0) + 1

        @on_message(channel="^hall-")
        def other(request: Any, socket: Any, context: Any, message: Any) -> None: ...

        @on_event("visit")
        def visit(request: Any, socket: Any, context: Any, first: int, count: int) -> None:
            for number in range(first, first + count):
                assert socket.subscribe(f"room-{number}")
                assert socket.unsubscribe(f"room-{number}")
                with contextlib.suppress(NoSocket):
                    broadcast_channel(None, f"unknown-{number}")
                    raise AssertionError("expected NoSocket")

        site = serve(ping_interval=600)
        client = site.connect()
        found = socket_of(client)
        first, more = scaled(50_000, 10_000), scaled(1_000_000, 50_000)
        client.call("visit", 0, first)
        before = counts(site.server)
        assert client.call("visit", first, more) == []
        after = counts(site.server)
        assert found.context["count"] > first
        for name in HELD:
            assert after[name] <= before[name], name
        assert after["memory"] - before["memory"] < 4 << 20
        assert found.channels == ()


class TestAcknowledgements:
    def test_pending_acknowledgements_are_released_with_the_client(
        self, serve: Callable[..., Site]
    ) -> None:
        total = scaled(100_000, 4_000)
        site = serve(ping_interval=600, ping_timeout=600)
        client = WebSocket(site.port)
        endings = Journal()
        arrived = 0

        def count_event(event: list[Any]) -> None:
            nonlocal arrived
            arrived += 1

        client.heard = count_event
        found = default_runtime.registry.find(client.id)
        assert found is not None
        connection = found._connection
        before = counts(site.server)

        def call(found: Socket) -> None:
            try:
                found.call("question", timeout=3600)
            except Disconnected:
                endings.append("gone")

        for first in range(0, total, 1000):
            for _ in range(1000):
                gevent.spawn(call, found)
            eventually(lambda first=first: arrived >= first + 1000)
        assert len(connection._acks) == total
        client.wire.close(reset=True)
        endings.wait(lambda endings: len(endings) == total)
        assert not connection._acks
        del found, connection
        gc.collect()
        after = counts(site.server)
        for name in HELD:
            assert after[name] <= before[name], name
        close_all()


@pytest.mark.usefixtures("_many_descriptors")
class TestStopping:
    def test_stop_notifies_all_clients_despite_a_blocked_handler(self, tmp_path: Path) -> None:
        """One handler blocks indefinitely."""
        many, polling = scaled(5000, 400), scaled(1000, 100)
        server = CountedServer(tmp_path, ping_interval=600, ping_timeout=600)
        try:
            websockets = together(lambda number: WebSocket(server.port), many)
            polls = together(lambda number: Polling(server.port), polling)
            server.eventually(lambda counts: counts["waiting"] == polling)
            assert websockets[0].call("gated") == [True]
            for _ in range(2):
                server.process.popen.send_signal(signal.SIGTERM)
            assert server.process.wait() == 0
            assert [client.closed.get() for client in websockets] == [1001] * many
            assert [client.closed.get() for client in polls] == ["1"] * polling
            ended = json.loads(server.process.wait_for("TOLD "))
            assert ended["reasons"] == {"server shutting down": many + polling}
            assert ended["finishes"] == many + polling - 1
            # The interrupted handler is reported, and nothing else.
            assert server.errors.count("Traceback") == 1
            assert server.errors.rstrip().endswith("GreenletExit")
        finally:
            server.process.kill()
            close_all()
