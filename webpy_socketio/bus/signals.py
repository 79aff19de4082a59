"""The signals of a runtime, and how they are sent to receivers."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

import gevent

from webpy_socketio import loggers
from webpy_socketio.bus.introspection import NEVER_RUN, describe
from webpy_socketio.bus.receivers import Sender
from webpy_socketio.bus.stages import MessageStage, Stage, message_keywords
from webpy_socketio.exceptions import Refused

__all__ = ["SignalSender", "Signals", "collect_robust", "send_robust"]

logger = logging.getLogger("webpy_socketio")

#: Outcome of a stage: the returned values in order, the number of receivers that failed, and
#: whether a decorated handler ran. Other receivers count only if they return a value.
Outcome = tuple[list[Any], int, bool]

_COMMON_KEYWORDS = ("request", "socket", "context", "namespace")


class ThrottledLogger(Protocol):
    """The part of the throttled log that signals use."""

    def throttled(
        self, kind: str | BaseException, text: str, level: int = ..., log: logging.Logger = ...
    ) -> None:
        """Log `text`, unless a text of the same kind was logged shortly before."""


class SignalSender(Sender, Protocol):
    """The sender of a stage: a socket."""

    request: dict[str, Any]
    context: dict[str, Any]

    @property
    def notices(self) -> ThrottledLogger:
        """Throttled log of invalid data from clients."""


class Signals:
    """The signals of one runtime, as attributes; `webpy_socketio.signals` documents each.

    Attributes:
        stages: All stages, in the order of a connection's life.
        gates: The stages that can reject; their receivers run before the change or the handlers.
    """

    def __init__(self) -> None:
        common = _COMMON_KEYWORDS
        message_keywords = (*common, "message", "event", "args", "channel")
        self.connecting = Stage(
            "connecting",
            "Gate: raise `Refused` to reject a connection.",
            *(*common, "auth"),
            is_gate=True,
        )
        self.connect = Stage("connect", "A connection was established.", *common, "auth")
        self.receiving = Stage(
            "receiving",
            "Gate: raise `Refused` to reject a message before its handlers run.",
            *message_keywords,
            is_gate=True,
        )
        self.message = MessageStage(
            "message", "The client sent a message or a custom event.", *message_keywords
        )
        self.subscribing = Stage(
            "subscribing",
            "Gate: raise `Refused` to reject a subscription to a channel.",
            *(*common, "channel", "by_client"),
            is_gate=True,
        )
        self.subscribe = Stage(
            "subscribe", "A socket has subscribed to a channel.", *common, "channel"
        )
        self.unsubscribe = Stage(
            "unsubscribe", "A socket has left a channel.", *common, "channel", "reason"
        )
        self.error = Stage(
            "error",
            "A receiver raised, or the client sent invalid data.",
            *(*common, "exception", "by_client"),
        )
        self.suspend = Stage("suspend", "A connection was lost and may resume.", *common, "reason")
        self.resume = Stage("resume", "A suspended connection has resumed.", *common, "missed")
        self.disconnect = Stage("disconnect", "A connection has closed.", *common, "reason")
        self.finish = Stage("finish", "The last stage of a connection.", *common, "reason")
        #: Not a stage: the outcome of every stage except `error`.
        self.handled = Stage("handled", "The receivers of a stage have run.")
        #: Not a stage: an event that is sent to clients of this process.
        self.sent = Stage("sent", "An event is sent to sockets of this process.")
        #: Not a stage: a message that is about to be sent to channels.
        self.published = Stage(
            "published", "A message is about to be sent to channels.", "publication"
        )
        #: Not a stage: a packet that does not reach a handler.
        self.packet = Stage("packet", "A packet of a client that does not reach a handler.")
        #: Not a stage: messages of other processes did not arrive here.
        self.gap = Stage(
            "gap",
            "Messages of other processes are or may be missing.",
            *("node", "missed", "topic"),
        )
        #: Not a stage: a suspended socket that another server takes over.
        self.release = Stage(
            "release", "A socket moves to another server.", "socket", "state", "remaining"
        )
        #: Not a stage: a suspended socket that was taken over from another server.
        self.adopt = Stage("adopt", "A socket has moved here.", "socket", "state")
        #: Not a stage: an event of another server.
        self.cluster_event = Stage(
            "cluster_event",
            "Another server has sent an event.",
            *("event", "args", "node"),
        )
        self.stages = (
            *(self.connecting, self.connect, self.receiving, self.message, self.subscribing),
            *(self.subscribe, self.unsubscribe, self.error, self.suspend, self.resume),
            *(self.disconnect, self.finish),
        )
        self.gates = tuple(stage for stage in self.stages if stage.is_gate)
        self._gate_of = {
            self.connect: "on_connecting",
            self.message: "on_receiving",
            self.subscribe: "on_subscribing",
        }

    def clear(self) -> None:
        """Disconnect all receivers."""
        others = (self.handled, self.sent, self.published, self.packet, self.gap)
        of_servers = (self.cluster_event, self.release, self.adopt)
        for signal in (*self.stages, *others, *of_servers):
            signal._clear_state()

    def emit(self, stage: Stage, socket: SignalSender, **keywords: Any) -> Outcome:
        """Send the signal of a stage; exceptions of receivers are sent as ``error``.

        The receivers are resolved before the first one runs.
        """
        if stage is self.message:
            return self.emit_message(socket, **keywords)
        values: list[Any] = []
        failures = 0
        was_handled = False
        began = time.perf_counter() if self.handled.receivers else None
        if began is None and not stage.receivers:
            return values, failures, was_handled
        resolved = stage.resolve(socket, None, keywords.get("channel"))
        if not resolved and began is None:
            return values, failures, was_handled
        keywords["request"], keywords["socket"] = socket.request, socket
        keywords["context"], keywords["namespace"] = socket.context, socket.namespace
        for receiver, call, is_handler in resolved:
            try:
                if is_handler:
                    was_handled = True
                value = receiver(socket, **keywords) if call is None else call(socket, keywords)
                if value is not None:
                    _check_has_run(value)
                    values.append(value)
            except BaseException as exception:  # noqa: BLE001 - GreenletExit and Timeout too
                failures += 1
                self._report_failure(stage, receiver, socket, exception)
        if began is not None:
            self._send_handled(stage, socket, keywords, began, failures)
        return values, failures, was_handled

    def emit_message(
        self, socket: SignalSender, message: Any, event: str, args: list[Any], channel: str | None
    ) -> Outcome:
        """Send the signal `message` as `emit` does, with keywords only for receivers with some."""
        stage = self.message
        values: list[Any] = []
        failures = 0
        was_handled = False
        began = time.perf_counter() if self.handled.receivers else None
        resolved = stage.resolve(socket, event, channel)
        if not resolved:
            stage.event_resolved(event)
        keywords: dict[str, Any] | None = None
        for receiver, call, is_handler in resolved:
            try:
                if is_handler:
                    was_handled = True
                if call is not None:
                    value = call(socket, message, event, args, channel)
                else:
                    if keywords is None:
                        keywords = message_keywords(socket, message, event, args, channel)
                    value = receiver(socket, **keywords)
                if value is not None:
                    _check_has_run(value)
                    values.append(value)
            except BaseException as exception:  # noqa: BLE001 - see emit
                failures += 1
                self._report_failure(stage, receiver, socket, exception)
        if began is not None:
            keywords = keywords or message_keywords(socket, message, event, args, channel)
            self._send_handled(stage, socket, keywords, began, failures)
        return values, failures, was_handled

    def _report_failure(
        self, stage: Stage, receiver: Any, socket: SignalSender, exception: BaseException
    ) -> None:
        """Report an exception of a receiver of a stage that is not a gate."""
        what = f"a receiver of {stage.name!r}, {describe(receiver)},"
        if isinstance(exception, Refused):
            gate = self._gate_of.get(stage, "a gate")
            what += f" which is not a gate and cannot reject (use {gate}),"
        self.report_error(socket, exception, what)

    def is_observed(self, stage: Stage) -> bool:
        """Return whether anything may run when a stage is sent."""
        return bool(stage.receivers or self.handled.receivers)

    def runs_nothing(self, change: Stage) -> bool:
        """Return whether a subscription or its end, sent as `change`, would run no receiver now."""
        return not (self.subscribing.receivers or self.handled.receivers) and change.is_idle()

    def check_gate(self, gate: Stage, socket: SignalSender, **keywords: Any) -> None:
        """Send the signal of a gate.

        Raises:
            Refused: A receiver rejected or failed; later receivers do not run.
        """
        if not self.handled.receivers:
            self._run_gate(gate, socket, keywords)
            return
        began = time.perf_counter()
        try:
            self._run_gate(gate, socket, keywords)
        except Refused as refusal:
            self._send_handled(gate, socket, keywords, began, refused=str(refusal) or "refused")
            raise
        self._send_handled(gate, socket, keywords, began)

    def _run_gate(self, gate: Stage, socket: SignalSender, keywords: dict[str, Any]) -> None:
        resolved = gate.resolve(socket, None, keywords.get("channel"))
        keywords["request"], keywords["socket"] = socket.request, socket
        keywords["context"], keywords["namespace"] = socket.context, socket.namespace
        for receiver, call, _ in resolved:
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
                self.report_error(
                    socket, exception, f"a receiver of {gate.name!r}, {describe(receiver)},"
                )
                raise Refused("not allowed") from None  # no details for the client

    def _send_handled(
        self,
        stage: Stage,
        socket: SignalSender,
        keywords: dict[str, Any],
        began: float,
        failures: int = 0,
        refused: str | None = None,
    ) -> None:
        """Send `handled`; exceptions of its receivers are sent as ``error``."""
        keywords["seconds"] = time.perf_counter() - began
        keywords["stage"], keywords["failures"] = stage.name, failures
        keywords["refused"] = refused
        for receiver, call, _ in self.handled.resolve(socket, None, None):
            try:
                if call is None:
                    receiver(socket, **keywords)
                else:
                    call(socket, keywords)
            except BaseException as exception:  # noqa: BLE001 - see emit
                self.report_error(
                    socket, exception, f"a receiver of 'handled', {describe(receiver)},"
                )

    def report_error(
        self, socket: SignalSender, exception: BaseException, what: str | None = None
    ) -> None:
        """Log an exception and send it as ``error``.

        Exceptions of ``error`` receivers are only logged. `what` describes the failed component.
        None means invalid data from the client, which is logged without a traceback.
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
            "namespace": socket.namespace,
            "exception": exception,
            "by_client": what is None,
        }
        for receiver, call, _ in self.error.resolve(socket, None, None):
            try:
                if call is None:
                    receiver(socket, **keywords)
                else:
                    call(socket, keywords)
            except BaseException as nested:
                logger.error(
                    "a receiver of 'error', %s, failed", describe(receiver), exc_info=nested
                )
                _reraise_control_exception(nested)
        _reraise_control_exception(exception)


def send_robust(signal: Stage, sender: Any, **keywords: Any) -> None:
    """Send a signal that belongs to no socket; exceptions of receivers are logged."""
    for receiver in signal.receivers_for(sender):
        try:
            if signal.is_enabled(receiver):
                receiver(sender, **keywords)
        except Exception:
            logger.exception("a receiver of %r, %s, failed", signal.name, describe(receiver))


def collect_robust(signal: Stage, sender: Any, **keywords: Any) -> tuple[list[Any], int]:
    """Send a signal that belongs to no socket, and return its values and number of failures.

    Exceptions of receivers are logged.
    """
    values: list[Any] = []
    failures = 0
    for receiver in signal.receivers_for(sender):
        try:
            value = receiver(sender, **keywords) if signal.is_enabled(receiver) else None
            if value is not None:
                _check_has_run(value)
                values.append(value)
        except BaseException as exception:
            failures += 1
            logger.exception("a receiver of %r, %s, failed", signal.name, describe(receiver))
            _reraise_control_exception(exception)
    return values, failures


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
