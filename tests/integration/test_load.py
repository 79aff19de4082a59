"""Many clients, slow readers, floods, and a stop under load.

The server is a separate process and the clients are greenlets; see `load_clients`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import pytest

from tests.load_clients import (
    Gone,
    Polling,
    Start,
    WebSocket,
    scaled,
    together,
)

MANY = scaled(5000, 400)
POLLS = scaled(1000, 100)

pytestmark = [pytest.mark.time_limit(120), pytest.mark.torture]


@pytest.mark.usefixtures("_many_descriptors")
class TestStorm:
    def test_many_clients_connect_receive_and_disconnect(self, start: Start) -> None:
        server = start()
        before = server.warm_up()
        clients = together(lambda number: WebSocket(server.port), MANY)
        full = server.counts()
        assert (full["sessions"], full["sockets"]) == (MANY, MANY)
        # Only five of them need a greenlet.
        assert full["greenlets"] <= before["greenlets"] + 5

        heard = [gevent.event.Event() for _ in clients]
        for client, event in zip(clients, heard, strict=True):
            client.heard = lambda event_, event=event: event.set()
        clients[0].call("publish", 0, 1, 100)
        gevent.wait(heard)

        ways: list[Callable[[WebSocket], None]] = [
            WebSocket.goodbye,
            lambda client: client.wire.close(),
            lambda client: client.wire.close(reset=True),
            lambda client: client.send("1"),
            lambda client: client.emit("kick"),
        ]
        together(lambda number: ways[number % len(ways)](clients[number]), MANY)
        gevent.wait([client.closed for client in clients])
        server.settle(before)
        told = server.end()
        assert told["connects"] == told["finishes"] == MANY + 2
        assert told["reasons"] == {
            "transport close": MANY * 4 // 5 + 2,
            "server namespace disconnect": MANY // 5,
        }

    def test_many_pending_polls_are_answered(self, start: Start) -> None:
        server = start()
        before = server.warm_up()
        clients = together(lambda number: Polling(server.port), POLLS)
        server.eventually(lambda counts: counts["waiting"] == POLLS)
        heard = [gevent.event.Event() for _ in clients]
        for client, event in zip(clients, heard, strict=True):
            client.heard = lambda event_, event=event: event.set()
        clients[0].call("publish", 0, 1, 100)
        gevent.wait(heard)
        server.eventually(lambda counts: counts["waiting"] == POLLS)
        together(lambda number: clients[number].vanish(reset=number % 2 == 0), POLLS)
        server.settle(before)
        told = server.end()
        assert told["finishes"] == POLLS + 2
        assert told["reasons"] == {"transport close": POLLS + 2}


class TestHandshakeFlood:
    def test_unused_sessions_end_at_the_ping_deadline(self, start: Start) -> None:
        server = start(ping_interval=0.5, ping_timeout=2.0)
        before = server.warm_up()

        def shake(number: int) -> str:
            client = Polling(server.port, connect=False)
            client.vanish()
            return client.sid

        assert len(set(together(shake, MANY))) == MANY
        server.settle(before)
        assert server.counts()["connects"] == 2, "sessions without a namespace must not connect"

    def test_sessions_beyond_the_limit_are_rejected(self, start: Start) -> None:
        server = start(max_sessions=100)

        def shake(number: int) -> int:
            client = Polling(server.port, connect=False)
            client.vanish()
            return client.status

        statuses = together(shake, 300)
        assert sorted(statuses) == [200] * 100 + [503] * 200
        with pytest.raises(Gone):
            WebSocket(server.port)
        assert server.counts()["sessions"] == 100


class TestBackPressure:
    def test_client_that_stops_reading_is_closed_and_others_receive_all(self, start: Start) -> None:
        cap, size, batch, total = 1_000_000, 1000, 200, scaled(20_000, 8_000)
        server = start(outbox_bytes=cap)
        before = server.warm_up()
        clients = together(lambda number: WebSocket(server.port), scaled(20, 8))
        lazy = WebSocket(server.port)
        lazy.stop_reading()
        counted = [0] * len(clients)
        arrived = gevent.event.Event()

        def reader(number: int) -> Callable[[list[Any]], None]:
            def hear(event: list[Any]) -> None:
                # Messages arrive complete, once and in order.
                assert event == ["message", f"{counted[number]} ".ljust(size, "x")]
                counted[number] += 1
                arrived.set()

            return hear

        for number, client in enumerate(clients):
            client.heard = reader(number)
        largest = 0
        for first in range(0, total, batch):
            clients[0].call("publish", first, batch, size)
            while min(counted) < first + batch:
                arrived.clear()
                arrived.wait()
            if first % 1000 == 0:
                largest = max(largest, server.counts()["outbox"])
        found = server.eventually(lambda counts: counts["sessions"] == len(clients))
        assert found["reasons"] == {"transport close": 2, "slow reader": 1}
        assert 0 < largest <= cap
        assert counted == [total] * len(clients)
        # A copy of all messages for the slow client, or for each other client, would exceed this.
        assert found["memory"] - before["memory"] < total * size
        for client in clients:
            client.goodbye()
        lazy.wire.close()
        server.settle(before)


class TestInboundFlood:
    #: Shorter than the flood: pongs of a paused client are not read.
    OPTIONS = {"ping_interval": 0.3, "ping_timeout": 2.0, "inbox_events": 100}  # noqa: RUF012

    @staticmethod
    def flood(client: Any, count: int) -> gevent.Greenlet:
        def send() -> None:
            for number in range(count):
                client.emit("slow", number, "x" * 1000)
                if number % 100 == 0:
                    gevent.sleep(0)  # let a pong be sent

        return gevent.spawn(send)

    def test_reading_pauses_and_resumes_with_the_handlers(self, start: Start) -> None:
        total = scaled(100_000, 12_000)
        server = start(**self.OPTIONS)
        before = server.warm_up()
        other = WebSocket(server.port)
        client = WebSocket(server.port)
        sending = self.flood(client, total)
        server.eventually(lambda counts: counts["queued"] >= 99)
        # Longer than interval and timeout together; pings continue.
        pings = other.pings
        found = server.eventually(lambda counts: other.pings >= pings + 9)
        assert not sending.ready(), "the kernel's buffers are full, and TCP holds it back"
        # One read of 64 KB contains messages of more than 1,000 bytes each.
        assert found["queued"] <= 100 + 65_536 // 1000
        assert found["sessions"] == 2
        assert found["memory"] - before["memory"] < 20_000_000
        assert client.pings >= 1
        assert other.call("echo", "meanwhile") == ["meanwhile"]
        server.open_gate()
        sending.get()
        # Acknowledged after all messages: none is lost.
        assert client.call("slow", total) == [total]
        assert server.counts()["handled"] == total + 1
        client.goodbye()
        other.goodbye()
        server.settle(before)
        assert server.end()["reasons"] == {"transport close": 4}

    def test_post_is_paused_as_well(self, start: Start) -> None:
        server = start(**self.OPTIONS)
        before = server.warm_up()
        other = WebSocket(server.port)
        client = Polling(server.port)
        packets = "\x1e".join(f'42["slow",{number}]' for number in range(5000))
        sending = gevent.spawn(client.send, packets)
        server.eventually(lambda counts: counts["queued"] >= 99)
        pings = other.pings
        found = server.eventually(lambda counts: other.pings >= pings + 9)
        assert not sending.ready()
        assert found["queued"] == 99, "one of a hundred is being handled"
        assert found["sessions"] == 2
        server.open_gate()
        sending.get()
        assert client.call("slow", 5000) == [5000]
        client.send("1")
        other.goodbye()
        server.settle(before)
        assert server.end()["reasons"] == {"transport close": 4}


@pytest.mark.usefixtures("_many_descriptors")
class TestStopping:
    @pytest.mark.parametrize("times", [1, 2], ids=["SIGTERM", "a second SIGTERM"])
    def test_stop_notifies_clients_and_sends_every_finish(self, times: int, start: Start) -> None:
        server = start()
        clients = together(lambda number: WebSocket(server.port), MANY)
        polls = together(lambda number: Polling(server.port), POLLS)
        server.eventually(lambda counts: counts["waiting"] == POLLS)
        assert clients[0].call("gated") == [True]
        server.process.popen.send_signal(signal.SIGTERM)
        server.wait_for("WAITING")  # printed by the handler of the first closed client
        for _ in range(times - 1):
            server.process.popen.send_signal(signal.SIGTERM)
        server.open_gate()
        told = {"websockets": [client.closed.get() for client in clients]}
        told["polls"] = [client.closed.get() for client in polls]
        assert told == {"websockets": [1001] * MANY, "polls": ["1"] * POLLS}
        assert server.process.wait() == 0
        ended = server.process.wait_for("TOLD ")
        assert f'"connects": {MANY + POLLS}' in ended
        assert f'"reasons": {{"server shutting down": {MANY + POLLS}}}' in ended
        assert f'"finishes": {MANY + POLLS}' in ended
