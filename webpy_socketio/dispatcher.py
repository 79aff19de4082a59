"""What a client does becomes signals: the engine's application, without web.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gevent.event

from webpy_socketio import signals
from webpy_socketio.acknowledgement import Acknowledgement
from webpy_socketio.bus.introspection import described, is_ours
from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.clock import current_clock
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.engine.socketio.connection import Connection
from webpy_socketio.exceptions import (
    ChannelError,
    ContentError,
    EncodeError,
    ProtocolError,
    Refused,
)
from webpy_socketio.registry import Limits, registry
from webpy_socketio.socket import Socket

__all__ = ["Dispatcher", "packet_received"]

#: What a client is told when its handler failed: that it did, not how.
FAILED = {"error": "internal error"}

_receiving = signals.receiving


def packet_received(session: Session) -> None:
    """Send the signal `packet`, for one that reaches no handler."""
    if signals.packet.receivers:
        signals.send_robust(signals.packet, session, request=session.environ)


class Dispatcher:
    """Turns the connections of one server into sockets, and their events into signals."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: What is logged of clients that break a rule.
        self.notices = ThrottledLog(current_clock())
        self._open: set[Socket] = set()
        self._idle = gevent.event.Event()
        self._idle.set()

    # -- to be refined by whoever knows the web framework

    def admit(self, socket: Socket, job: Callable[[], None]) -> None:
        """Run `job`, which lets `socket` in; raises what it raises."""
        job()

    def enter_context(self, socket: Socket) -> None:
        """Get the greenlet ready for a handler of `socket`."""

    def release(self) -> None:
        """Release what handlers left in the greenlet."""

    def run_in_context(self, socket: Socket, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function`, which runs handlers of `socket`, in whichever greenlet this is."""
        return function(*args)

    # -- the engine's application

    def connect(self, connection: Connection) -> None:
        socket = Socket(connection, registry.namespace(connection.namespace), self._limits, self)
        connection.data = socket
        try:
            self.admit(socket, partial(self._accept, socket, connection))
        except Refused as refusal:
            _deny(socket, refusal, connection.refuse)
        except Exception as exception:  # noqa: BLE001 - the application's own code
            signals.report_error(socket, exception, "the application")
            connection.refuse("not allowed")
        finally:
            self.release()

    def event(self, connection: Connection, name: str, args: list[Any], ack: int | None) -> None:
        socket: Socket = connection.data
        self.enter_context(socket)
        try:
            reserved = _RESERVED.get(name)
            if reserved is not None:
                reserved(self, socket, connection, args, ack)
            else:
                self._message(socket, connection, name, args, None, ack)
        finally:
            self.release()

    def closing(self, connection: Connection) -> None:
        registry.remove(connection.data)

    def disconnected(self, connection: Connection, reason: str) -> None:
        socket: Socket = connection.data
        self.enter_context(socket)
        try:
            registry.emit_disconnect(socket, reason)
        finally:
            self.release()
            self._open.discard(socket)
            if not self._open:
                self._idle.set()

    def failed(self, connection: Connection, error: ProtocolError | ContentError) -> None:
        if connection.connected:
            connection.inbox.put(self._report, connection.data, error)

    # -- the end of the server

    def wait(self, timeout: float) -> bool:
        """Wait until every connection's end is told; False if some are not after `timeout`."""
        return bool(self._idle.wait(timeout))

    def handling(self) -> bool:
        """Whether this greenlet is the one of a handler."""
        return any(socket.handling for socket in self._open)

    def interrupt(self) -> int:
        """Raise GreenletExit in every handler that still runs; returns how many connections wait."""
        for socket in self._open:
            socket.interrupt()
        return len(self._open)

    # -- how

    def _accept(self, socket: Socket, connection: Connection) -> None:
        signals.check_gate(signals.connecting, socket, auth=connection.auth)
        # It may have gone while the gate made up its mind.
        if registry.add(socket, connection.accept):
            self._open.add(socket)
            self._idle.clear()
            signals.emit(signals.connect, socket, auth=connection.auth)

    def _message(
        self,
        socket: Socket,
        connection: Connection,
        name: str,
        args: list[Any],
        channel: str | None,
        ack: int | None,
    ) -> None:
        message = args[0] if len(args) == 1 else args or None
        answer: tuple[Any, ...]
        if _receiving.receivers and _is_denied(
            socket, connection, ack, message=message, event=name, args=args, channel=channel
        ):
            return
        socket.answering = ack
        socket.in_message = True
        values, failures, taken = signals.emit(
            signals.message, socket, message=message, event=name, args=args, channel=channel
        )
        socket.in_message = False
        answering = socket.answering
        if isinstance(answering, Acknowledgement):
            socket.answering = None
            if failures:
                answering.fail(FAILED)
            return
        if ack is None:
            return
        if failures:
            answer = (FAILED,)
        elif values or taken:
            value = values[0] if values else ()
            answer = value if isinstance(value, tuple) else (value,)
        else:  # no handler: as on Node, the client gets no answer, and its timeout fires
            return
        try:
            connection.acknowledge(ack, answer)
        except Exception as error:  # noqa: BLE001 - a handler returned what cannot be sent, or looked at
            signals.report_error(socket, error, _whose(socket, name, channel))
            connection.acknowledge(ack, (FAILED,))

    def _subscribe(
        self, socket: Socket, connection: Connection, args: list[Any], ack: int | None
    ) -> None:
        # Acknowledged at the moment membership begins, ahead of anything that is sent because of
        # it: a client never hears from a channel that it does not know to be in.
        self._change(socket.subscribe_for_client, connection, args, ack)

    def _unsubscribe(
        self, socket: Socket, connection: Connection, args: list[Any], ack: int | None
    ) -> None:
        self._change(socket.unsubscribe_for_client, connection, args, ack)

    def _change(
        self,
        change: Callable[[Any, Callable[[], None]], bool],
        connection: Connection,
        args: list[Any],
        ack: int | None,
    ) -> None:
        def answer(result: dict[str, Any]) -> None:
            if ack is not None:
                connection.acknowledge(ack, (result,))

        try:
            change(args[0] if len(args) == 1 else None, partial(answer, {"ok": True}))
        except Refused as refusal:
            _deny(connection.data, refusal, lambda words: answer({"ok": False, "error": words}))
        except ChannelError as error:  # a rule that the client could have known
            answer({"ok": False, "error": str(error)})
            signals.report_error(connection.data, error)

    def _channel(
        self, socket: Socket, connection: Connection, args: list[Any], ack: int | None
    ) -> None:
        channel = args[0] if args else None
        if isinstance(channel, str) and channel in socket.channels:
            self._message(socket, connection, "message", args[1:], channel, ack)
            return
        error = ChannelError("a message to a channel that the socket is not subscribed to")
        if ack is not None:
            connection.acknowledge(ack, ({"ok": False, "error": str(error)},))
        signals.report_error(socket, error)

    def _report(self, socket: Socket, error: ProtocolError | ContentError) -> None:
        self.enter_context(socket)
        try:
            signals.report_error(socket, error)
        finally:
            self.release()


def _is_denied(socket: Socket, connection: Connection, ack: int | None, **keywords: Any) -> bool:
    """Ask whether the handlers of a message may run; if not, whoever wants an answer is told why."""
    try:
        signals.check_gate(_receiving, socket, **keywords)
    except Refused as refusal:
        if ack is not None:
            _deny(socket, refusal, lambda words: connection.acknowledge(ack, ({"error": words},)))
        return True
    # A gate that waited may have outlived the connection, if it was the server who ended it.
    return connection.kicked


def _deny(socket: Socket, refusal: Refused, tell: Callable[[str], None]) -> None:
    """Tell a client why it is refused, or at least that it is, if a gate's words cannot be sent."""
    try:
        tell(str(refusal) or "refused")
    except Exception as error:  # noqa: BLE001 - it may be text that cannot be made
        unsaid = EncodeError(
            f"the words of a Refused cannot be sent, so the client is told none: {error}; see above who "
            "raised it, and let it have a short text"
        )
        unsaid.__cause__ = refusal  # with the line that raised it
        signals.report_error(socket, unsaid, "a refusal")
        tell("refused")


def _whose(socket: Socket, name: str, channel: str | None) -> str:
    """What failed, when an answer cannot be sent: with those who may have returned it."""
    chosen = signals.message.resolve(socket, name, channel)
    names = [described(receiver) for receiver, _ in chosen if not is_ours(receiver)]
    return f"an acknowledgement, as {' or '.join(names)} returned it,"


_RESERVED = {
    "__subscribe__": Dispatcher._subscribe,
    "__unsubscribe__": Dispatcher._unsubscribe,
    "__channel__": Dispatcher._channel,
}
