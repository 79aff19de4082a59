"""The stages of a connection: a blinker signal for each.

===============  =======================  ===================================================
signal           keywords                 sent
===============  =======================  ===================================================
``connecting``   ``auth``                 gate: before a connection is accepted
``connect``      ``auth``                 when the connection is established
``receiving``    ``message``, ``event``,  gate: before the handlers of a message run
                 ``args``, ``channel``
``message``      ``message``, ``event``,  for each message or custom event of the client
                 ``args``, ``channel``
``subscribing``  ``channel``,             gate: before a socket subscribes to a channel;
                 ``by_client``            ``by_client`` is False if the server subscribes it
``subscribe``    ``channel``              after a socket has subscribed
``unsubscribe``  ``channel``, ``reason``  after a socket has left a channel; at the end of a
                                          connection, once for each channel
``error``        ``exception``,           after a receiver raised, its result could not be sent,
                 ``by_client``            or the client sent invalid data (``by_client`` is True)
``disconnect``   ``reason``               when the connection has closed
``finish``       ``reason``               after all other stages, also when the server stops
===============  =======================  ===================================================

The sender is the `Socket`. All stages have the keywords ``request`` (the WSGI environ of the
handshake), ``socket`` and ``context`` (a dict that lives as long as the connection). A receiver
accepts the keywords it needs, and ``**extra`` for those of later versions::

    @signals.message.connect
    def count(sender, socket, message, **extra):
        ...

Receivers run in the order in which they were connected, in the greenlet of the client's connection,
and may wait. If the server subscribes a socket, `subscribing` runs in the calling greenlet. An
exception does not stop other receivers; it is sent as ``error``. In a gate, any exception rejects;
raise `Refused` to give the client a reason.

Unlike in blinker, receivers are strongly referenced unless connected with ``weak=True``, and
``first=True`` inserts a receiver before all others. Connecting a receiver that cannot be called
raises `EventError`.

``reason`` is one of Socket.IO's: "client namespace disconnect", "server namespace disconnect",
"transport close", "transport error", "ping timeout", "parse error", "forced close", "slow reader"
or "server shutting down". In ``unsubscribe`` it is None if the connection stays open.

Three more signals are not stages. Without receivers they cost nothing.

``handled``
    After the receivers of a stage other than ``error`` have run. Has the keywords of the stage,
    ``stage`` (its name), ``seconds`` (duration, including waits), ``failures`` (number of receivers
    that raised; 0 for gates, whose failures are rejections) and ``refused`` (the reason if a gate
    rejected, otherwise None).

``sent``
    For each event sent to clients of this process. The sender is the name of the namespace. Has
    the keywords ``sockets`` (list of recipients), ``size`` (bytes on the wire for one of them) and
    ``read`` (function that returns the event's name and arguments as a list). Receivers must not
    wait.

``packet``
    For each packet of a client that does not reach a handler: pong, acknowledgement, CONNECT,
    DISCONNECT, WebSocket ping, or a packet of a namespace that the client is not connected to. The
    sender is the Engine.IO session; its ``close(reason)`` closes it. Has the keyword ``request``.
    Receivers must not wait.
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
    check_keywords,
    check_plain,
    describe,
    is_bundled,
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

#: Maximum number of logged event names without a handler, and of characters of each. Clients choose
#: the names.
MAX_EVENTS, MAX_NAME = 100, 100


class Stage(OrderedSignal):
    """A named signal whose receivers run in the order they were connected.

    With `keywords`, `connect` checks that receivers accept them.
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
        """Connect a receiver.

        Args:
            receiver: Function that is called with the sender and the keywords of the signal.
            sender: Receive signals of this sender only. Default: of all senders.
            weak: Reference the receiver weakly. Default: strongly.
            first: Run before all receivers that are connected already.

        Returns:
            The receiver, so that the method can be used as a decorator.

        Raises:
            EventError: The receiver could not be called with the keywords, or would never run.
        """
        if not isinstance(receiver, FilteredReceiver):  # decorated handlers have been checked
            wrong = check_plain(receiver)
            if wrong is None and self._keywords:
                wrong = check_keywords(receiver, self._keywords)
            if wrong is not None:
                raise EventError(f"signals.{self.name}.connect: {describe(receiver)} {wrong}")
        return super().connect(receiver, sender, weak, first=first)

    def __repr__(self) -> str:
        return f"<Stage {self.name}>"


