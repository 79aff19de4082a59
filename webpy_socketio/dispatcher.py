"""Dispatch events of the engine as signals, independently of web.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gevent.event

from webpy_socketio import signals
from webpy_socketio.acknowledgement import Acknowledgement
from webpy_socketio.bus.introspection import describe, is_bundled
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

#: The acknowledgement after an exception in a handler; it contains no details.
FAILED = {"error": "internal error"}

_receiving = signals.receiving


def packet_received(session: Session) -> None:
    """Send the signal `packet` for a packet that does not reach a handler."""
    if signals.packet.receivers:
        signals.send_robust(signals.packet, session, request=session.environ)


class Dispatcher:
    """Creates a `Socket` for each connection of a server and sends signals for its events."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: Throttled log of invalid data from clients.
        self.notices = ThrottledLog(current_clock())
        self._open: set[Socket] = set()
        self._idle = gevent.event.Event()
        self._idle.set()

    # -- hooks for the web framework

    def run_connect(self, socket: Socket, connect: Callable[[], None]) -> None:
        """Call `connect`, which accepts or rejects `socket`, and raise what it raises."""
        connect()

    def enter_context(self, socket: Socket) -> None:
        """Prepare the greenlet for a handler of `socket`."""

    def release(self) -> None:
        """Release the resources that handlers left in the greenlet."""

    def run_in_context(self, socket: Socket, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function`, which runs handlers of `socket`, from any greenlet."""
        return function(*args)

    # -- the engine's application

    def connect(self, connection: Connection) -> None:
        socket = Socket(connection, registry.namespace(connection.namespace), self._limits, self)
        connection.data = socket
        try:
            self.run_connect(socket, partial(self._accept, socket, connection))
        except Refused as refusal:
            _send_refusal(socket, refusal, connection.refuse)
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

    # -- server shutdown

    def wait(self, timeout: float) -> bool:
        """Wait until `finish` was sent for all sockets; return False after `timeout` seconds."""
        return bool(self._idle.wait(timeout))

    def handling(self) -> bool:
        """Return whether the current greenlet is running a handler."""
        return any(socket.handling for socket in self._open)

    def interrupt(self) -> int:
        """Raise GreenletExit in all running handlers; return the number of open sockets."""
        for socket in self._open:
            socket.interrupt()
        return len(self._open)

    # -- implementation

    def _accept(self, socket: Socket, connection: Connection) -> None:
        signals.check_gate(signals.connecting, socket, auth=connection.auth)
        # The client may have disconnected while the gate was waiting.
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
        values, failures, was_handled = signals.emit(
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
        elif values or was_handled:
            value = values[0] if values else ()
            answer = value if isinstance(value, tuple) else (value,)
        else:  # no handler: as on Node, the client gets no answer, and its timeout fires
            return
        try:
            connection.acknowledge(ack, answer)
        except Exception as error:  # noqa: BLE001 - encoding may raise anything
            signals.report_error(socket, error, _describe_source(socket, name, channel))
            connection.acknowledge(ack, (FAILED,))

    def _subscribe(
        self, socket: Socket, connection: Connection, args: list[Any], ack: int | None
    ) -> None:
        # Acknowledged as soon as the socket is a member, before any message of the channel: a
        # client receives no message of a channel before its subscription is confirmed.
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
            _send_refusal(
                connection.data, refusal, lambda reason: answer({"ok": False, "error": reason})
            )
        except ChannelError as error:  # an error of the client
            answer({"ok": False, "error": str(error)})
            signals.report_error(connection.data, error)

    def _channel(
        self, socket: Socket, connection: Connection, args: list[Any], ack: int | None
    ) -> None:
        channel = args[0] if args else None
        if isinstance(channel, str) and channel in socket.channels:
            self._message(socket, connection, "message", args[1:], channel, ack)
            return
        error = ChannelError("the client sent a message to a channel that it is not subscribed to")
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
    """Run the `receiving` gate and return whether it rejected the message.

    A rejection is sent as acknowledgement, if the client requested one.
    """
    try:
        signals.check_gate(_receiving, socket, **keywords)
    except Refused as refusal:
        if ack is not None:
            _send_refusal(
                socket, refusal, lambda reason: connection.acknowledge(ack, ({"error": reason},))
            )
        return True
    # The server may have closed the connection while the gate was waiting.
    return connection.kicked


def _send_refusal(socket: Socket, refusal: Refused, send_reason: Callable[[str], None]) -> None:
    """Send the reason of a rejection, or a generic one if the reason cannot be encoded."""
    try:
        send_reason(str(refusal) or "refused")
    except Exception as error:  # noqa: BLE001 - str() of it may raise anything
        encode_error = EncodeError(
            'the text of a Refused cannot be sent to the client, which receives "refused": '
            f"{error}; the traceback above shows where it was raised: use a short text"
        )
        encode_error.__cause__ = refusal  # its traceback shows the raising line
        signals.report_error(socket, encode_error, "sending a refusal")
        send_reason("refused")


def _describe_source(socket: Socket, name: str, channel: str | None) -> str:
    """Describe an acknowledgement that cannot be encoded, with the handlers that returned it."""
    resolved = signals.message.resolve(socket, name, channel)
    names = [describe(receiver) for receiver, _ in resolved if not is_bundled(receiver)]
    return f"encoding the acknowledgement returned by {' or '.join(names)}"


_RESERVED = {
    "__subscribe__": Dispatcher._subscribe,
    "__unsubscribe__": Dispatcher._unsubscribe,
    "__channel__": Dispatcher._channel,
}
