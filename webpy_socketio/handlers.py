"""Handlers: decorated functions with their filters, and the decorators of one runtime."""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable
from typing import Any

from webpy_socketio.bus.introspection import check_plain, check_positional, describe, origin
from webpy_socketio.bus.patterns import NamePattern, Pattern, compile_channel, compile_namespace
from webpy_socketio.bus.receivers import FilteredReceiver, deny
from webpy_socketio.bus.signals import Signals
from webpy_socketio.bus.stages import Stage
from webpy_socketio.exceptions import EventError
from webpy_socketio.handler_types import (
    ChannelDecorator,
    EventDecorator,
    ExceptionDecorator,
    MessageDecorator,
    ReceivingDecorator,
    ResumeDecorator,
    SocketDecorator,
    SocketGateDecorator,
    SubscribingDecorator,
    UnboundSocketDecorator,
)

__all__ = ["Events", "Handler"]

logger = logging.getLogger("webpy_socketio.events")

#: Arguments of the handlers of each stage, after request, socket and context. Messages are missing
#: here: their arguments depend on the event.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "receiving": ("event", "message"),
    "subscribing": ("channel",),
    "subscribe": ("channel",),
    "unsubscribe": ("channel",),
    "resume": ("missed",),
    "error": ("exception",),
}

#: Reserved event names, and what to use instead.
RESERVED = {
    "connect": "@on_connect",
    "connect_error": "@on_connecting, which sends it by raising Refused",
    "disconnect": "@on_disconnect",
    "disconnecting": "@on_disconnect",
    "newListener": "another name",
    "removeListener": "another name",
    "__subscribe__": "@on_subscribe",
    "__unsubscribe__": "@on_unsubscribe",
    "__channel__": "@on_message(channel=…)",
    "__numbered__": "another name",
    "__received__": "another name",
}

#: Stages of a socket that has no channels yet.
_UNBINDABLE = ("connecting", "connect")


class Handler(FilteredReceiver):
    """A decorated function, connected to the signal of its stage.

    `registered_handlers` returns these objects.

    Attributes:
        stage: The signal; ``stage.name`` is its name.
        event: The event that is handled: "message" for messages, None for other stages.
        pattern: The channel pattern, None without ``channel=``. ``pattern.regex`` is the compiled
            expression, ``pattern.match(channel)`` returns whether it matches.
        namespace: The namespace: its name, a pattern like that of a channel, or None for all
            namespaces.
        function: The decorated function.
    """

    __slots__ = (
        *("_arguments", "event", "function", "is_gate", "namespace", "origin", "pattern"),
        "stage",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        stage: Stage,
        pattern: NamePattern | None = None,
        event: str | None = None,
        namespace: str | NamePattern | None = None,
    ) -> None:
        self.function = function
        self.origin = origin(function)
        self.stage = stage
        self.pattern = pattern
        #: The custom event that is handled; "message" for handlers of messages.
        self.event = event
        self.namespace = namespace
        self.is_gate = stage.is_gate
        self._arguments = _ARGUMENTS.get(stage.name, ())

    @property
    def is_bound(self) -> bool:
        return self.pattern is not None or self.namespace is not None

    @property
    def is_bound_to_namespace(self) -> bool:
        return self.namespace is not None

    def accepts_event(self, event: str | None) -> bool:
        return self.event is None or self.event == event

    def matches(self, sender: Any, channel: str | None) -> bool | None:
        if self.namespace is not None:
            found = self._matches_namespace(sender.namespace)
            if not found:
                return found
        return True if self.pattern is None else self._matches_channel(sender, channel)

    def _matches_namespace(self, name: str) -> bool | None:
        namespace = self.namespace
        return namespace.match(name) if isinstance(namespace, NamePattern) else namespace == name

    def _matches_channel(self, sender: Any, channel: str | None) -> bool | None:
        assert self.pattern is not None
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

    def call_message(
        self, sender: Any, message: Any, event: str, args: list[Any], channel: str | None
    ) -> Any:
        if self.event == "message":
            return self.function(sender.request, sender, sender.context, message)
        return self.function(sender.request, sender, sender.context, *args)

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

    def __init__(self, events: Events, stage: Stage, doc: str, event: str | None = None) -> None:
        self.__doc__ = doc
        self.__name__ = "on_" + stage.name
        self._events = events
        self.stage = stage
        self.event = event

    def __call__(
        self,
        function: Any = None,
        *,
        channel: Pattern | None = None,
        namespace: Pattern | None = None,
    ) -> Any:
        if function is None:
            return lambda decorated: self._events._register(decorated, self, channel, namespace)
        return self._events._register(function, self, channel, namespace)

    def __repr__(self) -> str:
        return f"<decorator {self.__name__}>"


