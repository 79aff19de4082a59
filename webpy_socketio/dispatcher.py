"""Dispatch events of the engine as signals, independently of web.py.

An exception in a handler is sent as the stage ``error`` by `Signals.report_error`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gevent.event

from webpy_socketio.acknowledgement import Acknowledgement, AckSender
from webpy_socketio.bus.introspection import describe, is_bundled
from webpy_socketio.bus.signals import send_robust
from webpy_socketio.cluster import Cluster
from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.clock import current_clock
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.engine.socketio.connection import CONFIRMATION, Connection
from webpy_socketio.exceptions import (
    ChannelError,
    ContentError,
    ProtocolError,
    Refused,
)
from webpy_socketio.receipts import NUMBERED, read_numbered
from webpy_socketio.recoverable import Claim
from webpy_socketio.recoverable_socket import RecoverableSocket
from webpy_socketio.recovery import Recovery
from webpy_socketio.refusals import error_object, send_refusal
from webpy_socketio.registry import Limits, SocketRegistry
from webpy_socketio.socket import Socket

__all__ = ["Dispatcher"]

#: The acknowledgement after an exception in a handler; it contains no details.
FAILED = {"error": "internal error"}


class Dispatcher:
    """Creates a `Socket` for each connection of a server and sends signals for its events."""

    def __init__(self, cluster: Cluster, limits: Limits) -> None:
        self.cluster = cluster
        self._registry: SocketRegistry[Socket] = cluster.registry
        self._signals = cluster.registry.signals
        self._limits = limits
        #: The stages of reserved events that change a subscription.
        self._changes = {
            "__subscribe__": self._signals.subscribe,
            "__unsubscribe__": self._signals.unsubscribe,
        }
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

    def packet_received(self, session: Session) -> None:
        """Send the signal `packet` for a packet that does not reach a handler."""
        packet = self._signals.packet
        if packet.receivers:
            send_robust(packet, session, request=session.environ)

    def restore_context(self, socket: Socket) -> None:
        """Restore what handlers need, after the request of a socket has changed."""

    def restore(self, connection: Connection) -> RecoverableSocket:
        """Create a socket whose session is moving here, with a connection that is closed."""
        namespace = self._registry.acquire(connection.namespace)
        socket = RecoverableSocket(connection, namespace, self._limits, self)
        connection.data = socket
        self.adopt(socket)
        return socket

    def connect(self, connection: Connection) -> None:
        recovery = self._registry.recovery
        socket_class = Socket
        if recovery is not None:
            if self._resume(recovery, connection):
                return
            socket_class = RecoverableSocket
        namespace = self._registry.acquire(connection.namespace)
        socket = socket_class(connection, namespace, self._limits, self)
        connection.data = socket
        try:
            self.run_connect(socket, partial(self._accept, socket, connection))
        except Refused as refusal:
            send_refusal(socket, refusal, connection.refuse)
        except Exception as exception:  # noqa: BLE001 - the application's own code
            self._signals.report_error(socket, exception, "the application")
            connection.refuse("not allowed")
        finally:
            self.release()
            if socket not in self._open:  # not accepted: `disconnected` is not called
                connection.data = None
                self._registry.release(namespace)

    def event(self, connection: Connection, name: str, args: list[Any], ack: int | None) -> None:
        socket: Socket = connection.data
        reserved = _RESERVED.get(name)
        # The context is for receivers. A change that does not wait for Redis runs those that are
        # connected now.
        if (
            reserved is not None
            and name in self._changes
            and self._registry.backplane is None
            and self._signals.runs_nothing(self._changes[name])
        ):
            self._change_unobserved(socket, connection, name, args, ack)
            return
        self.enter_context(socket)
        try:
            if reserved is not None:
                reserved(self, socket, connection, args, ack)
            else:
                self._message(socket, connection, name, args, None, ack)
        finally:
            self.release()

    def closing(self, connection: Connection) -> None:
        socket: Socket = connection.data
        recovery = self._registry.recovery
        if recovery is None or not recovery.suspend(socket, connection):
            self._registry.remove(socket._namespace, socket)

    def disconnected(self, connection: Connection, reason: str) -> None:
        socket: Socket = connection.data
        if not socket.is_lost_with(connection):
            self.end(socket, reason)
            return
        self.enter_context(socket)
        try:
            self._signals.emit(self._signals.suspend, socket, reason=reason)
        finally:
            self.release()

    def end(self, socket: Socket, reason: str) -> None:
        """Send the last stages of a socket."""
        self.enter_context(socket)
        try:
            self._registry.emit_disconnect(socket._namespace, socket, reason)
        finally:
            self.release()
            self.release_socket(socket)
            self._registry.release(socket._namespace)
            socket.release_connection()

    def failed(self, connection: Connection, error: ProtocolError | ContentError) -> None:
        if connection.connected:
            connection.inbox.put(self._report, connection.data, error)

    def adopt(self, socket: Socket) -> None:
        """Take over a socket that a server of the same runtime has accepted."""
        self._open.add(socket)
        self._idle.clear()

    def release_socket(self, socket: Socket) -> None:
        """Leave a socket to another server of the same runtime."""
        self._open.discard(socket)
        if not self._open:
            self._idle.set()

    # -- server shutdown

    def start_adopting(self) -> None:
        """Adopt sessions of other servers that have stopped, or will stop."""
        recovery = self._registry.recovery
        if recovery is not None and recovery.moves is not None:
            recovery.moves.start_adopting(self)

    def stop_adopting(self) -> None:
        """Adopt no more sessions."""
        recovery = self._registry.recovery
        if recovery is not None and recovery.moves is not None:
            recovery.moves.stop_adopting(self)

    def end_suspended(self, timeout: float) -> None:
        """Leave suspended sockets to other servers, and end those for which it is impossible.

        Args:
            timeout: Seconds for running handlers to finish.
        """
        recovery = self._registry.recovery
        if recovery is not None and recovery.moves is not None:
            recovery.moves.settle()
            recovery.moves.hand_over(
                lambda: [socket for socket in self._open if socket.suspended], timeout
            )
        for socket in [socket for socket in self._open if socket.suspended]:
            recovery.end(socket, "server shutting down")

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

    def _resume(self, recovery: Recovery, connection: Connection) -> bool:
        """Resume the socket that a CONNECT names; return False if it gets a new connection."""
        claim = recovery.claim(connection)
        if claim is None:
            return not connection.deciding  # superseded or closed during a move
        if claim.is_answered:
            return True
        socket: RecoverableSocket = claim.socket
        socket.prepare(connection)
        try:
            self.run_connect(socket, partial(self._complete, recovery, claim))
        except Refused as refusal:
            send_refusal(socket, refusal, connection.refuse)
            recovery.refused(claim)
        except Exception as exception:  # noqa: BLE001 - the application's own code
            self._signals.report_error(socket, exception, "the application")
            connection.refuse("not allowed")
            recovery.refused(claim)
        finally:
            self.release()
        return claim.is_answered

    def _complete(self, recovery: Recovery, claim: Claim) -> None:
        socket: RecoverableSocket = claim.socket
        if not recovery.skip_gates:
            auth = claim.connection.auth
            self._signals.check_gate(self._signals.connecting, socket, auth=auth)
        missed = recovery.complete(claim)
        if missed is not None:
            socket.move_to(self)
            self._signals.emit(self._signals.resume, socket, missed=missed)

    def _accept(self, socket: Socket, connection: Connection) -> None:
        self._signals.check_gate(self._signals.connecting, socket, auth=connection.auth)
        # The client may have disconnected while the gate was waiting.
        if self._registry.add(socket._namespace, socket, socket.accept):
            self.adopt(socket)
            self._signals.emit(self._signals.connect, socket, auth=connection.auth)

    def _message(
        self,
        socket: Socket,
        connection: AckSender,
        name: str,
        args: list[Any],
        channel: str | None,
        ack: int | None,
    ) -> None:
        message = args[0] if len(args) == 1 else args or None
        answer: tuple[Any, ...]
        if self._signals.receiving.receivers and self._is_denied(
            socket, connection, ack, message=message, event=name, args=args, channel=channel
        ):
            return
        socket.answering = ack
        socket.in_message = True
        values, failures, was_handled = self._signals.emit_message(
            socket, message, name, args, channel
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
            self._signals.report_error(socket, error, self._describe_source(socket, name, channel))
            connection.acknowledge(ack, (FAILED,))

    def _subscribe(
        self, socket: Socket, connection: AckSender, args: list[Any], ack: int | None
    ) -> None:
        # Acknowledged as soon as the socket is a member: a client receives no message of a channel
        # before its subscription is confirmed.
        self._change(socket.subscribe_for_client, socket, connection, args, ack)

    def _unsubscribe(
        self, socket: Socket, connection: AckSender, args: list[Any], ack: int | None
    ) -> None:
        self._change(socket.unsubscribe_for_client, socket, connection, args, ack)

    def _change(
        self,
        change: Callable[[Any, Callable[[], None]], bool],
        socket: Socket,
        connection: AckSender,
        args: list[Any],
        ack: int | None,
    ) -> None:
        confirm = _do_nothing if ack is None else partial(connection.acknowledge, ack, CONFIRMATION)

        def fail(result: dict[str, Any]) -> None:
            if ack is not None:
                connection.acknowledge(ack, ({"ok": False, **result},))

        try:
            change(args[0] if len(args) == 1 else None, confirm)
        except Refused as refusal:
            send_refusal(socket, refusal, lambda *why: fail(error_object(*why)))
        except ChannelError as error:  # an error of the client
            fail({"error": str(error)})
            self._report(socket, error)

    def _change_unobserved(
        self, socket: Socket, connection: Connection, name: str, args: list[Any], ack: int | None
    ) -> None:
        """Change a subscription as `_change` does, while no receiver would run."""
        channel = args[0] if len(args) == 1 else None
        try:
            if name == "__subscribe__":
                socket.join_unobserved(channel)
            else:
                socket.leave_unobserved(channel)
        except ChannelError as error:  # an error of the client
            if ack is not None:
                connection.acknowledge(ack, ({"ok": False, "error": str(error)},))
            self._report(socket, error)
            return
        if ack is not None:
            connection.acknowledge(ack, CONFIRMATION)

    def _channel(
        self, socket: Socket, connection: AckSender, args: list[Any], ack: int | None
    ) -> None:
        channel = args[0] if args else None
        if isinstance(channel, str) and channel in socket.channels:
            self._message(socket, connection, "message", args[1:], channel, ack)
            return
        error = ChannelError("the client sent a message to a channel that it is not subscribed to")
        if ack is not None:
            connection.acknowledge(ack, ({"ok": False, "error": str(error)},))
        self._signals.report_error(socket, error)

    def _numbered(
        self, socket: Socket, connection: AckSender, args: list[Any], ack: int | None
    ) -> None:
        """Handle an event that the client repeats after a loss until its arrival is confirmed."""
        try:
            if not isinstance(socket, RecoverableSocket):
                raise ContentError(
                    "the client numbers its messages, but SOCKETIO_RECOVERY_TIME is 0: number them "
                    'only if the answer to the CONNECT contains "received"; the message was dropped'
                )
            number, name, arguments = read_numbered(args)
            if name is None and number > socket.received:
                raise ContentError(
                    f"the client requested the answer to message {number}, which has not arrived"
                )
        except ContentError as error:
            if ack is not None:
                connection.acknowledge(ack, ({"error": str(error)},))
            self._signals.report_error(socket, error)
            return
        receipts = socket.create_receipts()
        if name is None or number <= socket.received:
            if socket.connection.session.count():  # may close the session
                receipts.repeat(ack)
            return
        receipts.begin(number, ack)
        try:
            handle = _RESERVED.get(name)
            if handle is None:
                self._message(socket, receipts, name, arguments, None, ack)
            else:
                handle(self, socket, receipts, arguments, ack)
        finally:
            receipts.finish(ack)

    def _report(self, socket: Socket, error: Exception) -> None:
        self.enter_context(socket)
        try:
            self._signals.report_error(socket, error)
        finally:
            self.release()

    def _is_denied(
        self, socket: Socket, connection: AckSender, ack: int | None, **keywords: Any
    ) -> bool:
        """Run the `receiving` gate and return whether it rejected the message.

        A rejection is sent as acknowledgement, if the client requested one.
        """
        try:
            self._signals.check_gate(self._signals.receiving, socket, **keywords)
        except Refused as refusal:
            if ack is not None:
                send_refusal(
                    socket,
                    refusal,
                    lambda *why: connection.acknowledge(ack, (error_object(*why),)),
                )
            return True
        # The server may have closed the connection while the gate was waiting.
        return connection.kicked

    def _describe_source(self, socket: Socket, name: str, channel: str | None) -> str:
        """Describe an acknowledgement that cannot be encoded, and the handlers returning it."""
        resolved = self._signals.message.resolve(socket, name, channel)
        names = [describe(receiver) for receiver, _, _ in resolved if not is_bundled(receiver)]
        return f"encoding the acknowledgement returned by {' or '.join(names)}"


def _do_nothing() -> None:
    pass


_RESERVED = {
    "__subscribe__": Dispatcher._subscribe,
    "__unsubscribe__": Dispatcher._unsubscribe,
    "__channel__": Dispatcher._channel,
    NUMBERED: Dispatcher._numbered,
}
