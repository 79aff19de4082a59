"""The stages of a connection's life: a blinker signal for each.

==============  ======================  =====================================================
signal          own keywords            sent
==============  ======================  =====================================================
``connecting``  ``auth``                a gate: before a connection is accepted
``connect``     ``auth``                once, when the connection is established
``receiving``   ``message``, ``event``, a gate: before the handlers of a message run
                ``args``, ``channel``
``message``     ``message``, ``event``, for every message or custom event of the client
                ``args``, ``channel``
``subscribing`` ``channel``,            a gate: before the socket is in the channel; whether the
                ``by_client``           client asks for it, or the server
``subscribe``   ``channel``             once the socket is in the channel
``unsubscribe`` ``channel``,            once the socket is not in the channel any more; at the end
                ``reason``              of a connection for each channel it still held
``error``       ``exception``,          a receiver raised, or the client broke a rule, which is
                ``by_client``           ``by_client``
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
`Refused` to say why. Receivers are held strongly, unless connected with ``weak=True``; one that is
connected with ``first=True`` runs before all that are there already.

One more signal, `handled`, is about the others. It is sent when a stage's receivers have run or a gate
was asked, if anybody listens, with the stage's own keywords and ``stage`` (its name), ``seconds`` (that
the receivers took, waiting included), ``failures`` (how many raised), and ``refused`` (what a gate's no
said; otherwise None). It is not sent for ``error``.

``reason`` is Socket.IO's: "client namespace disconnect", "server namespace disconnect", "transport
close", "transport error", "ping timeout", "parse error", "slow reader", "server shutting down"; it
is None when a socket left a channel of its own accord.
"""

from __future__ import annotations

import inspect
import logging
import time
from typing import TYPE_CHECKING, Any

import gevent

from webpy_socketio.exceptions import Refused
from webpy_socketio.receivers import Ordered

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
    "handled",
    "message",
    "receiving",
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
receiving = Stage("receiving", "A gate: may the handlers of this message run?")
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
    receiving,
    message,
    subscribing,
    subscribe,
    unsubscribe,
    error,
    disconnect,
    finish,
)

#: About all of them but `error`: what their receivers took, and what a gate said.
handled = Stage("handled", "The receivers of a stage have run, or a gate was asked.")

#: What came of a signal: the values returned, in order, and how many receivers failed.
Outcome = tuple[list[Any], int]


def emit(stage: Stage, socket: Socket, **keywords: Any) -> Outcome:
    """Send a stage's signal; a receiver that raises stops no other and becomes an error event.

    Who receives it is settled before the first one runs.
    """
    values: list[Any] = []
    failures = 0
    began = time.perf_counter() if handled.receivers else None
    chosen = stage.choose(socket, keywords.get("event"), keywords.get("channel"))
    if not chosen and began is None:
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
    if began is not None:
        _tell(stage, socket, keywords, began, failures)
    return values, failures


def ask(gate: Stage, socket: Socket, **keywords: Any) -> None:
    """Send a gate's signal; raises `Refused` at the first receiver that denies or fails."""
    if not handled.receivers:
        _ask(gate, socket, keywords)
        return
    began = time.perf_counter()
    try:
        _ask(gate, socket, keywords)
    except Refused as refusal:
        _tell(gate, socket, keywords, began, refused=str(refusal) or "refused")
        raise
    _tell(gate, socket, keywords, began)


def _ask(gate: Stage, socket: Socket, keywords: dict[str, Any]) -> None:
    chosen = gate.choose(socket, None, keywords.get("channel"))
    keywords["request"], keywords["socket"] = socket.request, socket
    keywords["context"] = socket.context
    for receiver, take in chosen:
        try:
            value = receiver(socket, **keywords) if take is None else take(socket, keywords)
            if value is not None:
                # A coroutine would deny nothing, as nobody runs it: it fails, so the gate is shut.
                _check_plain(value)
        except Refused:
            raise
        except BaseException as exception:  # noqa: BLE001 - see emit
            report(socket, exception, f"a receiver of {gate.name!r}, {_name(receiver)},")
            raise Refused("not allowed") from None  # what went wrong is not for the client


def _tell(
    stage: Stage,
    socket: Socket,
    keywords: dict[str, Any],
    began: float,
    failures: int = 0,
    refused: str | None = None,
) -> None:
    """Send `handled`; a receiver of it that raises becomes an error event as any other does."""
    keywords["seconds"] = time.perf_counter() - began
    keywords["stage"], keywords["failures"] = stage.name, failures
    keywords["refused"] = refused
    for receiver, _ in handled.choose(socket, None, None):
        try:
            receiver(socket, **keywords)
        except BaseException as exception:  # noqa: BLE001 - see emit
            report(socket, exception, f"a receiver of 'handled', {_name(receiver)},")


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
        "by_client": what is None,
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
