"""Deferred acknowledgements: a handler returns first and acknowledges later.

The server sends these to a client. `Connection.call` awaits acknowledgements of a client, with the
timeout of `Socket.call`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from webpy_socketio.arguments import check_seconds
from webpy_socketio.engine.io.clock import Timer
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.exceptions import AcknowledgementError
from webpy_socketio.registry import SocketRegistry

__all__ = ["AckSender", "Acknowledgement"]

#: The acknowledgement of an event that was not acknowledged in time.
TIMED_OUT = {"error": "timeout"}


class AckSender(Protocol):
    """The part of a connection that acknowledges events; see `Connection` and `Receipts`."""

    @property
    def kicked(self) -> bool:
        """Whether the server closed the connection."""

    def acknowledge(self, number: int, args: Sequence[Any]) -> None:
        """Send the acknowledgement with id `number`. Raises `EncodeError`."""

    def encode_acknowledgement(self, number: int, args: Sequence[Any]) -> Message:
        """Encode the acknowledgement with id `number`. Raises `EncodeError`."""

    def send_acknowledgement(self, number: int, message: Message) -> None:
        """Send an encoded acknowledgement; has no effect if the client is gone."""

    def call_later(self, seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
        """Call a function on the hub after a delay, unless the client is gone."""

    def cancel(self, timer: Timer) -> None:
        """Cancel a timer of `call_later`."""


class Acknowledgement:
    """The deferred acknowledgement of one event; call it once to send the answer.

    Returned by `Socket.withhold_acknowledgement`. Safe to call from any greenlet and any thread,
    during the handler or after it.

    A call has no effect if the client did not request an acknowledgement, or if the connection is
    closed. Nor has it if a handler of the event raised: the client has then received an error.

    With a timeout, the client receives ``{"error": "timeout"}`` if no call was made in time.
    """

    __slots__ = (*("_claims", "_expired", "_failed", "_number", "_registry", "_sender", "_timer"),)

    def __init__(
        self, sender: AckSender, registry: SocketRegistry[Any], number: int | None
    ) -> None:
        self._sender = sender
        self._registry = registry
        self._number = number
        self._failed = False
        #: The timeout in seconds, once it has sent the acknowledgement.
        self._expired: float | None = None
        self._timer: Timer | None = None
        # `list.pop` is atomic, between threads too: only one caller gets the claim.
        self._claims = [True]

    def __call__(self, *args: Any) -> None:
        """Send the acknowledgement.

        Args:
            *args: Arguments of the client's callback; JSON-serializable values or ``bytes``.

        Raises:
            AcknowledgementError: The event was acknowledged before, or its timeout has expired.
            EncodeError: An argument cannot be encoded. Nothing was sent; the call may be repeated.
        """
        message = None
        if self._number is not None:
            message = self._sender.encode_acknowledgement(self._number, args)
        if not self._claim():
            if self._failed:
                return
            if self._expired is not None:
                raise AcknowledgementError(
                    f"the event was acknowledged with an error after {self._expired} s, the "
                    "timeout of withhold_acknowledgement(): acknowledge earlier, or raise the "
                    "timeout"
                )
            raise AcknowledgementError(
                "the event has been acknowledged already: call the acknowledgement once"
            )
        if message is not None:
            self._registry.call_soon(self._send, message)

    @property
    def requested(self) -> bool:
        """Whether the client requested an acknowledgement."""
        return self._number is not None

    @property
    def given(self) -> bool:
        """Whether the event was acknowledged: by a call, an exception or the timeout."""
        return not self._claims

    def fail(self, answer: Any) -> None:
        """Acknowledge with an error, unless an acknowledgement was sent before."""
        self._failed = True
        if self._claim() and self._number is not None:
            self._send(self._sender.encode_acknowledgement(self._number, (answer,)))

    def set_timeout(self, seconds: float) -> None:
        """Acknowledge with an error unless acknowledged within `seconds` from now.

        Replaces an earlier timeout. Has no effect if the client did not request an
        acknowledgement. For the hub's thread only.

        Raises:
            CallerError: `seconds` is not a positive, finite number.
        """
        check_seconds("withhold_acknowledgement", seconds)
        self._stop_timer()
        if self._number is not None and not self.given:
            self._timer = self._sender.call_later(seconds, self._expire, seconds)

    def _expire(self, seconds: float) -> None:
        self._timer = None
        if self._claim() and self._number is not None:
            self._expired = seconds
            self._sender.acknowledge(self._number, (TIMED_OUT,))

    def _send(self, message: Message) -> None:
        self._stop_timer()
        if self._number is not None:
            self._sender.send_acknowledgement(self._number, message)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._sender.cancel(self._timer)
            self._timer = None

    def _claim(self) -> bool:
        try:
            return self._claims.pop()
        except IndexError:
            return False

    def __repr__(self) -> str:
        return f"<Acknowledgement, {'given' if self.given else 'not given yet'}>"
