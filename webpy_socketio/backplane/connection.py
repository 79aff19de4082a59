"""Single-use connection to Redis, built on the library `redis`.

Clients of that library reconnect and retry on their own. A retried message may arrive twice, and a
renewed subscription hides which messages were missed. This module therefore uses the library's
plain `Connection` and discards it after its first failure.
"""

from __future__ import annotations

import random
import select
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import redis
from gevent.monkey import get_original
from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.retry import Retry

from webpy_socketio.engine.workers.forking import close_in_child
from webpy_socketio.exceptions import BackplaneError

__all__ = ["Connector", "RedisConnection", "address_of", "reconnect_delays"]

#: Seconds for connecting. Together with the longest of `reconnect_delays` it is below 5: all
#: processes are connected again 5 seconds after Redis is back.
CONNECT_TIMEOUT = 2.0

#: Topics in one command.
BATCH = 500

#: Intervals of a timeout: a connection is dead after this many consecutive ones without a byte.
IDLE_INTERVALS = 3

#: Exceptions that the library raises for a closed connection. The last two occur when another
#: greenlet closes the connection during a read.
_FAILURES = (redis.RedisError, OSError, ValueError, AttributeError)


class RedisConnection:
    """Connection to Redis that is open from `__init__` until its first failure.

    Failures raise `BackplaneError`. `timeout` is the number of seconds without a byte after which a
    pending read or write fails.

    Time during which the process was suspended does not count towards the timeout: a paused virtual
    machine, ``SIGSTOP``, a blocked event loop. Data that arrived meanwhile is read before the
    timeout is checked.
    """

    def __init__(self, url: str, timeout: float) -> None:
        #: For messages: the URL may contain a password.
        self.address = address_of(url)
        self.closed = False
        #: Replies to the commands of the last `execute`, in their order.
        self.replies: list[Any] = []
        self._interval = timeout / IDLE_INTERVALS
        self._connection = Connection(
            **{
                **parse_url(url),
                "socket_timeout": timeout,
                "socket_connect_timeout": CONNECT_TIMEOUT,
                "socket_keepalive": True,
                "retry": Retry(NoBackoff(), 0),
                # RESP 2: replies and published messages arrive in order, in one stream.
                "protocol": 2,
            }
        )
        self._try(self._connection.connect)
        self._sock: Any = self._connection._sock
        close_in_child(self._sock)
        self._sock.settimeout(self._interval)
        self._readable = _poll(self._sock, "POLLIN")
        self._writable = _poll(self._sock, "POLLOUT")

    def send(self, *words: str | bytes) -> None:
        """Send one command; after a failure, data received before the close can still be read."""
        self._write(self._connection.pack_command(*words))

    def subscribe(self, topics: Sequence[bytes]) -> None:
        """Subscribe to topics; Redis confirms each."""
        self._send_in_batches("SUBSCRIBE", topics)

    def unsubscribe(self, topics: Sequence[bytes]) -> None:
        """Unsubscribe from topics; Redis confirms each."""
        self._send_in_batches("UNSUBSCRIBE", topics)

    def read(self) -> Any:
        """Wait for the next reply or message, and return it."""
        return self._try(self._read_response)

    def has_data(self) -> bool:
        """Return whether a read would return at once, with data or because the connection ended."""
        if self._readable is not None and not self.closed:
            return bool(self._readable.poll(0))
        return bool(self._try(self._connection.can_read, 0))

    def execute(self, *commands: Sequence[str | bytes | int]) -> list[Any]:
        """Send commands in one write, and return the reply to each.

        A command that Redis rejects has a `BackplaneError` in place of its reply.

        Raises:
            BackplaneError: The connection ended. `replies` contains the replies received until
                then; Redis may or may not have executed the other commands.
        """
        failure: BackplaneError | None = None
        replies: list[Any] = []
        self.replies = replies
        try:
            self._write(self._connection.pack_commands(commands))
        except BackplaneError as error:
            failure = error  # Redis may have replied to the first commands
        try:
            while len(replies) < len(commands):
                try:
                    replies.append(self.read())
                except _CommandError as error:
                    replies.append(BackplaneError(str(error)))
        except BackplaneError as error:
            raise (failure or error) from error.__cause__
        return replies

    def publish(self, envelopes: Sequence[tuple[bytes, bytes]]) -> list[int | BackplaneError]:
        """Publish (topic, envelope) pairs; return the number of receivers of each."""
        return self.execute(*(("PUBLISH", *envelope) for envelope in envelopes))

    def check(self) -> None:
        """Raise `BackplaneError` if the connection was closed while it was idle."""
        if self._readable is not None and not self.closed and not self._readable.poll(0):
            return
        if self._try(self._connection.can_read, 0):
            self._fail(f"{self.address} sent data without a command")

    def ping(self) -> None:
        """Send a PING and wait for the reply."""
        self.send("PING")
        self.read()

    def close(self) -> None:
        """Close the connection; a pending read raises `BackplaneError`."""
        self.closed = True
        self._connection.disconnect()

    def _send_in_batches(self, command: str, topics: Sequence[bytes]) -> None:
        # Never PSUBSCRIBE: a channel name may contain an asterisk.
        for start in range(0, len(topics), BATCH):
            self.send(command, *topics[start : start + BATCH])

    def _try(self, function: Any, *args: Any, **keywords: Any) -> Any:
        if self.closed:  # the library would reconnect
            raise BackplaneError(f"the connection to {self.address} is closed")
        try:
            return function(*args, **keywords)
        except redis.AuthenticationError as error:
            self._fail(
                f"{self.address} rejected the user name or password in "
                f"SOCKETIO_BACKPLANE ({error}); special characters in them must be percent-encoded",
                error,
            )
        except redis.ResponseError as error:
            raise _CommandError(f"{self.address} rejected a command: {error}") from error
        except _FAILURES as error:
            self._fail(f"{self.address} is unreachable: {error}", error)
        except BaseException:
            self.close()
            raise

    def _read_response(self) -> Any:
        idle: _IdleTimeout | None = None
        began = time.monotonic()
        while True:
            try:
                return self._connection.read_response(
                    disable_decoding=True, disconnect_on_error=False
                )
            except redis.TimeoutError:
                if idle is None:
                    idle = _IdleTimeout(self._interval, began)
                if idle.is_over(self._readable):
                    raise

    def _write(self, packed: Sequence[bytes]) -> None:
        try:
            if not self.closed:
                self._send_all(packed)
                return
        except ConnectionError as error:  # the built-in one: Redis closed the connection
            raise BackplaneError(f"{self.address} is unreachable: {error}") from error
        except _FAILURES as error:
            self._fail(f"{self.address} is unreachable: {error}", error)
        except BaseException:
            self.close()
            raise
        raise BackplaneError(f"the connection to {self.address} is closed")

    def _send_all(self, packed: Sequence[bytes]) -> None:
        for item in packed:
            left = memoryview(item)
            idle = _IdleTimeout(self._interval, time.monotonic())
            while left:
                try:
                    left = left[self._sock.send(left) :]
                    idle = _IdleTimeout(self._interval, time.monotonic())
                except TimeoutError:
                    if idle.is_over(self._writable):
                        raise

    def _fail(self, text: str, cause: BaseException | None = None) -> None:
        self.close()
        raise BackplaneError(text) from cause


