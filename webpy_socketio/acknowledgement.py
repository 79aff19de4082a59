"""An acknowledgement that a handler withholds and gives later."""

from __future__ import annotations

from typing import Any

from webpy_socketio.engine.socketio.connection import Connection
from webpy_socketio.exceptions import AcknowledgementError
from webpy_socketio.registry import registry

__all__ = ["Acknowledgement"]


class Acknowledgement:
    """The withheld acknowledgement of one event: call it with the answer, once.

    `Socket.withhold_acknowledgement` returns it. It may be called from any greenlet and any thread,
    in the handler or after it. A call does nothing if the client did not ask for an
    acknowledgement, if the connection has ended, or if a handler of the event raised: the client
    got an error then.
    """

    __slots__ = ("_claims", "_connection", "_failed", "_number")

    def __init__(self, connection: Connection, number: int | None) -> None:
        self._connection = connection
        self._number = number
        self._failed = False
        # One claim for one answer: `list.pop` is atomic, for threads too.
        self._claims = [True]

    def __call__(self, *args: Any) -> None:
        """Send the acknowledgement.

        Args:
            args: Arguments of the client's callback; JSON-serializable, or ``bytes``.

        Raises:
            AcknowledgementError: It was called before.
            EncodeError: An argument cannot be sent. Nothing was sent; it can be called again.

        """
        message = None
        if self._number is not None:
            message = self._connection.encode_acknowledgement(self._number, args)
        if not self._claim():
            if self._failed:
                return
            raise AcknowledgementError("the event was acknowledged before: call this once")
        if message is not None:
            registry.call_soon(self._connection.send, message)

    @property
    def requested(self) -> bool:
        """Whether the client asked for an acknowledgement."""
        return self._number is not None

    @property
    def given(self) -> bool:
        """Whether the event is answered: by a call, or with an error because a handler raised."""
        return not self._claims

    def fail(self, answer: Any) -> None:
        """Answer with an error unless it was given already; for the dispatcher."""
        self._failed = True
        if self._claim() and self._number is not None:
            self._connection.acknowledge(self._number, (answer,))

    def _claim(self) -> bool:
        try:
            return self._claims.pop()
        except IndexError:
            return False

    def __repr__(self) -> str:
        return f"<Acknowledgement, {'given' if self.given else 'not given yet'}>"
