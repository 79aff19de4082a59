"""One connection to Redis, by the library `redis`, that never comes back behind our backs.

The library's clients reconnect and send again by themselves. A message that is sent again may arrive
twice, and a subscription that was renewed in silence hides what was missed; so this is its plain
`Connection`, of which each one is used until its first failure.
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

__all__ = ["Connector", "RedisConnection", "address_of", "pauses"]

#: Seconds for connecting. With the longest of `pauses` it is less than 5: so soon after Redis is
#: back everybody is.
CONNECT_TIMEOUT = 2.0

#: Topics in one command.
BATCH = 500

#: Parts of a timeout: a connection counts as dead after this many in a row without a byte.
INTERVALS = 3

#: Everything that the library raises for a connection that has ended. Another greenlet's failure
#: closes what this one reads from, and then it is one of the last two.
_FAILURES = (redis.RedisError, OSError, ValueError, AttributeError)


class RedisConnection:
    """A connection that is open from `__init__` until its first failure, which is told by
    `BackplaneError`. `timeout` is the longest time without a byte in which something is awaited.

    Time in which this process stood still does not count: a paused machine, `SIGSTOP`, a blocked
    event loop. Afterwards the connection is read first, and judged only when nothing is left in it.
    """

    def __init__(self, url: str, timeout: float) -> None:
        #: For messages; the url itself may have a password in it.
        self.where = address_of(url)
        self.closed = False
        #: To the commands of the last `ask`, in their order.
        self.replies: list[Any] = []
        self._interval = timeout / INTERVALS
        self._connection = Connection(
            **{
                **parse_url(url),
                "socket_timeout": timeout,
                "socket_connect_timeout": CONNECT_TIMEOUT,
                "socket_keepalive": True,
                "retry": Retry(NoBackoff(), 0),
                # Replies and messages in the order they come, in one stream.
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
        """Send one command; what Redis sent before it closed the connection can still be read."""
        self._write(self._connection.pack_command(*words))

    def subscribe(self, topics: Sequence[bytes]) -> None:
        """Ask for what is published on topics; Redis confirms each."""
        self._send_in_batches("SUBSCRIBE", topics)

    def unsubscribe(self, topics: Sequence[bytes]) -> None:
        """Ask for it no more; Redis confirms each."""
        self._send_in_batches("UNSUBSCRIBE", topics)

    def read(self) -> Any:
        """The next reply or message; waits for it."""
        return self._try(self._read_response)

    def has_data(self) -> bool:
        """Return whether there is something to read, the end of the connection included."""
        if self._readable is not None and not self.closed:
            return bool(self._readable.poll(0))
        return bool(self._try(self._connection.can_read, 0))

    def execute(self, *commands: Sequence[str | bytes | int]) -> list[Any]:
        """Send commands at once, and return the reply to each.

        In place of a reply is a `BackplaneError`, if Redis refused that one. If the connection ends,
        this raises, and `replies` has what arrived: commands without a reply may have been carried
        out, or not.
        """
        failure: BackplaneError | None = None
        replies: list[Any] = []
        self.replies = replies
        try:
            self._write(self._connection.pack_commands(commands))
        except BackplaneError as error:
            failure = error  # the first of them may have been answered
        try:
            while len(replies) < len(commands):
                try:
                    replies.append(self.read())
                except _Refused as error:
                    replies.append(BackplaneError(str(error)))
        except BackplaneError as error:
            raise (failure or error) from error.__cause__
        return replies

    def publish(self, envelopes: Sequence[tuple[bytes, bytes]]) -> list[int | BackplaneError]:
        """Publish each (topic, envelope); returns how many processes each went to, see `ask`."""
        return self.execute(*(("PUBLISH", *envelope) for envelope in envelopes))

    def check(self) -> None:
        """Raise if the other side has closed it while nothing was under way."""
        if self._readable is not None and not self.closed and not self._readable.poll(0):
            return
        if self._try(self._connection.can_read, 0):
            self._fail(f"{self.where} says what it was not asked")

    def ping(self) -> None:
        """Ask whether the other side is there."""
        self.send("PING")
        self.read()

    def close(self) -> None:
        """Close it; whoever reads from it fails."""
        self.closed = True
        self._connection.disconnect()

    def _send_in_batches(self, command: str, topics: Sequence[bytes]) -> None:
        # Never a pattern: a name with a * in it is a name.
        for start in range(0, len(topics), BATCH):
            self.send(command, *topics[start : start + BATCH])

    def _try(self, function: Any, *args: Any, **keywords: Any) -> Any:
        if self.closed:  # the library would connect again
            raise BackplaneError(f"the connection to {self.where} has ended")
        try:
            return function(*args, **keywords)
        except redis.AuthenticationError as error:
            self._fail(
                f"{self.where} refuses the name or password in SOCKETIO_BACKPLANE ({error}); "
                "special characters in them have to be percent-encoded",
                error,
            )
        except redis.ResponseError as error:
            raise _Refused(f"{self.where} refuses: {error}") from error
        except _FAILURES as error:
            self._fail(f"{self.where} cannot be reached: {error}", error)
        except BaseException:
            self.close()
            raise

    def _read_response(self) -> Any:
        silence: _Silence | None = None
        began = time.monotonic()
        while True:
            try:
                return self._connection.read_response(
                    disable_decoding=True, disconnect_on_error=False
                )
            except redis.TimeoutError:
                if silence is None:
                    silence = _Silence(self._interval, began)
                if silence.is_over(self._readable):
                    raise

    def _write(self, packed: Sequence[bytes]) -> None:
        try:
            if not self.closed:
                self._send_all(packed)
                return
        except ConnectionError as error:  # Python's: the other side has closed it
            raise BackplaneError(f"{self.where} cannot be reached: {error}") from error
        except _FAILURES as error:
            self._fail(f"{self.where} cannot be reached: {error}", error)
        except BaseException:
            self.close()
            raise
        raise BackplaneError(f"the connection to {self.where} has ended")

    def _send_all(self, packed: Sequence[bytes]) -> None:
        for item in packed:
            left = memoryview(item)
            silence = _Silence(self._interval, time.monotonic())
            while left:
                try:
                    left = left[self._sock.send(left) :]
                    silence = _Silence(self._interval, time.monotonic())
                except TimeoutError:
                    if silence.is_over(self._writable):
                        raise

    def _fail(self, text: str, cause: BaseException | None = None) -> None:
        self.close()
        raise BackplaneError(text) from cause


class _Silence:
    """Judges after each timeout of a socket whether the other side is gone.

    A timer of a process that stood still is late, and fires before what arrived meanwhile is read.
    So an interval counts only if the socket is not ready, and if the timer was not late by more
    than an interval; a whole standstill counts as one interval at most.
    """

    def __init__(self, interval: float, began: float) -> None:
        self._interval = interval
        self._began = began
        self._count = 0

    def is_over(self, look: Any) -> bool:
        """Count an interval that ended without a byte; returns whether that was the last one."""
        began, self._began = self._began, time.monotonic()
        if (look is not None and look.poll(0)) or self._began - began > 2 * self._interval:
            self._count = 0
        else:
            self._count += 1
        return self._count >= INTERVALS


def _poll(sock: Any, event: str) -> Any:
    """The system's own poll of a socket for one event; None if there is none.

    The library asks gevent's: a watcher, a timer and two switches of greenlets for each look, which
    takes as long as the PUBLISH that follows.
    """
    if not hasattr(select, event):
        return None
    look = get_original("select", "poll")()
    look.register(sock.fileno(), getattr(select, event))
    return look


def address_of(url: str) -> str:
    """Return "Redis at host:port" for messages, without the password."""
    parts = urlsplit(url)
    return f"Redis at {parts.hostname}:{parts.port or 6379}"


class _Refused(BackplaneError):
    """Redis answered, with an error; the connection is as it was."""


class Connector:
    """Opens the connections of one greenlet, which may be ended at any moment."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opening = False
        #: Whether the greenlet was told to end. One that is connecting would leave a socket behind, so
        #: it finds out by this.
        self.ended = False

    def open(self, timeout: float) -> RedisConnection:
        """A new `Link`; waits, and raises `BackplaneError`."""
        self._opening = True
        try:
            link = RedisConnection(self._url, timeout)
        finally:
            self._opening = False
        if self.ended:
            link.close()
            raise BackplaneError("the server stops")
        return link

    def end(self, greenlet: Any) -> None:
        """End the greenlet; if it is connecting, as soon as it is done with that."""
        self.ended = True
        if not self._opening:
            greenlet.kill()


def pauses() -> Iterator[float]:
    """Seconds to wait before each attempt to connect; with jitter, as everybody has lost it at once."""
    longest = 0.1
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(longest * 2, 2.5)