class _IdleTimeout:
    """Decides after each socket timeout whether the connection is dead.

    The timer of a suspended process fires late, and before data that arrived meanwhile is read. An
    interval therefore counts only if the socket is not ready and the timer was late by less than
    one interval. A suspension counts as one interval at most.
    """

    def __init__(self, interval: float, began: float) -> None:
        self._interval = interval
        self._began = began
        self._count = 0

    def is_over(self, poller: Any) -> bool:
        """Count an interval without a byte, and return whether it was the last one allowed."""
        began, self._began = self._began, time.monotonic()
        if (poller is not None and poller.poll(0)) or self._began - began > 2 * self._interval:
            self._count = 0
        else:
            self._count += 1
        return self._count >= IDLE_INTERVALS


def _poll(sock: Any, event: str) -> Any:
    """Return the operating system's poll object for one event, or None if it has none.

    The library uses gevent's: a watcher, a timer and two greenlet switches for each check, which
    takes as long as the PUBLISH that follows.
    """
    if not hasattr(select, event):
        return None
    poller = get_original("select", "poll")()
    poller.register(sock.fileno(), getattr(select, event))
    return poller


def address_of(url: str) -> str:
    """Return "Redis at host:port" for messages, without the password."""
    parts = urlsplit(url)
    return f"Redis at {parts.hostname}:{parts.port or 6379}"


class _CommandError(BackplaneError):
    """Error reply of Redis; the connection remains usable."""


class Connector:
    """Opens the connections of one greenlet, which may be ended at any time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opening = False
        #: Set by `end`. Killing a greenlet while it connects would leak a socket, so it checks this
        #: flag.
        self.ended = False

    def open(self, timeout: float) -> RedisConnection:
        """Open a new connection; blocks.

        Raises:
            BackplaneError: Redis is unreachable, or `end` was called.
        """
        self._opening = True
        try:
            connection = RedisConnection(self._url, timeout)
        finally:
            self._opening = False
        if self.ended:
            connection.close()
            raise BackplaneError("the server is stopping")
        return connection

    def end(self, greenlet: Any) -> None:
        """End the greenlet; if it is connecting, after the attempt."""
        self.ended = True
        if not self._opening:
            greenlet.kill()


def reconnect_delays() -> Iterator[float]:
    """Yield seconds to wait before each attempt to connect, with jitter and exponential backoff."""
    longest = 0.1
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(longest * 2, 2.5)
