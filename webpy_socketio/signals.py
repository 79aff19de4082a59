"""The stages of a connection's life: a blinker signal for each.

===============  =======================  ===================================================
signal           own keywords             sent
===============  =======================  ===================================================
``connecting``   ``auth``                 a gate: before a connection is accepted
``connect``      ``auth``                 once, when the connection is established
``receiving``    ``message``, ``event``,  a gate: before the handlers of a message run
                 ``args``, ``channel``
``message``      ``message``, ``event``,  for every message or custom event of the client
                 ``args``, ``channel``
``subscribing``  ``channel``,             a gate: before the socket is in the channel; whether
                 ``by_client``            the client asks for it, or the server
``subscribe``    ``channel``              once the socket is in the channel
``unsubscribe``  ``channel``, ``reason``  once the socket is not in the channel any more; at the
                                          end of a connection for each channel it still held
``error``        ``exception``,           a receiver raised, or the client broke a rule, which is
                 ``by_client``            ``by_client``
``disconnect``   ``reason``               once, when the connection is gone
``finish``       ``reason``               once, last of all, also when the server stops
===============  =======================  ===================================================

Every one is sent with the `Socket` as sender and with the keywords ``request`` (the handshake's
WSGI environ), ``socket`` and ``context`` (a dict that lives as long as the connection). A receiver
takes what it wants of them, and ``**extra`` for what later versions add::

    @signals.message.connect
    def count(sender, socket, message, **extra):
        ...

Receivers run in the order they were connected, in the connection's greenlet, and may wait. What
one raises stops no other: it becomes an ``error`` event. At a gate it denies what was asked; raise
`Refused` to say why. A receiver that could never be called, or would never run, is refused with
`EventError` when it is connected. Receivers are held strongly, unless connected with ``weak=True``; one
that is connected with ``first=True`` runs before all that are there already.

One more signal, `handled`, is about the others. It is sent when a stage's receivers have run or a gate
was asked, if anybody accepts_event, with the stage's own keywords and ``stage`` (its name), ``seconds`` (that
the receivers took, waiting included), ``failures`` (how many raised), and ``refused`` (what a gate's no
said; otherwise None). It is not sent for ``error``.

One more signal is not a stage: ``sent``, for each event of ours that goes to clients of this
process. Its sender is the namespace's name, its keywords are ``sockets`` (a list), ``size`` (bytes
on the wire, for one of them) and ``read``, a function that returns the event's name and its arguments as
a list. It is sent in the middle of sending: a receiver must not wait. Nothing is made of all this while
nobody is connected to it.

One more signal, ``packet``, is for each packet of a client that reaches no handler: a pong, an
acknowledgement, a CONNECT or DISCONNECT, a packet for a namespace that the client is not connected to, a
WebSocket's own ping. Its sender is the client's Engine.IO session, which ``close(reason)`` ends; its
keyword is ``request``. It is sent in the middle of reading: a receiver must not wait.

``reason`` is Socket.IO's: "client namespace disconnect", "server namespace disconnect", "transport
close", "transport error", "ping timeout", "parse error", "slow reader", "server shutting down"; it
is None when a socket left a channel of its own accord.
"""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import gevent

from webpy_socketio import loggers
from webpy_socketio.bus.introspection import (
    NEVER_RUN,
    check_plain,
    describe,
    is_bundled,
    takes_keywords,
)
from webpy_socketio.bus.receivers import FilteredReceiver, OrderedSignal
from webpy_socketio.exceptions import EventError, Refused

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
    "handled",
    "message",
    "packet",
    "receiving",
    "sent",
    "subscribe",
    "subscribing",
    "unsubscribe",
]

logger = logging.getLogger("webpy_socketio")


F = TypeVar("F", bound=Callable[..., Any])

#: Names of events without a handler that are logged, and the characters of each that are kept and
#: shown: clients choose the names.
MAX_EVENTS, MAX_NAME = 100, 100


class Stage(OrderedSignal):
    """A signal with a name, whose receivers run in the order they were connected.

    `keywords` are those that it is sent with; with any given, a receiver has to take them.
    """

    def __init__(self, name: str, doc: str, *keywords: str) -> None:
        super().__init__(doc)
        self.name = name
        self._keywords = keywords

    def connect(
        self,
        receiver: F,
        sender: Any = OrderedSignal.ANY,
        weak: bool = False,
        *,
        first: bool = False,
    ) -> F:
        """Connect a receiver; it is held strongly unless `weak` says otherwise.

        With `first` it runs before all that are connected already. Raises `EventError` if it could not
        be called, or would not run.
        """
        if not isinstance(receiver, FilteredReceiver):  # a decorated handler was looked at already
            wrong = check_plain(receiver)
            if wrong is None and self._keywords:
                wrong = takes_keywords(receiver, self._keywords)
            if wrong is not None:
                raise EventError(f"signals.{self.name}.connect: {describe(receiver)} {wrong}")
        return super().connect(receiver, sender, weak, first=first)

    def __repr__(self) -> str:
        return f"<Stage {self.name}>"


