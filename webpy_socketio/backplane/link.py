"""One connection to Redis, by the library `redis`, that never comes back behind our backs.

The library's clients reconnect and send again by themselves. A message that is sent again may arrive
twice, and a subscription that was renewed in silence hides what was missed; so this is its plain
`Connection`, of which each one is used until its first failure.
"""

from __future__ import annotations

import random
import select
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import redis
from gevent.monkey import get_original
from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.retry import Retry

from webpy_socketio.engine.forking import close_in_child
from webpy_socketio.exceptions import BackplaneError

__all__ = ["Dialer", "Link", "pauses"]

#: Seconds for connecting. With the longest of `pauses` it is less than 5: so soon after Redis is
#: back everybody is.
CONNECT_TIMEOUT = 2.0

#: Topics in one command.
BATCH = 500

#: Everything that the library raises for a connection that has ended. Another greenlet's failure
#: closes what this one reads from, and then it is one of the last two.
_FAILURES = (redis.RedisError, OSError, ValueError, AttributeError)


class Link:
    """A connection that is open from `__init__` until its first failure, which is told by
    `BackplaneError`. `timeout` is the longest time without a byte in which something is awaited.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        #: For messages; the url itself may have a password in it.
        self.where = f"Redis at {parts.hostname}:{parts.port or 6379}"
        self.closed = False
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
        sock = getattr(self._connection, "_sock", None)
        if sock is not None:
            close_in_child(sock)
        self._look = _look_at(self._connection)

    def send(self, *words: str | bytes) -> None:
        """Send one command."""
        self._try(self._connection.send_command, *words)

    def subscribe(self, topics: Sequence[bytes]) -> None:
        """Ask for what is published on topics; Redis confirms each."""
        self._send_in_batches("SUBSCRIBE", topics)

    def unsubscribe(self, topics: Sequence[bytes]) -> None:
        """Ask for it no more; Redis confirms each."""
        self._send_in_batches("UNSUBSCRIBE", topics)

    def read(self) -> Any:
        """The next reply or message; waits for it."""
        return self._try(self._connection.read_response, disable_decoding=True)

    def ask(self, *commands: Sequence[str | bytes | int]) -> list[Any]:
        """Send commands at once, and return the reply to each.

        In place of a reply is a `BackplaneError`, if Redis refused that one. When this raises, some
        may have been carried out, and some not.
        """
        packed = self._connection.pack_commands(commands)
        self._try(self._connection.send_packed_command, packed)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(self.read())
            except _Refused as error:
                replies.append(BackplaneError(str(error)))
        return replies

    def publish(self, envelopes: Sequence[tuple[bytes, bytes]]) -> list[int | BackplaneError]:
        """Publish each (topic, envelope); returns how many processes each went to, see `ask`."""
        return self.ask(*(("PUBLISH", *envelope) for envelope in envelopes))

    def check(self) -> None:
        """Raise if the other side has closed it while nothing was under way."""
        if self._look is not None and not self.closed and not self._look.poll(0):
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
        except redis.ResponseError as error:
            raise _Refused(f"{self.where} refuses: {error}") from error
        except _FAILURES as error:
            self._fail(f"{self.where} cannot be reached: {error}", error)
        except BaseException:
            self.close()
            raise

    def _fail(self, text: str, cause: BaseException | None = None) -> None:
        self.close()
        raise BackplaneError(text) from cause


def _look_at(connection: Any) -> Any:
    """The system's own poll of a connection; None if there is none.

    The library asks gevent's: a watcher, a timer and two switches of greenlets for each look, which
    takes as long as the PUBLISH that follows.
    """
    sock = getattr(connection, "_sock", None)
    if sock is None or not hasattr(select, "poll"):
        return None
    look = get_original("select", "poll")()
    look.register(sock.fileno(), select.POLLIN)
    return look


class _Refused(BackplaneError):
    """Redis answered, with an error; the connection is as it was."""


class Dialer:
    """Opens the connections of one greenlet, which may be ended at any moment."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opening = False
        #: Whether the greenlet was told to end. One that is connecting would leave a socket behind, so
        #: it finds out by this.
        self.ended = False

    def open(self, timeout: float) -> Link:
        """A new `Link`; waits, and raises `BackplaneError`."""
        self._opening = True
        try:
            link = Link(self._url, timeout)
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
