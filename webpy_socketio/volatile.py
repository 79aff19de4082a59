"""Volatile events to one client."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["VolatileSender"]


class Sender(Protocol):
    """The part of a socket that sends volatile events."""

    def emit_volatile(self, event: str, args: tuple[Any, ...]) -> None:
        """Send an event, unless the client has unsent data."""


class VolatileSender:
    """Sends events to one client, and drops them while it has unsent data.

    `Socket.volatile` returns it; `Target.volatile` is its counterpart for several clients.
    """

    __slots__ = ("_socket",)

    def __init__(self, socket: Sender) -> None:
        self._socket = socket

    def send(self, message: Any) -> None:
        """Send a message, unless the client has unsent data.

        Args:
            message: JSON-serializable value, or ``bytes``.

        Raises:
            EncodeError: `message` cannot be represented as JSON, or is too large.
        """
        self._socket.emit_volatile("message", (message,))

    def emit(self, event: str, *args: Any) -> None:
        """Send a custom event, unless the client has unsent data.

        Args:
            event: Name of the event.
            *args: JSON-serializable values; ``bytes`` are sent as binary attachments.

        Raises:
            EncodeError: An argument cannot be represented as JSON, the event is too large, or its
                name is reserved.

        Example:
            >>> socket.volatile.emit("position", 12, 7)
        """
        self._socket.emit_volatile(event, args)
