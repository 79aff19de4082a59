"""Types of the decorators and handlers, for type checkers.

At run time, `handlers` inspects the functions themselves. A decorator returns its function
unchanged, so the type variables keep the type; their bounds define which functions are accepted.
One class for each signature, because a bound cannot be a parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar, overload

from webpy_socketio.bus.patterns import Pattern
from webpy_socketio.socket import Socket

__all__ = [
    "ChannelDecorator",
    "EventDecorator",
    "ExceptionDecorator",
    "MessageDecorator",
    "ReceivingDecorator",
    "ResumeDecorator",
    "SocketDecorator",
    "SocketGateDecorator",
    "SubscribingDecorator",
    "UnboundSocketDecorator",
]

#: The WSGI environ of the handshake, or the context of a connection.
Dict: TypeAlias = "dict[str, Any]"

_SocketHandler = TypeVar("_SocketHandler", bound="Callable[[Dict, Socket, Dict], object]")
_MessageHandler = TypeVar("_MessageHandler", bound="Callable[[Dict, Socket, Dict, Any], object]")
_ChannelHandler = TypeVar("_ChannelHandler", bound="Callable[[Dict, Socket, Dict, str], object]")
_ResumeHandler = TypeVar("_ResumeHandler", bound="Callable[[Dict, Socket, Dict, int], object]")
_ExceptionHandler = TypeVar(
    "_ExceptionHandler", bound="Callable[[Dict, Socket, Dict, BaseException], object]"
)
_EventHandler = TypeVar("_EventHandler", bound="_EventCallable")
# A gate rejects by raising; a return value would have no effect.
_SocketGate = TypeVar("_SocketGate", bound="Callable[[Dict, Socket, Dict], None]")
_MessageGate = TypeVar("_MessageGate", bound="Callable[[Dict, Socket, Dict, str, Any], None]")
_ChannelGate = TypeVar("_ChannelGate", bound="Callable[[Dict, Socket, Dict, str], None]")


class _EventCallable(Protocol):
    # Accepts any further arguments (typing specification, "Callables": ``*args: Any, **kwargs:
    # Any``).
    def __call__(
        self, request: Dict, socket: Socket, context: Dict, /, *args: Any, **keywords: Any
    ) -> object: ...


class SocketGateDecorator(Protocol):
    """Type of ``@on_connecting``."""

    @overload
    def __call__(self, function: _SocketGate, /) -> _SocketGate: ...
    @overload
    def __call__(
        self, *, namespace: Pattern | None = None
    ) -> Callable[[_SocketGate], _SocketGate]: ...


class UnboundSocketDecorator(Protocol):
    """Type of ``@on_connect``."""

    @overload
    def __call__(self, function: _SocketHandler, /) -> _SocketHandler: ...
    @overload
    def __call__(
        self, *, namespace: Pattern | None = None
    ) -> Callable[[_SocketHandler], _SocketHandler]: ...


class SocketDecorator(Protocol):
    """Type of ``@on_suspend``, ``@on_disconnect`` and ``@on_finish``."""

    @overload
    def __call__(self, function: _SocketHandler, /) -> _SocketHandler: ...
    @overload
    def __call__(
        self, *, channel: Pattern | None = None, namespace: Pattern | None = None
    ) -> Callable[[_SocketHandler], _SocketHandler]: ...


class MessageDecorator(Protocol):
    """Type of ``@on_message``."""

    @overload
    def __call__(self, function: _MessageHandler, /) -> _MessageHandler: ...
    @overload
    def __call__(
        self, *, channel: Pattern | None = None, namespace: Pattern | None = None
    ) -> Callable[[_MessageHandler], _MessageHandler]: ...


class ReceivingDecorator(Protocol):
    """Type of ``@on_receiving``."""

    @overload
    def __call__(self, function: _MessageGate, /) -> _MessageGate: ...
    @overload
    def __call__(
        self, *, channel: Pattern | None = None, namespace: Pattern | None = None
    ) -> Callable[[_MessageGate], _MessageGate]: ...


class SubscribingDecorator(Protocol):
    """Type of ``@on_subscribing``."""

    @overload
    def __call__(self, function: _ChannelGate, /) -> _ChannelGate: ...
    @overload
    def __call__(
        self, *, channel: Pattern | None = None, namespace: Pattern | None = None
    ) -> Callable[[_ChannelGate], _ChannelGate]: ...


class ChannelDecorator(Protocol):
    """Type of ``@on_subscribe`` and ``@on_unsubscribe``."""

    @overload
    def __call__(self, function: _ChannelHandler, /) -> _ChannelHandler: ...
    @overload
    def __call__(
        self, *, channel: Pattern | None = None, namespace: Pattern | None = None
    ) -> Callable[[_ChannelHandler], _ChannelHandler]: ...


class ResumeDecorator(Protocol):
    """Type of ``@on_resume``."""

    @overload
    def __call__(self, function: _ResumeHandler, /) -> _ResumeHandler: ...
    @overload
    def __call__(
        self, *, channel: Pattern | None = None, namespace: Pattern | None = None
    ) -> Callable[[_ResumeHandler], _ResumeHandler]: ...


class ExceptionDecorator(Protocol):
    """Type of ``@on_error``."""

    @overload
    def __call__(self, function: _ExceptionHandler, /) -> _ExceptionHandler: ...
    @overload
    def __call__(
        self, *, channel: Pattern | None = None, namespace: Pattern | None = None
    ) -> Callable[[_ExceptionHandler], _ExceptionHandler]: ...


class EventDecorator(Protocol):
    """Type of ``@on_event("name")``."""

    def __call__(self, function: _EventHandler, /) -> _EventHandler: ...
