"""Acknowledgements, and rejected handshakes, as a client receives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from webpy_socketio.exceptions import Refused
from webpy_socketio.testing.events import plain
from webpy_socketio.testing.response import Response

__all__ = ["Ack", "HandshakeRefused", "Progress"]


class Progress(Protocol):
    """The part of the server that waits for effects."""

    def settle(self) -> None:
        """Return once the server is idle."""

    def wait(self, until: Callable[[], bool]) -> None:
        """Return when a condition holds, an error was found, or the server is idle."""

    def check(self) -> None:
        """Raise the first error of a handler."""

    def explain(self) -> str:
        """Describe what may explain a missing event."""


class Ack:
    """A requested acknowledgement, which may not have arrived yet."""

    def __init__(self, server: Progress, event: str) -> None:
        self._server = server
        self._event = event
        self._args: list[Any] | None = None

    @property
    def there(self) -> bool:
        """Whether it has arrived."""
        self._server.settle()
        return self._args is not None

    @property
    def value(self) -> Any:
        """None, a value, or a list of several values.

        Raises:
            AssertionError: It does not arrive.
        """
        self._server.wait(lambda: self._args is not None)
        self._server.check()
        if self._args is None:
            raise AssertionError(
                f"{self._event!r} was not acknowledged: no handler matches, or its handler "
                f"withholds the acknowledgement{self._server.explain()}"
            )
        return plain(self._args)

    def set(self, args: list[Any]) -> None:
        """Store the received arguments."""
        self._args = args

    def __repr__(self) -> str:
        return f"<Ack of {self._event!r}: {'pending' if self._args is None else self._args!r}>"


class HandshakeRefused(Refused):
    """The server, or the application in front of it, answered the handshake with an HTTP error."""

    def __init__(self, answer: bytes, path: str) -> None:
        #: The HTTP response.
        self.response = response = Response(answer)
        hint = ""
        if response.status == 404:
            hint = f". There is nothing at {path}: are socketio_urls in the application's urls?"
        super().__init__(
            f"the handshake was answered {response.status} {response.reason}: "
            f"{response.text[:500]!r}{hint}"
        )
