"""Answers: what the servers of a cluster have answered to one request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from webpy_socketio.backplane.envelope import Envelope
from webpy_socketio.backplane.requests import Answer
from webpy_socketio.engine.socketio.packets import decode_body
from webpy_socketio.exceptions import ProtocolError

__all__ = ["LOCAL", "MAX_ANSWER_BYTES", "Answers"]

#: Bytes of all answers to one request. Further ones are dropped, and count as missing.
MAX_ANSWER_BYTES = 64 * 1024 * 1024

#: Stands for this process in place of a node.
LOCAL = ""


class Answers:
    """Collects the answers to one request; not thread-safe.

    Args:
        processes: Number of processes that are expected to answer, or None if it is not known yet.
        on_complete: Called when the last answer was added.
    """

    def __init__(
        self, processes: int | None, on_complete: Callable[[], object] = lambda: None
    ) -> None:
        #: Answers with the nodes that sent them, in the order of arrival.
        self.values: list[tuple[str, Any]] = []
        #: Number of sockets that were asked, as far as it is known.
        self.asked = 0
        #: Number of copies of the request, one for each process; None if unknown.
        self._copies = processes
        #: Copies that Redis has sent back to this process.
        self._own_copies = 0
        self._on_complete = on_complete
        #: Nodes that have sent anything; True if they have sent all.
        self._nodes: dict[str, bool] = {}
        self._failed: set[str] = set()
        self._bytes = 0

    @property
    def is_complete(self) -> bool:
        """Whether all expected processes have sent their last answer."""
        if self._copies is None:
            return False
        return sum(self._nodes.values()) + self._own_copies >= self._copies

    @property
    def processes(self) -> int:
        """Number of processes that are expected to answer."""
        return (self._copies or 0) - self._own_copies

    @property
    def silent(self) -> int:
        """Number of processes that have not answered, or could not."""
        return max(0, self.processes - len(self._nodes)) + len(self._failed)

    def expect(self, processes: int) -> None:
        """Set the number of processes that are expected to answer."""
        self._copies = processes
        self._check()

    def add(self, node: str, answer: Answer, values: list[Any]) -> None:
        """Add answers of a node."""
        if self._nodes.get(node):
            return
        self._nodes[node] = answer.is_last
        self.asked += answer.asked
        if answer.has_failed:
            self._failed.add(node)
        self.values += [(node, value) for value in values]
        self._check()

    def receive(self, envelope: Envelope) -> None:
        """Add the answers of another process; ignore an envelope without answers."""
        answer, packet = envelope.answer, envelope.packet
        if answer is None or packet is None or envelope.mark is None:
            return
        values: list[Any] = []
        self._bytes += len(packet.body) + sum(map(len, packet.attachments))
        if self._bytes > MAX_ANSWER_BYTES:
            answer = answer._replace(has_failed=answer.is_last)
        else:
            try:
                values = decode_body(packet.body, packet.attachments)
            except (ProtocolError, ValueError):
                answer = answer._replace(has_failed=True)
        self.add(envelope.mark.node, answer, values)

    def receive_own(self) -> None:
        """Count the own copy of the request, which Redis has counted as well."""
        self._own_copies += 1
        self._check()

    def _check(self) -> None:
        if self.is_complete:
            self._on_complete()