class _Messages(Stage):
    """The stage of messages and custom events: it tells, once, of an event that nobody handles."""

    def __init__(self, name: str, doc: str, *keywords: str) -> None:
        super().__init__(name, doc, *keywords)
        self._known: set[str] = set()

    def asked(self, event: str | None) -> None:
        if event is None or len(self._known) >= MAX_EVENTS:
            return
        event = event[:MAX_NAME]
        if event in self._known:
            return
        self._known.add(event)
        # The package's own, such as the message log, see every event and handle none.
        receivers: list[Any] = [
            each
            for each in self.receivers_for(self.ANY)
            if isinstance(each, FilteredReceiver) or not is_bundled(each)
        ]
        if any(
            not isinstance(each, FilteredReceiver) or each.accepts_event(event)
            for each in receivers
        ):
            return
        names = {each.event for each in receivers}
        near = difflib.get_close_matches(event, names, 1)
        hint = f"; did the client mean {near[0]!r}?" if near else ""
        # Without any handler it is a mistake; otherwise it may be anything that a client sends.
        logger.log(
            logging.INFO if names else logging.WARNING,
            "no handler for the event %s: is the module with its handlers imported?%s",
            ascii(event),
            hint,
        )

    def _clear_state(self) -> None:
        super()._clear_state()
        self._known.clear()


_ALWAYS = ("request", "socket", "context")

connecting = Stage("connecting", "A gate: may this client connect?", *_ALWAYS, "auth")
connect = Stage("connect", "A connection is established.", *_ALWAYS, "auth")
receiving = Stage(
    "receiving",
    "A gate: may the handlers of this message run?",
    *(*_ALWAYS, "message", "event", "args", "channel"),
)
message = _Messages(
    "message",
    "The client sent a message or a custom event.",
    *(*_ALWAYS, "message", "event", "args", "channel"),
)
subscribing = Stage(
    "subscribing",
    "A gate: may this socket subscribe to this channel?",
    *_ALWAYS,
    "channel",
    "by_client",
)
subscribe = Stage("subscribe", "A socket is in a channel now.", *_ALWAYS, "channel")
unsubscribe = Stage(
    "unsubscribe", "A socket is in a channel no more.", *_ALWAYS, "channel", "reason"
)
error = Stage(
    "error", "A receiver raised, or the client broke a rule.", *_ALWAYS, "exception", "by_client"
)
disconnect = Stage("disconnect", "A connection is gone.", *_ALWAYS, "reason")
finish = Stage("finish", "A connection is over: the last word.", *_ALWAYS, "reason")

#: Not a stage of one connection: an event of ours is on its way to clients here.
sent = Stage("sent", "An event goes to sockets of this process.")

#: Not a stage either: a packet that reaches no handler.
packet = Stage("packet", "A packet of a client that no handler gets.")

#: All of the stages, in the order of a connection's life.
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

#: Those of them that are asked before something happens.
GATES = (connecting, receiving, subscribing)

#: Where to refuse what is not to come to a stage.
_GATE_OF = {connect: "on_connecting", message: "on_receiving", subscribe: "on_subscribing"}

#: About all of them but `error`: what their receivers took, and what a gate said.
handled = Stage("handled", "The receivers of a stage have run, or a gate was asked.")

#: What came of a signal: the values returned, in order; how many receivers failed; and whether a
#: decorated handler ran. Other receivers get every event, and may only observe it.
Outcome = tuple[list[Any], int, bool]


