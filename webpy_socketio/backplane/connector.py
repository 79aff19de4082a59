"""Connector: opens connections to Redis, one after another."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from webpy_socketio.backplane.addresses import RedisAddress, parse_address
from webpy_socketio.exceptions import BackplaneError, ConfigurationError

if TYPE_CHECKING:
    from webpy_socketio.backplane.connection import RedisConnection

__all__ = ["RedisConnector", "import_opening", "reconnect_delays"]


class RedisConnector:
    """Opens connections to Redis for one greenlet, which may be ended at any time.

    Killing a greenlet while it connects would leak a socket; `end` does not. The greenlet opens a
    new connection after each failure, and stops once `ended` is True.

    Args:
        url: Redis URL, as in ``SOCKETIO_BACKPLANE``.

    Raises:
        ConfigurationError: The URL is invalid, a file of certificates that it names cannot be read,
            or the library ``redis`` is not installed.
    """

    def __init__(self, url: str | RedisAddress) -> None:
        opening = import_opening()
        self._address = url if isinstance(url, RedisAddress) else parse_address(url)
        opening.check_files(self._address)
        self._open = opening.open_connection
        self._opening = False
        #: Whether `end` was called.
        self.ended = False

    def open(self, timeout: float) -> RedisConnection:
        """Open a new connection, as `connect_redis` does; blocks.

        Args:
            timeout: Longest wait for a reply, in seconds.

        Returns:
            The open connection.

        Raises:
            BackplaneError: Redis is unreachable, or `end` was called.
        """
        self._opening = True
        try:
            connection: RedisConnection = self._open(self._address, timeout)
        finally:
            self._opening = False
        if self.ended:
            connection.close()
            raise BackplaneError("the server is stopping")
        return connection

    def end(self, greenlet: Any) -> None:
        """Kill the greenlet; if it is connecting, `open` raises after the attempt instead.

        Args:
            greenlet: The greenlet that calls `open`.
        """
        self.ended = True
        if not self._opening:
            greenlet.kill()


def reconnect_delays() -> Iterator[float]:
    """Yield seconds to wait before each attempt to connect, with jitter and exponential backoff."""
    longest = 0.1
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(longest * 2, 2.5)


def import_opening() -> Any:
    """Import the module `opening` on first use, as the library ``redis`` is optional.

    Raises:
        ConfigurationError: The library ``redis`` is not installed.
    """
    try:
        from webpy_socketio.backplane import opening
    except ImportError as error:
        raise ConfigurationError(
            f'SOCKETIO_BACKPLANE needs the library "redis" ({error}): '
            'pip install "webpy_socketio[redis]"'
        ) from error
    return opening
