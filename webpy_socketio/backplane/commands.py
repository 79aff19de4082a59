"""Commands to Redis on a connection of their own, in the order of calls."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import gevent
import gevent.event

from webpy_socketio.backplane.connector import RedisConnector
from webpy_socketio.exceptions import BackplaneError

__all__ = ["RedisCommands"]

logger = logging.getLogger("webpy_socketio")

#: Commands in one write, and commands that wait. Further ones fail at once.
BATCH, MAX_WAITING = 128, 16_384

#: Seconds without a reply after which the connection is lost.
READ_TIMEOUT = 5.0

#: Seconds during which commands fail at once after a failure.
PAUSE = 0.5

Command = Sequence[str | bytes | int]


class RedisCommands:
    """Executes commands, and fails while Redis is unreachable; for the hub's thread only.

    The connection opens with the first command.

    Args:
        url: Redis URL, as in ``SOCKETIO_BACKPLANE``.
    """

    def __init__(self, url: str) -> None:
        self._connector = RedisConnector(url)
        self._queue: deque[tuple[Command, gevent.event.AsyncResult]] = deque()
        self._wake = gevent.event.Event()
        self._greenlet: Any = None
        self._error: BackplaneError | None = None

    def put(self, *command: str | bytes | int) -> gevent.event.AsyncResult:
        """Queue a command, and return its future reply; does not block."""
        result = gevent.event.AsyncResult()
        if self._error is not None or len(self._queue) >= MAX_WAITING:
            result.set_exception(self._error or BackplaneError("too many commands wait for Redis"))
            return result
        self._queue.append((command, result))
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
        self._wake.set()
        return result

    def execute(self, *command: str | bytes | int, timeout: float) -> Any:
        """Execute a command, and return the reply.

        Args:
            *command: Name and arguments.
            timeout: Longest wait, in seconds.

        Raises:
            BackplaneError: Redis is unreachable, did not reply in time, or rejected the command.
        """
        try:
            return self.put(*command).get(timeout=timeout)
        except gevent.Timeout:
            raise BackplaneError(f"Redis did not reply within {timeout:.1f} s") from None

    def stop(self) -> None:
        """Close the connection; queued commands fail."""
        self._fail(BackplaneError("the server is stopping"))
        if self._greenlet is not None:
            self._connector.end(self._greenlet)

    def _run(self) -> None:
        while not self._connector.ended:
            connection = None
            try:
                connection = self._connector.open(READ_TIMEOUT)
                self._serve(connection)
                continue
            except BackplaneError as error:
                self._fail(error)
            except Exception:  # a bug must not stop the commands
                logger.exception("executing commands of Redis failed; the connection is replaced")
                self._fail(BackplaneError("executing commands of Redis failed"))
            finally:
                if connection is not None:
                    connection.close()
            if not self._connector.ended:
                gevent.sleep(PAUSE)
                self._error = None
                self._wake.clear()
                self._wake.wait()

    def _serve(self, connection: Any) -> None:
        """Execute commands until the connection was closed while it was idle."""
        while True:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            if not batch:
                self._wake.clear()
                self._wake.wait()
                continue
            try:
                connection.check()
            except BackplaneError:
                self._queue.extendleft(reversed(batch))
                return
            try:
                replies = connection.execute(*(command for command, _ in batch))
            except BackplaneError as error:
                for _, result in batch:
                    result.set_exception(error)
                raise
            for (_, result), reply in zip(batch, replies, strict=True):
                if isinstance(reply, BackplaneError):
                    result.set_exception(reply)
                else:
                    result.set(reply)

    def _fail(self, error: BackplaneError) -> None:
        self._error = error
        queue, self._queue = self._queue, deque()
        for _, result in queue:
            result.set_exception(error)