def emit(stage: Stage, socket: Socket, **keywords: Any) -> Outcome:
    """Send a stage's signal; a receiver that raises stops no other and becomes an error event.

    Who receives it is settled before the first one runs.
    """
    values: list[Any] = []
    failures = 0
    taken = False
    began = time.perf_counter() if handled.receivers else None
    chosen = stage.resolve(socket, keywords.get("event"), keywords.get("channel"))
    if not chosen:
        stage.asked(keywords.get("event"))
        if began is None:
            return values, failures, taken
    keywords["request"], keywords["socket"] = socket.request, socket
    keywords["context"] = socket.context
    for receiver, take in chosen:
        try:
            if take is None:
                value = receiver(socket, **keywords)
            else:
                taken = True
                value = take(socket, keywords)
            if value is not None:
                _check_ran(value)
                values.append(value)
        except BaseException as exception:  # noqa: BLE001 - GreenletExit and Timeout too
            failures += 1
            what = f"a receiver of {stage.name!r}, {describe(receiver)},"
            if isinstance(exception, Refused):
                what += (
                    f" in which nothing is refused ({_GATE_OF.get(stage, 'gates')} can do that),"
                )
            report_error(socket, exception, what)
    if began is not None:
        _send_handled(stage, socket, keywords, began, failures)
    return values, failures, taken


def check_gate(gate: Stage, socket: Socket, **keywords: Any) -> None:
    """Send a gate's signal; raises `Refused` at the first receiver that denies or fails."""
    if not handled.receivers:
        _run_gate(gate, socket, keywords)
        return
    began = time.perf_counter()
    try:
        _run_gate(gate, socket, keywords)
    except Refused as refusal:
        _send_handled(gate, socket, keywords, began, refused=str(refusal) or "refused")
        raise
    _send_handled(gate, socket, keywords, began)


def _run_gate(gate: Stage, socket: Socket, keywords: dict[str, Any]) -> None:
    chosen = gate.resolve(socket, None, keywords.get("channel"))
    keywords["request"], keywords["socket"] = socket.request, socket
    keywords["context"] = socket.context
    for receiver, take in chosen:
        try:
            value = receiver(socket, **keywords) if take is None else take(socket, keywords)
            if value is not None:
                # It was meant to look or to deny, and does neither: it fails, and so the gate is shut.
                _check_ran(value)
                if value is False:
                    raise TypeError('a gate returned False, where it raises Refused("why") to deny')
        except Refused:
            raise
        except BaseException as exception:  # noqa: BLE001 - see emit
            report_error(socket, exception, f"a receiver of {gate.name!r}, {describe(receiver)},")
            raise Refused("not allowed") from None  # what went wrong is not for the client


def _send_handled(
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
    for receiver, _ in handled.resolve(socket, None, None):
        try:
            receiver(socket, **keywords)
        except BaseException as exception:  # noqa: BLE001 - see emit
            report_error(socket, exception, f"a receiver of 'handled', {describe(receiver)},")


def send_robust(signal: Stage, sender: Any, **keywords: Any) -> None:
    """Send a signal that belongs to no socket; a receiver that raises stops no other and is logged."""
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **keywords)
        except Exception:
            logger.exception("a receiver of %r, %s, failed", signal.name, describe(receiver))


def report_error(socket: Socket, exception: BaseException, what: str | None = None) -> None:
    """Log an exception and make it an ``error`` event; one of an error receiver is only logged.

    `what` failed; None if it was the client who broke a rule, which deserves no traceback.
    """
    loggers.enable()
    if what is None:
        # Their texts: whoever keeps log records keeps no frames with it, and no connection.
        socket.notices.throttled(
            exception,
            f"{socket} broke a rule: {exception}",
            logging.INFO,
            logger,
        )
    else:
        logger.error("%s failed for %s", what, str(socket), exc_info=exception)
    keywords = {
        "request": socket.request,
        "socket": socket,
        "context": socket.context,
        "exception": exception,
        "by_client": what is None,
    }
    for receiver, take in error.resolve(socket, None, None):
        try:
            if take is None:
                receiver(socket, **keywords)
            else:
                take(socket, keywords)
        except BaseException as again:
            logger.error("a receiver of 'error', %s, failed", describe(receiver), exc_info=again)
            _reraise_control_exception(again)
    _reraise_control_exception(exception)


def _check_ran(value: Any) -> None:
    if isinstance(value, NEVER_RUN):
        if hasattr(value, "close"):
            value.close()  # or Python would warn that it never ran
        raise TypeError(
            "a receiver returned a coroutine or a generator, which nobody runs: gevent needs a plain "
            "function, that has done its work when it returns"
        )


def _reraise_control_exception(exception: BaseException) -> None:
    """Let Ctrl-C and sys.exit() reach the main greenlet, as they would from anywhere else."""
    if isinstance(exception, (KeyboardInterrupt, SystemExit)):
        gevent.get_hub().handle_system_error(type(exception), exception)