class _MessageStage(Stage):
    """The stage of messages and custom events; logs each event without a handler once."""

    def __init__(self, name: str, doc: str, *keywords: str) -> None:
        super().__init__(name, doc, *keywords)
        self._logged: set[str] = set()

    def event_resolved(self, event: str | None) -> None:
        if event is None or len(self._logged) >= MAX_EVENTS:
            return
        event = event[:MAX_NAME]
        if event in self._logged:
            return
        self._logged.add(event)
        # Receivers of the package, such as the message log, observe events without handling them.
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
        close_names = difflib.get_close_matches(event, names, 1)
        hint = f"; did the client mean {close_names[0]!r}?" if close_names else ""
        # Without any handler, a module was probably not imported; otherwise clients may send any
        # name.
        logger.log(
            logging.INFO if names else logging.WARNING,
            "no handler for the event %s: is the module with its handlers imported?%s",
            ascii(event),
            hint,
        )

    def _clear_state(self) -> None:
        super()._clear_state()
        self._logged.clear()


_COMMON_KEYWORDS = ("request", "socket", "context")

connecting = Stage(
    "connecting", "Gate: raise `Refused` to reject a connection.", *_COMMON_KEYWORDS, "auth"
)
connect = Stage("connect", "A connection was established.", *_COMMON_KEYWORDS, "auth")
receiving = Stage(
    "receiving",
    "Gate: raise `Refused` to reject a message before its handlers run.",
    *(*_COMMON_KEYWORDS, "message", "event", "args", "channel"),
)
message = _MessageStage(
    "message",
    "The client sent a message or a custom event.",
    *(*_COMMON_KEYWORDS, "message", "event", "args", "channel"),
)
subscribing = Stage(
    "subscribing",
    "Gate: raise `Refused` to reject a subscription to a channel.",
    *_COMMON_KEYWORDS,
    "channel",
    "by_client",
)
subscribe = Stage(
    "subscribe", "A socket has subscribed to a channel.", *_COMMON_KEYWORDS, "channel"
)
unsubscribe = Stage(
    "unsubscribe", "A socket has left a channel.", *_COMMON_KEYWORDS, "channel", "reason"
)
error = Stage(
    "error",
    "A receiver raised, or the client sent invalid data.",
    *_COMMON_KEYWORDS,
    "exception",
    "by_client",
)
disconnect = Stage("disconnect", "A connection has closed.", *_COMMON_KEYWORDS, "reason")
finish = Stage("finish", "The last stage of a connection.", *_COMMON_KEYWORDS, "reason")

#: Not a stage: an event that is sent to clients of this process.
sent = Stage("sent", "An event is sent to sockets of this process.")

#: Not a stage: a packet that does not reach a handler.
packet = Stage("packet", "A packet of a client that does not reach a handler.")

#: All stages, in the order of a connection's life.
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

#: The stages that can reject: their receivers run before something happens.
GATES = (connecting, receiving, subscribing)

#: The gate before each stage.
_GATE_OF = {connect: "on_connecting", message: "on_receiving", subscribe: "on_subscribing"}

#: Not a stage: the outcome of every stage except `error`.
handled = Stage("handled", "The receivers of a stage have run.")

#: Outcome of a signal: the returned values in order, the number of receivers that failed, and
#: whether a decorated handler ran. Other receivers count only if they return a value.
Outcome = tuple[list[Any], int, bool]


