"""The documented decorators: a filter on a signal, and a handler's plain arguments.

::

    @on_message(channel="^room-")
    def message(request, socket, context, message):
        socket.send_and_broadcast_channel(message)

Each decorator connects a `Handler` to the signal of its stage and returns the function unchanged.
With ``channel=``, a pattern for ``re.match`` or a compiled one, the handler gets an event if the
pattern matches the event's channel or, for events without one, any channel that the socket holds;
once, however many match.

Importing a module twice registers its handlers once: a function of the same file and qualified
name replaces its predecessor. web.py's reloader imports the main script twice.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable
from typing import Any

from webpy_socketio import signals
from webpy_socketio.bus.introspection import check_plain, described, origin, takes_positions
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

#: The keywords that each stage's handlers get behind request, socket and context; messages, whose
#: handlers may wait for one event, have their own rule.
_ARGUMENTS: dict[Stage, tuple[str, ...]] = {
    signals.receiving: ("event", "message"),
    signals.subscribing: ("channel",),
    signals.subscribe: ("channel",),
    signals.unsubscribe: ("channel",),
    signals.error: ("exception",),
}


class Handler(FilteredReceiver):
    """A decorated function, as a receiver of its stage's signal.

    For whoever asks `registered_handlers`: ``stage`` is the signal, ``stage.name`` its name, ``event``
    the event it waits for ("message" for messages, None for other stages), ``pattern.regex`` what its
    channels have to match and ``pattern.match(channel)`` whether one does; ``pattern`` is None without
    ``channel=``.
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
        #: The custom event it waits for; handlers of messages wait for "message".
        self.event = event
        self._arguments = _ARGUMENTS.get(stage, ())

    @property
    def bound(self) -> bool:
        return self.pattern is not None

    def listens(self, event: str | None) -> bool:
        return self.event is None or self.event == event

    @property
    def denies(self) -> bool:
        return self.stage in signals.GATES

    def matches(self, sender: Any, channel: str | None) -> bool | None:
        if self.pattern is None:
            return True
        if channel is not None:
            return self.pattern.match(channel)
        answer: bool | None = False
        for held in sender.channels:
            found = self.pattern.match(held)
            if found:
                return True
            if found is None:
                answer = None
        return answer

    def take(self, sender: Any, keywords: dict[str, Any]) -> Any:
        request, context = keywords["request"], keywords["context"]
        event = self.event
        if event == "message":
            return self.function(request, sender, context, keywords["message"])
        if event is not None:
            return self.function(request, sender, context, *keywords["args"])
        own = [keywords[name] for name in self._arguments]
        return self.function(request, sender, context, *own)

    def __call__(self, sender: Any, **keywords: Any) -> Any:
        """Take an event if it is one for us: for whoever sends the signal by blinker's own way."""
        if not self.listens(keywords.get("event")):
            return None
        found = self.matches(sender, keywords.get("channel"))
        if found is None and self.denies:
            deny(sender, keywords)
        return self.take(sender, keywords) if found else None

    def __repr__(self) -> str:
        return f"<Handler of {self.stage.name!r}: {self.function!r}>"


class _Decorator:
    """``@on_stage``, ``@on_stage()`` and ``@on_stage(channel=…)``."""

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
    signals.connecting, "(request, socket, context): may it connect?"
)
on_connect: UnboundSocketDecorator = _Decorator(
    signals.connect, "(request, socket, context): the connection is there."
)
on_receiving: ReceivingDecorator = _Decorator(
    signals.receiving, "(request, socket, context, event, message): may its handlers run?"
)
on_message: MessageDecorator = _Decorator(
    signals.message,
    "(request, socket, context, message): the client sent a message; what the handler returns is "
    "the acknowledgement, if the client asked for one.",
    event="message",
)
on_subscribing: SubscribingDecorator = _Decorator(
    signals.subscribing, "(request, socket, context, channel): may the socket subscribe?"
)
on_subscribe: ChannelDecorator = _Decorator(
    signals.subscribe, "(request, socket, context, channel): the socket is in the channel."
)
on_unsubscribe: ChannelDecorator = _Decorator(
    signals.unsubscribe, "(request, socket, context, channel): it is in the channel no more."
)
on_error: ExceptionDecorator = _Decorator(
    signals.error, "(request, socket, context, exception): a handler raised, or the client erred."
)
on_disconnect: SocketDecorator = _Decorator(
    signals.disconnect, "(request, socket, context): it is gone."
)
on_finish: SocketDecorator = _Decorator(
    signals.finish, "(request, socket, context): the last word."
)


