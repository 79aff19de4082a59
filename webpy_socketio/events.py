"""Decorators for handlers, one for each stage.

::

    @on_message(channel="^room-")
    def message(request, socket, context, message):
        socket.send_and_broadcast_channel(message)

Each decorator connects a `Handler` to the signal of its stage and returns the function unchanged.

``channel=`` takes a regular expression for ``re.match``, as text or compiled. The handler then
receives an event if the pattern matches the channel of the event. Events without a channel match if
the pattern matches any channel of the socket; the handler runs once, however many match.

A module that is imported twice registers its handlers once: a function replaces an earlier one with
the same file and qualified name. The reloader of web.py imports the main script twice.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable
from typing import Any

from webpy_socketio import signals
from webpy_socketio.bus.introspection import check_plain, check_positional, describe, origin
from webpy_socketio.bus.patterns import ChannelPattern, compile_channel
from webpy_socketio.bus.receivers import FilteredReceiver, deny
from webpy_socketio.exceptions import EventError
from webpy_socketio.handler_types import (
    ChannelDecorator,
    EventDecorator,
    ExceptionDecorator,
    MessageDecorator,
    Pattern,
    ReceivingDecorator,
    SocketDecorator,
    SocketGateDecorator,
    SubscribingDecorator,
    UnboundSocketDecorator,
)
from webpy_socketio.signals import Stage

__all__ = [
    "off",
    "on_connect",
    "on_connecting",
    "on_disconnect",
    "on_error",
    "on_event",
    "on_finish",
    "on_message",
    "on_receiving",
    "on_subscribe",
    "on_subscribing",
    "on_unsubscribe",
    "registered_handlers",
]

logger = logging.getLogger(__name__)

#: Arguments of the handlers of each stage, after request, socket and context. Messages are missing
#: here: their arguments depend on the event.
_ARGUMENTS: dict[Stage, tuple[str, ...]] = {
    signals.receiving: ("event", "message"),
    signals.subscribing: ("channel",),
    signals.subscribe: ("channel",),
    signals.unsubscribe: ("channel",),
    signals.error: ("exception",),
}


class Handler(FilteredReceiver):
    """A decorated function, connected to the signal of its stage.

    `registered_handlers` returns these objects.

    Attributes:
        stage: The signal; ``stage.name`` is its name.
        event: The event that is handled: "message" for messages, None for other stages.
        pattern: The channel pattern, None without ``channel=``. ``pattern.regex`` is the compiled
            expression, ``pattern.match(channel)`` returns whether it matches.
        function: The decorated function.
    """

    __slots__ = ("_arguments", "event", "function", "origin", "pattern", "stage")

    def __init__(
        self,
        function: Callable[..., Any],
        stage: Stage,
        pattern: ChannelPattern | None,
        event: str | None,
    ) -> None:
        self.function = function
        self.origin = origin(function)
        self.stage = stage
        self.pattern = pattern
        #: The custom event that is handled; "message" for handlers of messages.
        self.event = event
        self._arguments = _ARGUMENTS.get(stage, ())

    @property
    def is_bound(self) -> bool:
        return self.pattern is not None

    def accepts_event(self, event: str | None) -> bool:
        return self.event is None or self.event == event

    @property
    def is_gate(self) -> bool:
        return self.stage in signals.GATES

    def matches(self, sender: Any, channel: str | None) -> bool | None:
        if self.pattern is None:
            return True
        if channel is not None:
            return self.pattern.match(channel)
        answer: bool | None = False
        for joined in sender.channels:
            found = self.pattern.match(joined)
            if found:
                return True
            if found is None:
                answer = None
        return answer

    def call(self, sender: Any, keywords: dict[str, Any]) -> Any:
        request, context = keywords["request"], keywords["context"]
        event = self.event
        if event == "message":
            return self.function(request, sender, context, keywords["message"])
        if event is not None:
            return self.function(request, sender, context, *keywords["args"])
        own = [keywords[name] for name in self._arguments]
        return self.function(request, sender, context, *own)

    def __call__(self, sender: Any, **keywords: Any) -> Any:
        """Filter and handle an event, for senders that use blinker's ``Signal.send``."""
        if not self.accepts_event(keywords.get("event")):
            return None
        found = self.matches(sender, keywords.get("channel"))
        if found is None and self.is_gate:
            deny(sender, keywords)
        return self.call(sender, keywords) if found else None

    def __repr__(self) -> str:
        return f"<Handler of {self.stage.name!r}: {self.function!r}>"