def emit(stage: Stage, socket: Socket, **keywords: Any) -> Outcome:
    """Send the signal of a stage; exceptions of receivers are sent as ``error``.

    The receivers are resolved before the first one runs.
    """
    values: list[Any] = []
    failures = 0
    was_handled = False
    began = time.perf_counter() if handled.receivers else None
    resolved = stage.resolve(socket, keywords.get("event"), keywords.get("channel"))
    if not resolved:
        stage.event_resolved(keywords.get("event"))
        if began is None:
            return values, failures, was_handled
    keywords["request"], keywords["socket"] = socket.request, socket
    keywords["context"] = socket.context
    for receiver, call in resolved:
        try:
            if call is None:
                value = receiver(socket, **keywords)
            else:
                was_handled = True
                value = call(socket, keywords)
            if value is not None:
                _check_has_run(value)
                values.append(value)
        except BaseException as exception:  # noqa: BLE001 - GreenletExit and Timeout too
            failures += 1
            what = f"a receiver of {stage.name!r}, {describe(receiver)},"
            if isinstance(exception, Refused):
                what += (
                    f" which is not a gate and cannot reject (use {_GATE_OF.get(stage, 'a gate')}),"
                )
            report_error(socket, exception, what)
    if began is not None:
        _send_handled(stage, socket, keywords, began, failures)
    return values, failures, was_handled


def check_gate(gate: Stage, socket: Socket, **keywords: Any) -> None:
    """Send the signal of a gate.

    Raises:
        Refused: A receiver rejected or failed; later receivers do not run.
    """
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
    resolved = gate.resolve(socket, None, keywords.get("channel"))
    keywords["request"], keywords["socket"] = socket.request, socket
    keywords["context"] = socket.context
    for receiver, call in resolved:
        try:
            value = receiver(socket, **keywords) if call is None else call(socket, keywords)
            if value is not None:
                # A coroutine, a generator or False is a failure, so that the gate rejects.
                _check_has_run(value)
                if value is False:
                    raise TypeError('a gate returned False; raise Refused("reason") to reject')
        except Refused:
            raise
        except BaseException as exception:  # noqa: BLE001 - see emit
            report_error(socket, exception, f"a receiver of {gate.name!r}, {describe(receiver)},")
            raise Refused("not allowed") from None  # no details for the client


def _send_handled(
    stage: Stage,
    socket: Socket,
    keywords: dict[str, Any],
    began: float,
    failures: int = 0,
    refused: str | None = None,
) -> None:
    """Send `handled`; exceptions of its receivers are sent as ``error``."""
    keywords["seconds"] = time.perf_counter() - began
    keywords["stage"], keywords["failures"] = stage.name, failures
    keywords["refused"] = refused
    for receiver, _ in handled.resolve(socket, None, None):
        try:
            receiver(socket, **keywords)
        except BaseException as exception:  # noqa: BLE001 - see emit
            report_error(socket, exception, f"a receiver of 'handled', {describe(receiver)},")


def send_robust(signal: Stage, sender: Any, **keywords: Any) -> None:
    """Send a signal that belongs to no socket; exceptions of receivers are logged."""
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **keywords)
        except Exception:
            logger.exception("a receiver of %r, %s, failed", signal.name, describe(receiver))


def report_error(socket: Socket, exception: BaseException, what: str | None = None) -> None:
    """Log an exception and send it as ``error``; exceptions of ``error`` receivers are only logged.

    `what` describes the failed component. None means invalid data from the client, which is logged
    without a traceback.
    """
    loggers.enable()
    if what is None:
        # Text instead of objects: stored log records would keep the connection alive.
        socket.notices.throttled(
            exception,
            f"{socket} sent invalid data: {exception}",
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
    for receiver, call in error.resolve(socket, None, None):
        try:
            if call is None:
                receiver(socket, **keywords)
            else:
                call(socket, keywords)
        except BaseException as nested:
            logger.error("a receiver of 'error', %s, failed", describe(receiver), exc_info=nested)
            _reraise_control_exception(nested)
    _reraise_control_exception(exception)


def _check_has_run(value: Any) -> None:
    if isinstance(value, NEVER_RUN):
        if hasattr(value, "close"):
            value.close()  # suppresses the warning that it never ran
        raise TypeError(
            "a receiver returned a coroutine or a generator, which is never run: gevent needs a "
            "plain function that has finished its work when it returns"
        )


def _reraise_control_exception(exception: BaseException) -> None:
    """Raise KeyboardInterrupt and SystemExit in the main greenlet, as outside of handlers."""
    if isinstance(exception, (KeyboardInterrupt, SystemExit)):
        gevent.get_hub().handle_system_error(type(exception), exception)
