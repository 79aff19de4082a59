"""The stages of a connection's life: a blinker signal for each.

==============  ======================  =====================================================
signal          own keywords            sent
==============  ======================  =====================================================
``connecting``  ``auth``                a gate: before a connection is accepted
``connect``     ``auth``                once, when the connection is established
``message``     ``message``, ``event``, for every message or custom event of the client
                ``args``, ``channel``
``subscribing`` ``channel``             a gate: before the socket is in the channel
``subscribe``   ``channel``             once the socket is in the channel
``unsubscribe`` ``channel``,            once the socket is not in the channel any more; at the end
                ``reason``              of a connection for each channel it still held
``error``       ``exception``           a receiver raised, or the client broke a rule
``disconnect``  ``reason``              once, when the connection is gone
``finish``      ``reason``              once, last of all, also when the server stops
==============  ======================  =====================================================

Every one is sent with the `Socket` as sender and with the keywords ``request`` (the handshake's
WSGI environ), ``socket`` and ``context`` (a dict that lives as long as the connection). A receiver
takes what it wants of them, and ``**extra`` for what later versions add::

    @signals.message.connect
    def count(sender, socket, message, **extra):
        ...

Receivers run in the order they were connected, in the connection's greenlet, and may wait. What
one raises stops no other: it becomes an ``error`` event. At a gate it denies what was asked; raise
`Refused` to say why. Receivers are held strongly, unless connected with ``weak=True``.

``reason`` is Socket.IO's: "client namespace disconnect", "server namespace disconnect", "transport
close", "transport error", "ping timeout", "parse error", "slow reader", "server shutting down"; it
is None when a socket left a channel of its own accord.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import gevent
from blinker import Signal

from webpy_socketio.exceptions import Refused

if TYPE_CHECKING:
    from webpy_socketio.socket import Socket

__all__ = [
    "STAGES",
    "Stage",
    "connect",
    "connecting",
    "disconnect",
    "error",
    "finish",
    "message",
    "subscribe",
    "subscribing",
    "unsubscribe",
]

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("webpy_socketio")


class _InOrder(dict[Any, int]):
    """A set for blinker that remembers in which order its members came (``Signal.set_class``)."""

    _clock = itertools.count()

    def add(self, item: Any) -> None:
        self.setdefault(item, next(self._clock))

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def copy(self) -> _InOrder:
        return _InOrder(self)

    def __or__(self, other: Any) -> Any:
        both = {**self, **other}
        return _InOrder(sorted(both.items(), key=lambda member: member[1]))


class Stage(Signal):
    """A signal with a name, whose receivers run in the order they were connected."""

    set_class = _InOrder  # type: ignore[assignment]

    def __init__(self, name: str, doc: str) -> None:
        super().__init__(doc)
        self.name = name

    def __repr__(self) -> str:
        return f"<Stage {self.name}>"

    def connect(self, receiver: F, sender: Any = Signal.ANY, weak: bool = False) -> F:
        """Connect a receiver; it is held strongly unless `weak` says otherwise.

        (blinker's default is to forget a function that nothing else refers to.) The twin that comes
        with a second import of the main script, which web.py's reloader makes, replaces the first.
        """
        for other in list(self.receivers_for(Signal.ANY)):
            if _are_twins(other, receiver):
                self.disconnect(other)
        return super().connect(receiver, sender, weak)


def _are_twins(one: Any, other: Any) -> bool:
    """Whether two functions are one, of ``__main__`` and of the same file imported by its name."""
    first, second = getattr(one, "__code__", None), getattr(other, "__code__", None)
    modules = (getattr(one, "__module__", None), getattr(other, "__module__", None))
    return (
        first is not None
        and second is not None
        and modules[0] != modules[1]
        and "__main__" in modules
        and (first.co_filename, first.co_firstlineno, one.__qualname__)
        == (second.co_filename, second.co_firstlineno, other.__qualname__)
    )


connecting = Stage("connecting", "A gate: may this client connect?")
connect = Stage("connect", "A connection is established.")
message = Stage("message", "The client sent a message or a custom event.")
subscribing = Stage("subscribing", "A gate: may this socket subscribe to this channel?")
subscribe = Stage("subscribe", "A socket is in a channel now.")
unsubscribe = Stage("unsubscribe", "A socket is in a channel no more.")
error = Stage("error", "A receiver raised, or the client broke a rule.")
disconnect = Stage("disconnect", "A connection is gone.")
finish = Stage("finish", "A connection is over: the last word.")

#: All of them, in the order of a connection's life.
STAGES = (
    connecting,
    connect,
    message,
    subscribing,
    subscribe,
    unsubscribe,
    error,
    disconnect,
    finish,
)


class Outcome(NamedTuple):
    """What came of a signal: the values returned, in order, and how many receivers failed."""

    values: list[Any]
    failures: int


def emit(stage: Stage, socket: Socket, **keywords: Any) -> Outcome:
    """Send a stage's signal; a receiver that raises stops no other and becomes an error event."""
    values: list[Any] = []
    failures = 0
    if not stage.receivers or stage.is_muted:
        return Outcome(values, failures)
    request, context = socket.request, socket.context
    for receiver in stage.receivers_for(socket):
        try:
            value = receiver(socket, request=request, socket=socket, context=context, **keywords)
            if value is not None:
                _check_plain(value)
                values.append(value)
        except BaseException as exception:  # noqa: BLE001 - GreenletExit and Timeout too
            failures += 1
            report(socket, exception, f"a receiver of {stage.name!r}, {_name(receiver)},")
    return Outcome(values, failures)


def ask(gate: Stage, socket: Socket, **keywords: Any) -> None:
    """Send a gate's signal; raises `Refused` at the first receiver that denies or fails."""
    if not gate.receivers or gate.is_muted:
        return
    request, context = socket.request, socket.context
    for receiver in gate.receivers_for(socket):
        try:
            # A coroutine would deny nothing, as nobody runs it: it fails, and so the gate is shut.
            _check_plain(
                receiver(socket, request=request, socket=socket, context=context, **keywords)
            )
        except Refused:
            raise
        except BaseException as exception:  # noqa: BLE001 - see emit
            report(socket, exception, f"a receiver of {gate.name!r}, {_name(receiver)},")
            raise Refused("not allowed") from None  # what went wrong is not for the client


def report(socket: Socket, exception: BaseException, what: str | None = None) -> None:
    """Log an exception and make it an ``error`` event; one of an error receiver is only logged.

    `what` failed; None if it was the client who broke a rule, which deserves no traceback.
    """
    if what is None:
        logger.info("%s broke a rule: %s", socket, exception)
    else:
        logger.error("%s failed for %s", what, socket, exc_info=exception)
    for receiver in error.receivers_for(socket) if not error.is_muted else ():
        try:
            receiver(
                socket,
                request=socket.request,
                socket=socket,
                context=socket.context,
                exception=exception,
            )
        except BaseException as again:
            logger.error("a receiver of 'error', %s, failed", _name(receiver), exc_info=again)
            _pass_on(again)
    _pass_on(exception)


def _check_plain(value: Any) -> None:
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError("a receiver is a coroutine function; gevent needs a plain one")


def _pass_on(exception: BaseException) -> None:
    """Let Ctrl-C and sys.exit() reach the main greenlet, as they would from anywhere else."""
    if isinstance(exception, (KeyboardInterrupt, SystemExit)):
        gevent.get_hub().handle_system_error(type(exception), exception)


def _name(receiver: Any) -> str:
    function = getattr(receiver, "function", receiver)  # a decorated handler's
    return str(getattr(function, "__qualname__", repr(function)))
