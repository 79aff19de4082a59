"""Clients that lose their connections in many ways, and a check of what each of them received.

A `Feed` sends numbered messages to all sockets, to rooms, and to single sockets. Each client checks
that the numbers of each of its three sequences have no gaps and no repetitions, also across losses,
as long as its connections are recovered.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import gevent.event

from webpy_socketio import Runtime

from . import raw

__all__ = ["LOSSES", "CheckedClient", "Feed"]

ROOMS = 2


def subscribe_to_room(request: Any, socket: Any, context: Any) -> None:
    """Receiver of `connect`: subscribe a client to its room."""
    socket.subscribe(f"room-{socket.auth['number'] % ROOMS}")


class Feed:
    """Sends rounds of numbered messages: to all sockets, to each room, and to each client.

    Args:
        runtime: Sends the messages.
        interval: Seconds between two rounds.
    """

    #: Ids of the sockets that receive messages of their own.
    session_ids: Sequence[str] = ()

    def __init__(self, runtime: Runtime, interval: float = 0.005) -> None:
        #: Number of the last round; -1 before the first.
        self.round = -1
        self._runtime = runtime
        self._interval = interval
        self._sent = gevent.event.Event()
        self._sender: Any = None

    def start(self) -> None:
        """Start sending."""
        self._sender = gevent.spawn(self._send)
        self._sender.link(lambda ended: self._sent.set())

    def stop(self) -> None:
        """Stop after a complete round."""
        self._sender.kill()

    def wait(self, rounds: int) -> None:
        """Wait for further rounds."""
        goal = self.round + rounds
        while self.round < goal:
            self._sent.clear()
            assert not self._sender.dead, self._sender.exception
            self._sent.wait()

    def send_to(self, session_id: str, message: list[Any]) -> None:
        """Send a message to a single socket."""
        self._runtime.send(session_id, message)

    def _send(self) -> None:
        while True:
            self.round += 1
            self._runtime.everyone.emit("n", "all", self.round)
            for room in range(ROOMS):
                self._runtime.to(f"room-{room}").emit("n", "room", self.round)
            for session_id in self.session_ids:
                self.send_to(session_id, ["one", self.round])
            self._sent.set()
            gevent.sleep(self._interval)


class _PollingLink:
    """A long-polling session as a stream of packets."""

    def __init__(self, port: int) -> None:
        self._polling = raw.Polling(port)
        self._packets: list[str] = []

    def send(self, packet: str) -> None:
        assert self._polling.send(packet) == (200, "ok")

    def receive(self) -> str:
        while not self._packets:
            self._packets = self._polling.poll()
        return self._packets.pop(0)

    def vanish(self, reset: bool = False) -> None:
        """Abort a request that waits for messages, and never send another one."""
        with socket.create_connection(("127.0.0.1", self._polling.port)) as sock:
            path = f"{self._polling.path}?{self._polling.query}"
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())


class CheckedClient:
    """A client that checks its messages.

    Args:
        port: Port of the server.
        number: Number of the client; it selects the room.
    """

    def __init__(self, port: int, number: int) -> None:
        self.port = port
        self.number = number
        #: Violations: messages that are missing or doubled.
        self.wrong: list[str] = []
        #: Number of recovered connections, and of those that were not.
        self.recovered = self.fresh = 0
        self.sid = ""
        self._pid: str | None = None
        self._offset: str | None = None
        #: Number of the last message by sequence; None after a connection was not recovered.
        self._last: dict[str, int] | None = {"all": -1, "one": -1, "room": -1}
        self._link: Any = None
        self.connect()
        self._await_connect_handlers()

    def connect(self, polling: bool = False) -> None:
        """Connect, with secret and offset after the first time."""
        self._begin(polling)
        reply = self._link.receive()
        assert reply.startswith("40"), reply
        values = json.loads(reply[2:])
        if self._pid is not None:
            is_recovered = (values["sid"], values["pid"]) == (self.sid, self._pid)
            self.recovered += is_recovered
            self.fresh += not is_recovered
            if not is_recovered:
                self._last, self._offset = None, None
        self.sid, self._pid = values["sid"], values["pid"]

    def read(self, count: int = 1) -> None:
        """Receive messages and check them."""
        for _ in range(count):
            self._handle(self._link.receive())

    def _handle(self, packet: str) -> None:
        assert packet.startswith("42"), packet
        event, *args, self._offset = json.loads(packet[2:])
        kind, number = args if event == "n" else args[0]
        self._check(kind, number)

    def _await_connect_handlers(self) -> None:
        """Wait until the client is subscribed to its room: later events are handled in order."""
        self._link.send('420["__unsubscribe__","none"]')
        while not (packet := self._link.receive()).startswith("430"):
            self._handle(packet)

    def catch_up(self, number: int) -> None:
        """Receive messages up to a round of messages to all, or a later one."""
        while self._last is None or self._last.get("all", -1) < number:
            self.read()

    def read_until(self, number: int) -> None:
        """Receive messages up to a round."""
        while self._last is None or set(self._last.values()) != {number}:
            self.read()

    def lose(self, way: str, feed: Feed, random: random.Random) -> None:
        """Lose the connection and connect again.

        Args:
            way: A name in `LOSSES`.
            feed: Sends messages meanwhile.
            random: Selects how many messages are missed and received.
        """
        LOSSES[way](self, feed, random)

    def close(self) -> None:
        """Close the connection."""
        self._link.vanish()

    def _begin(self, polling: bool = False) -> None:
        self._link = _PollingLink(self.port) if polling else raw.WebSocket(self.port)
        self._send_connect()

    def _send_connect(self) -> None:
        auth = {"number": self.number}
        if self._pid is not None:
            auth |= {"pid": self._pid, "offset": self._offset}  # type: ignore[dict-item]
        self._link.send(f"40{json.dumps(auth)}")

    def _check(self, kind: str, number: int) -> None:
        if self._last is None:
            self._last = {}
        expected = self._last.get(kind, number - 1) + 1
        if number != expected:
            self.wrong.append(f"client {self.number}, {kind}: {number} instead of {expected}")
        self._last[kind] = number

    # -- losses

    def _abrupt_close(self, feed: Feed, random: random.Random, reset: bool = False) -> None:
        self._link.vanish(reset)
        feed.wait(random.randrange(3))
        self.connect()

    def _reset(self, feed: Feed, random: random.Random) -> None:
        self._abrupt_close(feed, random, reset=True)

    def _stall(self, feed: Feed, random: random.Random) -> None:
        """Connect again while the server considers the old connection open."""
        stalled = self._link
        feed.wait(random.randrange(3))
        self.connect()
        stalled.vanish()

    def _aborted_poll(self, feed: Feed, random: random.Random) -> None:
        self._link.vanish()
        self.connect(polling=True)
        feed.wait(2)
        self.read(random.randrange(1, 4))
        self._link.vanish()
        self.connect()

    def _loss_during_replay(self, feed: Feed, random: random.Random) -> None:
        self._link.vanish()
        feed.wait(3)
        self.connect()
        self.read(random.randrange(1, 9))  # of nine or more
        self._link.vanish(reset=random.random() < 0.5)
        self.connect()

    def _second_loss(self, feed: Feed, random: random.Random) -> None:
        """Lose the connection that resumes before its answer has arrived."""
        self._link.vanish()
        for _ in range(random.randrange(1, 3)):
            self._begin()
            self._link.vanish(reset=random.random() < 0.5)
        self.connect()


#: The ways to lose a connection.
LOSSES: dict[str, Callable[[CheckedClient, Feed, random.Random], None]] = {
    "abrupt close": CheckedClient._abrupt_close,
    "aborted poll": CheckedClient._aborted_poll,
    "loss during replay": CheckedClient._loss_during_replay,
    "reset": CheckedClient._reset,
    "second loss": CheckedClient._second_loss,
    "stall": CheckedClient._stall,
}