class _Decorator:
    """The implementation of ``@on_stage``, ``@on_stage()`` and ``@on_stage(channel=…)``."""

    def __init__(self, stage: Stage, doc: str, event: str | None = None) -> None:
        self.__doc__ = doc
        self.__name__ = "on_" + stage.name
        self._stage = stage
        self._event = event

    def __call__(self, function: Any = None, *, channel: Pattern | None = None) -> Any:
        if function is None:
            return lambda decorated: _register(decorated, self, self._stage, channel, self._event)
        return _register(function, self, self._stage, channel, self._event)

    def __repr__(self) -> str:
        return f"<decorator {self.__name__}>"


on_connecting: SocketGateDecorator = _Decorator(
    signals.connecting,
    "(request, socket, context): gate; raise `Refused` to reject a connection.",
)
on_connect: UnboundSocketDecorator = _Decorator(
    signals.connect, "(request, socket, context): the connection was established."
)
on_receiving: ReceivingDecorator = _Decorator(
    signals.receiving,
    "(request, socket, context, event, message): gate; raise `Refused` to reject a message.",
)
on_message: MessageDecorator = _Decorator(
    signals.message,
    "(request, socket, context, message): the client sent a message. The return value is the "
    "acknowledgement, if the client requested one.",
    event="message",
)
on_subscribing: SubscribingDecorator = _Decorator(
    signals.subscribing,
    "(request, socket, context, channel): gate; raise `Refused` to reject a subscription.",
)
on_subscribe: ChannelDecorator = _Decorator(
    signals.subscribe,
    "(request, socket, context, channel): the socket has subscribed to a channel.",
)
on_unsubscribe: ChannelDecorator = _Decorator(
    signals.unsubscribe,
    "(request, socket, context, channel): the socket has left a channel.",
)
on_error: ExceptionDecorator = _Decorator(
    signals.error,
    "(request, socket, context, exception): a handler raised, or the client sent invalid data.",
)
on_disconnect: SocketDecorator = _Decorator(
    signals.disconnect, "(request, socket, context): the connection has closed."
)
on_finish: SocketDecorator = _Decorator(
    signals.finish,
    "(request, socket, context): the last stage of a connection, after all others.",
)


def on_event(name: str, *, channel: Pattern | None = None) -> EventDecorator:
    """Handle a custom event.

    Handlers have the signature ``(request, socket, context, *args)``, with the arguments of the
    client. The return value is the acknowledgement, if the client requested one; a tuple is sent as
    several arguments.

    Args:
        name: Name of the event.
        channel: Handle only events whose channel matches this regular expression.

    Raises:
        EventError: The name is reserved, or the function cannot be called as a handler.

    Example:
        >>> @on_event("add")
        ... def add(request, socket, context, a, b):
        ...     return a + b
    """
    if not isinstance(name, str):
        raise EventError('@on_event requires the name of the event: @on_event("name")')
    if name in _RESERVED:
        raise EventError(
            f'@on_event("{name}"): clients cannot send this event; use {_RESERVED[name]}'
        )
    decorator = _Decorator(signals.message, on_event.__doc__ or "", event=name)
    decorator.__name__ = "on_event"
    decorated: EventDecorator = decorator(channel=channel)
    return decorated


def off(function: Callable[..., Any]) -> None:
    """Remove a decorated function from all stages that it handles.

    Args:
        function: The decorated function.
    """
    for key, (registered, handlers) in list(_registered.items()):
        if registered is function:
            del _registered[key]
            for handler in handlers:
                handler.stage.disconnect(handler)
    _State.handlers = None


