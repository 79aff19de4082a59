"""Replies: the answers of this process to one request of a server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from webpy_socketio.backplane.requests import Answer, Request
from webpy_socketio.engine.io.clock import Timer, call_later
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.packets import encode_ack
from webpy_socketio.exceptions import EncodeError

__all__ = ["RemoteReply", "Reply"]

logger = logging.getLogger("webpy_socketio")

#: Seconds for which answers are collected before they are sent to another process.
FLUSH_DELAY = 0.02

#: Number of answers that are sent without waiting for more.
FLUSH_COUNT = 100

#: Bytes in one message with several answers, and in one with a single answer.
BATCH_BYTES, MAX_BYTES = 256 * 1024, 1_000_000


class Reply:
    """Delivers the answers to one request; for the hub's thread only.

    Args:
        deliver: Called with answers; None if no answers are expected.
        on_end: Called once with the reply when it has ended.
    """

    def __init__(
        self,
        deliver: Callable[[Answer, list[Any]], None] | None = None,
        on_end: Callable[[Reply], object] = lambda reply: None,
    ) -> None:
        self._deliver = deliver
        self._on_end = on_end
        self._has_ended = False

    def expect(self, asked: int) -> None:
        """Report the number of sockets that were asked."""
        self._put(Answer(0, False, asked), [])

    def add(self, value: Any) -> None:
        """Add one answer."""
        self._put(Answer(0, False), [value])

    def finish(self, has_failed: bool = False) -> None:
        """Report that there are no further answers."""
        if not self._has_ended:
            self._put(Answer(0, True, has_failed=has_failed), [])
            self._end()

    def expire(self) -> None:
        """End without the answers that are missing, because the timeout has passed."""
        self._end()

    def _put(self, answer: Answer, values: list[Any]) -> None:
        if self._deliver is not None and not self._has_ended:
            self._deliver(answer, values)

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._on_end(self)


class RemoteReply(Reply):
    """Sends the answers to another process, several in one message.

    Args:
        send: Sends a message with answers to a node.
        request: The request, with its number and node.
        on_end: Called once with the reply when it has ended.
    """

    def __init__(
        self,
        send: Callable[[Message, str, Answer], None],
        request: Request,
        on_end: Callable[[Reply], object],
    ) -> None:
        super().__init__(self._collect, on_end)
        self._send = send
        self._node = request.node
        self._number = request.number or 0
        self._asked = 0
        self._values: list[Any] = []
        self._has_failed = False
        self._timer: Timer | None = None

    def expire(self) -> None:
        self._flush()
        super().expire()

    def _collect(self, answer: Answer, values: list[Any]) -> None:
        self._asked += answer.asked
        self._values += values
        self._has_failed |= answer.has_failed
        if answer.is_last or len(self._values) >= FLUSH_COUNT:
            self._flush(answer.is_last)
        elif self._timer is None:
            self._timer = call_later(FLUSH_DELAY, self._flush)

    def _flush(self, is_last: bool = False) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        messages = list(self._encode(self._values))
        self._values = []
        if not messages and (is_last or self._asked):
            messages = [encode_ack("/", 0, ())]
        for position, message in enumerate(messages, 1):
            is_end = is_last and position == len(messages)
            answer = Answer(self._number, is_end, self._asked, is_end and self._has_failed)
            self._asked = 0
            self._send(message, self._node, answer)

    def _encode(self, values: list[Any]) -> list[Message]:
        """Encode answers in as few messages as possible."""
        if not values:
            return []
        is_single = len(values) == 1
        try:
            message = encode_ack("/", 0, values)
            if message.size <= (MAX_BYTES if is_single else BATCH_BYTES):
                return [message]
            if is_single:
                raise EncodeError(f"{message.size} bytes, more than {MAX_BYTES}")
        except EncodeError as error:
            if is_single:
                logger.warning("an answer to another process was dropped: %s", str(error))
                self._has_failed = True
                return []
            # One answer has bytes, and another one a dict that looks like a placeholder.
        middle = len(values) // 2
        return self._encode(values[:middle]) + self._encode(values[middle:])
