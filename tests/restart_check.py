"""Clients that follow a service through restarts, and a check of what each of them received.

The messages are those of `recovery_check.Feed`, sent by this process without a server, and numbered
broadcasts of each process of the service (`SERVICE`). A client checks each sequence.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import gevent

from webpy_socketio import NoSocket, Runtime

from . import raw
from .recovery_check import CheckedClient, Feed

__all__ = ["SERVICE", "Crowd", "RestartedClient", "service_environment"]

#: Source of the application, as for `servers.module_source`.
SERVICE = """
OPTIONS = {"backplane": os.environ["BACKPLANE"], "recovery_time": 60, "drain_time": 0.5}
OPTIONS["plugins"] = []
OPTIONS["ping_interval"] = 60  # a client that waits for its turn is not lost

from webpy_socketio import adopted_sessions, released_sessions
from webpy_socketio.backplane import redis, subscriber
# A busy machine may be slow.
adopted_sessions.TIMEOUT = redis.TIMEOUT = subscriber.CONFIRM_TIMEOUT = 20.0
released_sessions.CONFIRM_TIMEOUT = released_sessions.CLAIM_TIME = 20.0

import gevent

@on_connect
def subscribe_to_room(request, socket, context):
    socket.subscribe(f"room-{socket.auth['number'] % 2}")

def send_numbers():
    number = 0
    while True:
        try:
            emit("n", f"process {os.getpid()}", number)
            number += 1
        except SocketIOError:  # no client has received it
            pass
        gevent.sleep(float(os.environ["INTERVAL"]))

gevent.spawn(send_numbers)
"""


def interval(clients: int) -> float:
    """Return the seconds between two messages to all, with which clients are not overloaded."""
    return clients / 300


def service_environment(backplane: str, clients: int) -> dict[str, str]:
    """Return the environment variables of `SERVICE`."""
    return {"BACKPLANE": backplane, "INTERVAL": str(interval(clients))}


class _PollingLink:
    """A long-polling session as a stream of packets, which raises `raw.Closed` at its end."""

    def __init__(self, port: int) -> None:
        try:
            self._polling = raw.Polling(port)
        except AssertionError:  # another status than 200
            raise raw.Closed(None) from None
        self._packets: list[str] = []

    def send(self, packet: str) -> None:
        if self._polling.send(packet) != (200, "ok"):
            raise raw.Closed(None)

    def receive(self) -> str:
        while True:
            while not self._packets:
                status, body = self._polling.request("GET")
                if status != 200:
                    raise raw.Closed(None)
                self._packets = body.split(raw.SEPARATOR)
            packet = self._packets.pop(0)
            if packet == "1":
                raise raw.Closed(None)
            if packet == "2":
                self.send("3")
            elif packet != "6":
                return packet

    def vanish(self, reset: bool = False) -> None:
        """Send no more requests."""


class RestartedClient(CheckedClient):
    """A client that connects again whenever its connection ends, as the stock client does.

    Every fourth one uses long-polling.
    """

    def __init__(self, port: int, number: int) -> None:
        self._random = random.Random(number)
        self.losses = 0
        super().__init__(port, number)

    def follow(self) -> None:
        """Receive messages until the greenlet is killed."""
        while True:
            with contextlib.suppress(raw.Closed, OSError):
                while True:
                    self.read()
            self.losses += 1
            self._reconnect()

    def has_received(self, number: int) -> bool:
        """Return whether a round of the feed has arrived."""
        last = self._last or {}
        return all(last.get(kind, -1) >= number for kind in ("all", "one", "room"))

    def _reconnect(self) -> None:
        while True:
            # The stock client waits for a random time as well.
            gevent.sleep(self._random.uniform(0.0, 0.5))
            with contextlib.suppress(raw.Closed, OSError):
                self.connect()
                return

    def _begin(self, polling: bool = False) -> None:
        if self.number % 4 == 3:
            self._link = _PollingLink(self.port)
            self._send_connect()
        else:
            super()._begin()


class _TolerantFeed(Feed):
    """A feed that knows which sockets have ended."""

    def __init__(self, runtime: Runtime, interval: float, clients: list[RestartedClient]) -> None:
        super().__init__(runtime, interval)
        self._clients = clients
        #: The sockets that were not found.
        self.ended: set[str] = set()

    @property
    def session_ids(self) -> list[str]:
        return [client.sid for client in self._clients]

    def send_to(self, session_id: str, message: list[Any]) -> None:
        try:
            super().send_to(session_id, message)
        except NoSocket:
            self.ended.add(session_id)


class Crowd:
    """Clients that receive messages of a feed while a service restarts.

    Args:
        port: Port of the service.
        backplane: URL of its Redis.
        count: Number of clients.
    """

    def __init__(self, port: int, backplane: str, count: int) -> None:
        self._runtime = Runtime()
        self._runtime.configure({"SOCKETIO_BACKPLANE": backplane})
        self.clients = [RestartedClient(port, number) for number in range(count)]
        self.feed = _TolerantFeed(self._runtime, interval(count), self.clients)
        self._followers: list[Any] = []

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Send and receive during the body; afterwards until all clients have received all."""
        self.feed.start()
        self._followers = [gevent.spawn(client.follow) for client in self.clients]
        try:
            self.wait_until(lambda: all(client.has_received(3) for client in self.clients))
            yield
            self.feed.wait(2)
            self.feed.stop()
            last = self.feed.round
            self.wait_until(lambda: all(client.has_received(last) for client in self.clients))
        finally:
            self.feed.stop()
            gevent.killall(self._followers)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the clients is true; fail if one of them has failed."""
        while not condition():
            for follower in self._followers:
                if follower.dead:
                    follower.get()
            gevent.sleep(0.02)

    @property
    def wrong(self) -> list[str]:
        """Violations: messages that are missing or doubled, and recovered sockets not found."""
        missing = self.feed.ended.intersection(
            client.sid for client in self.clients if not client.fresh
        )
        found = [f"no socket was found for {session_id}" for session_id in missing]
        return found + [violation for client in self.clients for violation in client.wrong]

    @property
    def losses(self) -> int:
        """Number of connections that have ended."""
        return sum(client.losses for client in self.clients)

    @property
    def fresh(self) -> int:
        """Number of connections that were not recovered."""
        return sum(client.fresh for client in self.clients)

    def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            client.close()
