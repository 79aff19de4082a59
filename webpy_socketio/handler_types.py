"""What handlers look like to a type checker; at run time `events` looks at the functions themselves.

A decorator returns the very function that it was given, so its type is kept. Which functions it takes
is said by what that type is bound to. (Bounds cannot be parameters, so there is a class for each.)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, overload

if TYPE_CHECKING:
    from webpy_socketio.socket import Socket

__all__ = [
    "ChannelDecorator",
    "EventDecorator",
    "ExceptionDecorator",
    "MessageDecorator",
    "Pattern",
    "ReceivingDecorator",
    "SocketDecorator",
    "SocketGateDecorator",
    "SubscribingDecorator",
    "UnboundSocketDecorator",
]

Pattern: TypeAlias = "str | re.Pattern[str]"

#: The handshake's WSGI environ, and the dict that a connection's handlers share.
Dict: TypeAlias = "dict[str, Any]"

_OfSocket = TypeVar("_OfSocket", bound="Callable[[Dict, Socket, Dict], object]")
_OfMessage = TypeVar("_OfMessage", bound="Callable[[Dict, Socket, Dict, Any], object]")
_OfChannel = TypeVar("_OfChannel", bound="Callable[[Dict, Socket, Dict, str], object]")
_OfException = TypeVar(
    "_OfException", bound="Callable[[Dict, Socket, Dict, BaseException], object]"
)
_OfEvent = TypeVar("_OfEvent", bound="_Event")
# A gate denies by raising: what one returns would mean nothing.
_Gate = TypeVar("_Gate", bound="Callable[[Dict, Socket, Dict], None]")
_GateOfMessage = TypeVar("_GateOfMessage", bound="Callable[[Dict, Socket, Dict, str, Any], None]")
_GateOfChannel = TypeVar("_GateOfChannel", bound="Callable[[Dict, Socket, Dict, str], None]")


class _Event(Protocol):
    # So that whatever follows may be anything (typing specification, "Callables", Any and ...).
    def __call__(
        self, request: Dict, socket: Socket, context: Dict, /, *args: Any, **keywords: Any
    ) -> object: ...


class SocketGateDecorator(Protocol):
    """``@on_connecting``."""

    @overload
    def __call__(self, function: _Gate, /) -> _Gate: ...
    @overload
    def __call__(self) -> Callable[[_Gate], _Gate]: ...


class UnboundSocketDecorator(Protocol):
    """``@on_connect``."""

    @overload
    def __call__(self, function: _OfSocket, /) -> _OfSocket: ...
    @overload
    def __call__(self) -> Callable[[_OfSocket], _OfSocket]: ...


class SocketDecorator(Protocol):
    """``@on_disconnect``, ``@on_finish``."""

    @overload
    def __call__(self, function: _OfSocket, /) -> _OfSocket: ...
    @overload
    def __call__(self, *, channel: Pattern | None = None) -> Callable[[_OfSocket], _OfSocket]: ...


class MessageDecorator(Protocol):
    """``@on_message``."""

    @overload
    def __call__(self, function: _OfMessage, /) -> _OfMessage: ...
    @overload
    def __call__(self, *, channel: Pattern | None = None) -> Callable[[_OfMessage], _OfMessage]: ...


class ReceivingDecorator(Protocol):
    """``@on_receiving``."""

    @overload
    def __call__(self, function: _GateOfMessage, /) -> _GateOfMessage: ...
    @overload
    def __call__(
        self, *, channel: Pattern | None = None
    ) -> Callable[[_GateOfMessage], _GateOfMessage]: ...


class SubscribingDecorator(Protocol):
    """``@on_subscribing``."""

    @overload
    def __call__(self, function: _GateOfChannel, /) -> _GateOfChannel: ...
    @overload
    def __call__(
        self, *, channel: Pattern | None = None
    ) -> Callable[[_GateOfChannel], _GateOfChannel]: ...


class ChannelDecorator(Protocol):
    """``@on_subscribe``, ``@on_unsubscribe``."""

    @overload
    def __call__(self, function: _OfChannel, /) -> _OfChannel: ...
    @overload
    def __call__(self, *, channel: Pattern | None = None) -> Callable[[_OfChannel], _OfChannel]: ...


class ExceptionDecorator(Protocol):
    """``@on_error``."""

    @overload
    def __call__(self, function: _OfException, /) -> _OfException: ...
    @overload
    def __call__(
        self, *, channel: Pattern | None = None
    ) -> Callable[[_OfException], _OfException]: ...


class EventDecorator(Protocol):
    """``@on_event("name")``."""

    def __call__(self, function: _OfEvent, /) -> _OfEvent: ...