def on_event(name: str, *, channel: Pattern | None = None) -> EventDecorator:
    """Handle a custom event: ``(request, socket, context, *args)``, args as the client sent them.

    What the handler returns is the acknowledgement, if the client asked for one; a tuple makes
    several arguments of it.
    """
    if not isinstance(name, str):
        raise EventError('@on_event needs the event\'s name: @on_event("name")')
    if name in _OTHERS:
        raise EventError(f'@on_event("{name}"): no client can send this event; use {_OTHERS[name]}')
    decorator = _Decorator(signals.message, on_event.__doc__ or "", event=name)
    decorator.__name__ = "on_event"
    decorated: EventDecorator = decorator(channel=channel)
    return decorated


def off(function: Callable[..., Any]) -> None:
    """Take back every registration of a decorated function."""
    for key, (registered, handlers) in list(_registered.items()):
        if registered is function:
            del _registered[key]
            for handler in handlers:
                handler.stage.disconnect(handler)
    _State.handlers = None


def registered_handlers() -> tuple[Handler, ...]:
    """Every decorated handler, in the order of decoration; the same tuple until that changes."""
    if _State.handlers is None:
        _State.handlers = tuple(
            itertools.chain.from_iterable(handlers for _, handlers in _registered.values())
        )
    return _State.handlers


class _State:
    """What `registered_handlers` found out."""

    handlers: tuple[Handler, ...] | None = None


#: Who is registered: by stage, event, file and qualified name.
_registered: dict[tuple[Any, ...], tuple[Callable[..., Any], list[Handler]]] = {}

#: Names that are not a client's to send, and what was probably meant.
_OTHERS = {
    "connect": "@on_connect",
    "connect_error": "@on_connecting, whose Refused a client gets as its connect_error",
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
            f"{used} decorates a function, not {function!r}: a pattern is given by name, "
            f'{used}(channel="^room-")'
        )
    name = getattr(function, "__qualname__", repr(function))
    if channel is not None and stage in _UNBINDABLE:
        raise EventError(
            f"{used}(channel=…) on {name}: a socket is in no channel while it connects; "
            "use @on_subscribe(channel=…)"
        )
    pattern = compile_channel(channel, used, name)
    wrong = check_plain(function) or takes_positions(function, *_arguments(stage, event))
    if wrong is not None:
        raise EventError(f"{used}: {described(function)} {wrong}")
    handler = Handler(function, stage, pattern, event)
    code = getattr(inspect.unwrap(function), "__code__", None)
    key = (stage, event, getattr(code, "co_filename", None), name if code else id(function))
    previous, handlers = _registered.get(key, (function, []))
    # One function may be decorated several times, for several patterns; another function of the
    # same name is the same one, imported again.
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
    """What a handler is called with, by name, and whether a client's own arguments follow."""
    first = ("request", "socket", "context")
    if event is not None and event != "message":
        return first, True
    if stage is signals.message:
        return (*first, "message"), False
    return (*first, *_ARGUMENTS.get(stage, ())), False


def _same(one: ChannelPattern | None, other: ChannelPattern | None) -> bool:
    return one is other if one is None or other is None else one.regex == other.regex


def _warn_duplicate_handlers(used: str, old: Handler, new: Handler) -> None:
    """Warn if a handler replaces another one which is not the same, imported again."""
    (code, *run), (new_code, *new_run) = old.origin, new.origin
    again = any(one is not other for one, other in zip(run, new_run, strict=True))
    if old.function is new.function or code is None or again:
        return
    # One function may be made several times: for one channel each, or by a test for each case.
    if code is not new_code or not _same(old.pattern, new.pattern):
        logger.warning(
            "%s: %s takes the place of %s, which has the same name: give each a name of its own, "
            "or one of them never runs",
            used,
            described(new.function),
            described(old.function),
        )
