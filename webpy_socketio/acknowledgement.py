"""Deferred acknowledgements: a handler returns first and acknowledges later."""

from __future__ import annotations

from typing import Any

from webpy_socketio.engine.socketio.connection import Connection
from webpy_socketio.exceptions import AcknowledgementError
from webpy_socketio.registry import registry

__all__ = ["Acknowledgement"]


class Acknowledgement:
    """The deferred acknowledgement of one event; call it once to send the answer.

    Returned by `Socket.withhold_acknowledgement`. Safe to call from any greenlet and any thread,
    during the handler or after it.

    A call has no effect if the client did not request an acknowledgement, if the connection is
    closed, or if a handler of the event raised: the client has then received an error.
    """

    __slots__ = ("_claims", "_connection", "_failed", "_number")

    def __init__(self, connection: Connection, number: int | None) -> None:
        self._connection = connection
        self._number = number
        self._failed = False
        # `list.pop` is atomic, between threads too: only one caller gets the claim.
        self._claims = [True]

    def __call__(self, *args: Any) -> None:
        """Send the acknowledgement.

        Args:
            *args: Arguments of the client's callback; JSON-serializable values or ``bytes``.

        Raises:
            AcknowledgementError: The event has been acknowledged before.
            EncodeError: An argument cannot be encoded. Nothing was sent; the call may be repeated.
        """
        message = None
        if self._number is not None:
            message = self._connection.encode_acknowledgement(self._number, args)
        if not self._claim():
            if self._failed:
                return
            raise AcknowledgementError(
                "the event has been acknowledged already: call the acknowledgement once"
            )
        if message is not None:
            registry.call_soon(self._connection.send, message)

    @property
    def requested(self) -> bool:
        """Whether the client requested an acknowledgement."""
        return self._number is not None

    @property
    def given(self) -> bool:
        """Whether the event was acknowledged, by a call or because a handler raised."""
        return not self._claims

    def fail(self, answer: Any) -> None:
        """Acknowledge with an error, unless an acknowledgement was sent before."""
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