def registered_handlers() -> tuple[Handler, ...]:
    """Return all decorated handlers in the order of decoration.

    Returns:
        The same tuple until a handler is added or removed.
    """
    if _State.handlers is None:
        _State.handlers = tuple(
            itertools.chain.from_iterable(handlers for _, handlers in _registered.values())
        )
    return _State.handlers


class _State:
    """The cached result of `registered_handlers`."""

    handlers: tuple[Handler, ...] | None = None


#: Registered functions and their handlers, by stage, event, file and qualified name.
_registered: dict[tuple[Any, ...], tuple[Callable[..., Any], list[Handler]]] = {}

#: Reserved event names, and what to use instead.
_RESERVED = {
    "connect": "@on_connect",
    "connect_error": "@on_connecting, which sends it by raising Refused",
    "disconnect": "@on_disconnect",
    "disconnecting": "@on_disconnect",
    "newListener": "another name",
    "removeListener": "another name",
    "__subscribe__": "@on_subscribe",
    "__unsubscribe__": "@on_unsubscribe",
    "__channel__": "@on_message(channel=…)",
}

_UNBINDABLE = (signals.connecting, signals.connect)


def _register(
    function: Any, decorator: Any, stage: Stage, channel: Pattern | None, event: str | None
) -> Any:
    used = "@" + decorator.__name__
    if not callable(function):
        raise EventError(
            f"{used} decorates a function, not {function!r}: pass a pattern as keyword, "
            f'{used}(channel="^room-")'
        )
    name = getattr(function, "__qualname__", repr(function))
    if channel is not None and stage in _UNBINDABLE:
        raise EventError(
            f"{used}(channel=…) on {name}: a connecting socket has no channels yet; "
            "use @on_subscribe(channel=…)"
        )
    pattern = compile_channel(channel, used, name)
    wrong = check_plain(function) or check_positional(function, *_arguments(stage, event))
    if wrong is not None:
        raise EventError(f"{used}: {describe(function)} {wrong}")
    handler = Handler(function, stage, pattern, event)
    code = getattr(inspect.unwrap(function), "__code__", None)
    key = (stage, event, getattr(code, "co_filename", None), name if code else id(function))
    previous, handlers = _registered.get(key, (function, []))
    # One function may be decorated several times, for several patterns. Another function of the
    # same name is the same code, imported again.
    replaced = [
        other for other in handlers if previous is not function or _same(other.pattern, pattern)
    ]
    for other in replaced:
        stage.disconnect(other)
        _warn_duplicate_handlers(used, other, handler)
    kept = [other for other in handlers if other not in replaced]
    _registered[key] = (function, [*kept, handler])
    _State.handlers = None
    stage.connect(handler, weak=False)
    return function


def _arguments(stage: Stage, event: str | None) -> tuple[tuple[str, ...], bool]:
    """Return the names of a handler's arguments, and whether the arguments of the client follow."""
    first = ("request", "socket", "context")
    if event is not None and event != "message":
        return first, True
    if stage is signals.message:
        return (*first, "message"), False
    return (*first, *_ARGUMENTS.get(stage, ())), False


def _same(one: ChannelPattern | None, other: ChannelPattern | None) -> bool:
    return one is other if one is None or other is None else one.regex == other.regex


def _warn_duplicate_handlers(used: str, old: Handler, new: Handler) -> None:
    """Warn if a handler replaces a different one, not a re-import of the same."""
    (code, *run), (new_code, *new_run) = old.origin, new.origin
    again = any(one is not other for one, other in zip(run, new_run, strict=True))
    if old.function is new.function or code is None or again:
        return
    # The same code may create several functions: one for each channel, or one for each test.
    if code is not new_code or not _same(old.pattern, new.pattern):
        logger.warning(
            "%s: %s replaces %s, which has the same name and no longer runs: give each handler a "
            "different name",
            used,
            describe(new.function),
            describe(old.function),
        )
