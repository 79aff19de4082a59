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
import logging
from typing import TYPE_CHECKING, Any

import gevent

from webpy_socketio.exceptions import Refused
from webpy_socketio.receivers import Ordered

if TYPE_CHECKING:
    from webpy_socketio.socket import Socket

__all__ = [
    "GATES",
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

logger = logging.getLogger("webpy_socketio")


class Stage(Ordered):
    """A signal with a name, whose receivers run in the order they were connected."""

    def __init__(self, name: str, doc: str) -> None:
        super().__init__(doc)
        self.name = name

    def __repr__(self) -> str:
        return f"<Stage {self.name}>"


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

#: Those of them that are asked before something happens.
GATES = (connecting, subscribing)

#: What came of a signal: the values returned, in order, and how many receivers failed.
Outcome = tuple[list[Any], int]


def emit(stage: Stage, socket: Socket, **keywords: Any) -> Outcome:
    """Send a stage's signal; a receiver that raises stops no other and becomes an error event.

    Who receives it is settled before the first one runs.
    """
    values: list[Any] = []
    failures = 0
    chosen = stage.choose(socket, keywords.get("event"), keywords.get("channel"))
    if not chosen:
        return values, failures
    keywords["request"], keywords["socket"] = socket.request, socket
    keywords["context"] = socket.context
    for receiver, take in chosen:
        try:
            value = receiver(socket, **keywords) if take is None else take(socket, keywords)
            if value is not None:
                _check_plain(value)
                values.append(value)
        except BaseException as exception:  # noqa: BLE001 - GreenletExit and Timeout too
            failures += 1
            report(socket, exception, f"a receiver of {stage.name!r}, {_name(receiver)},")
    return values, failures


def ask(gate: Stage, socket: Socket, **keywords: Any) -> None:
    """Send a gate's signal; raises `Refused` at the first receiver that denies or fails."""
    chosen = gate.choose(socket, None, keywords.get("channel"))
    keywords.update(request=socket.request, socket=socket, context=socket.context)
    for receiver, take in chosen:
        try:
            # A coroutine would deny nothing, as nobody runs it: it fails, and so the gate is shut.
            _check_plain(receiver(socket, **keywords) if take is None else take(socket, keywords))
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
    keywords = {
        "request": socket.request,
        "socket": socket,
        "context": socket.context,
        "exception": exception,
    }
    for receiver, take in error.choose(socket, None, None):
        try:
            if take is None:
                receiver(socket, **keywords)
            else:
                take(socket, keywords)
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