class Events:
    """The decorators of one runtime, and the handlers that they have registered.

    `webpy_socketio.events` documents the decorators; its functions are those of the default
    runtime.
    """

    on_connecting: SocketGateDecorator
    on_connect: UnboundSocketDecorator
    on_receiving: ReceivingDecorator
    on_message: MessageDecorator
    on_subscribing: SubscribingDecorator
    on_subscribe: ChannelDecorator
    on_unsubscribe: ChannelDecorator
    on_error: ExceptionDecorator
    on_suspend: SocketDecorator
    on_resume: ResumeDecorator
    on_disconnect: SocketDecorator
    on_finish: SocketDecorator

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        #: Registered functions and their handlers, by stage, event, namespace, file and qualified
        #: name.
        self._registered: dict[tuple[Any, ...], tuple[Callable[..., Any], list[Handler]]] = {}
        #: The cached result of `registered_handlers`.
        self._handlers: tuple[Handler, ...] | None = None
        self.on_connecting = _Decorator(
            self,
            signals.connecting,
            "(request, socket, context): gate; raise `Refused` to reject a connection.",
        )
        self.on_connect = _Decorator(
            self, signals.connect, "(request, socket, context): the connection was established."
        )
        self.on_receiving = _Decorator(
            self,
            signals.receiving,
            "(request, socket, context, event, message): gate; raise `Refused` to reject a "
            "message.",
        )
        self.on_message = _Decorator(
            self,
            signals.message,
            "(request, socket, context, message): the client sent a message. The return value is "
            "the acknowledgement, if the client requested one.",
            event="message",
        )
        self.on_subscribing = _Decorator(
            self,
            signals.subscribing,
            "(request, socket, context, channel): gate; raise `Refused` to reject a subscription.",
        )
        self.on_subscribe = _Decorator(
            self,
            signals.subscribe,
            "(request, socket, context, channel): the socket has subscribed to a channel.",
        )
        self.on_unsubscribe = _Decorator(
            self,
            signals.unsubscribe,
            "(request, socket, context, channel): the socket has left a channel.",
        )
        self.on_error = _Decorator(
            self,
            signals.error,
            "(request, socket, context, exception): a handler raised, or the client sent invalid "
            "data.",
        )
        self.on_suspend = _Decorator(
            self,
            signals.suspend,
            "(request, socket, context): the connection was lost, and the client may resume it.",
        )
        self.on_resume = _Decorator(
            self,
            signals.resume,
            "(request, socket, context, missed): the client has resumed its connection; ``missed`` "
            "is the number of messages sent again.",
        )
        self.on_disconnect = _Decorator(
            self, signals.disconnect, "(request, socket, context): the connection has closed."
        )
        self.on_finish = _Decorator(
            self,
            signals.finish,
            "(request, socket, context): the last stage of a connection, after all others.",
        )

    def on_event(
        self, name: str, *, channel: Pattern | None = None, namespace: Pattern | None = None
    ) -> EventDecorator:
        """Handle a custom event.

        Handlers have the signature ``(request, socket, context, *args)``, with the arguments of the
        client. The return value is the acknowledgement, if the client requested one; a tuple is
        sent as several arguments.

        Args:
            name: Name of the event.
            channel: Handle only events whose channel matches this regular expression.
            namespace: Handle only events of this namespace: its name, or a compiled pattern.

        Raises:
            EventError: The name is reserved, or the function cannot be called as a handler.

        Example:
            >>> @on_event("add")
            ... def add(request, socket, context, a, b):
            ...     return a + b
        """
        if not isinstance(name, str):
            raise EventError('@on_event requires the name of the event: @on_event("name")')
        if name in RESERVED:
            raise EventError(
                f'@on_event("{name}"): clients cannot send this event; use {RESERVED[name]}'
            )
        doc = Events.on_event.__doc__ or ""
        decorator = _Decorator(self, self._signals.message, doc, event=name)
        decorator.__name__ = "on_event"
        decorated: EventDecorator = decorator(channel=channel, namespace=namespace)
        return decorated

    def off(self, function: Callable[..., Any]) -> None:
        """Remove a decorated function from all stages that it handles.

        Args:
            function: The decorated function.
        """
        for key, (registered, handlers) in list(self._registered.items()):
            if registered is function:
                del self._registered[key]
                for handler in handlers:
                    handler.stage.disconnect(handler)
        self._handlers = None

    def registered_handlers(self) -> tuple[Handler, ...]:
        """Return all decorated handlers in the order of decoration.

        Returns:
            The same tuple until a handler is added or removed.
        """
        if self._handlers is None:
            self._handlers = tuple(
                itertools.chain.from_iterable(handlers for _, handlers in self._registered.values())
            )
        return self._handlers

    def clear(self) -> None:
        """Remove all decorated functions."""
        for function, _ in list(self._registered.values()):
            self.off(function)

    def _register(
        self,
        function: Any,
        decorator: _Decorator,
        channel: Pattern | None,
        namespace: Pattern | None,
    ) -> Any:
        stage, event = decorator.stage, decorator.event
        used = "@" + decorator.__name__
        if not callable(function):
            raise EventError(
                f"{used} decorates a function, not {function!r}: pass a pattern as keyword, "
                f'{used}(channel="^room-")'
            )
        name = getattr(function, "__qualname__", repr(function))
        if channel is not None and stage.name in _UNBINDABLE:
            raise EventError(
                f"{used}(channel=…) on {name}: a connecting socket has no channels yet; "
                "use @on_subscribe(channel=…)"
            )
        pattern = compile_channel(channel, used, name)
        selected = compile_namespace(namespace, used, name)
        wrong = check_plain(function) or check_positional(function, *_arguments(stage.name, event))
        if wrong is not None:
            raise EventError(f"{used}: {describe(function)} {wrong}")
        handler = Handler(function, stage, pattern, event, selected)
        code = getattr(inspect.unwrap(function), "__code__", None)
        place = getattr(code, "co_filename", None), name if code else id(function)
        key = (stage, event, namespace, *place)
        previous, handlers = self._registered.get(key, (function, []))
        # One function may be decorated several times, for several patterns. Another function of the
        # same name is the same code, imported again.
        replaced = [
            other for other in handlers if previous is not function or _same(other.pattern, pattern)
        ]
        for other in replaced:
            stage.disconnect(other)
            _warn_duplicate_handlers(used, other, handler)
        kept = [other for other in handlers if other not in replaced]
        self._registered[key] = (function, [*kept, handler])
        self._handlers = None
        stage.connect(handler, weak=False)
        return function


def _arguments(stage: str, event: str | None) -> tuple[tuple[str, ...], bool]:
    """Return the names of a handler's arguments, and whether the arguments of the client follow."""
    first = ("request", "socket", "context")
    if event is not None and event != "message":
        return first, True
    if stage == "message":
        return (*first, "message"), False
    return (*first, *_ARGUMENTS.get(stage, ())), False


def _same(one: NamePattern | None, other: NamePattern | None) -> bool:
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
            "%s: %s replaces %s, which has the same name and no longer runs: use a different "
            "name for each handler",
            used,
            describe(new.function),
            describe(old.function),
        )
