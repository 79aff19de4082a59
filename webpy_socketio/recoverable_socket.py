"""A socket whose client may resume its connection after a loss."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from webpy_socketio.acknowledgement import AckSender
from webpy_socketio.arguments import check_close, check_seconds
from webpy_socketio.carried_messages import Carried
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.connection import AckReceiver, Connection
from webpy_socketio.exceptions import Disconnected
from webpy_socketio.memberships import Memberships
from webpy_socketio.receipts import Receipts
from webpy_socketio.recoverable import Claim
from webpy_socketio.registry import Limits, Namespace
from webpy_socketio.session_transfer import TransferredSession
from webpy_socketio.socket import Host, Socket

__all__ = ["RecoverableSocket"]


class RecoverableSocket(Socket):
    """The class of all sockets with ``SOCKETIO_RECOVERY_TIME``; internal."""

    __slots__ = (
        *("accepted_at", "carried", "claim", "ending", "excluded", "is_suspended", "lost"),
        *("memberships", "pid", "position", "receipts", "received"),
    )

    def __init__(
        self, connection: Connection, namespace: Namespace[Socket], limits: Limits, host: Host
    ) -> None:
        super().__init__(connection, namespace, limits, host)
        self.pid = self._registry.recovery.new_pid()
        self.position = self.accepted_at = 0
        self.memberships = Memberships()
        self.lost: Connection | None = None
        self.claim: Claim | None = None
        self.is_suspended = False
        self.ending: str | None = None
        self.received = 0
        #: Created with the first numbered message of the client.
        self.receipts: Receipts | None = None
        self.carried: Carried | None = None
        self.excluded: Collection[int] = ()

    @property
    def suspended(self) -> bool:
        return self.is_suspended

    @property
    def connection(self) -> Connection:
        """The current connection, or the last one."""
        return self._connection

    @property
    def ack_sender(self) -> AckSender:
        receipts = self.receipts
        return receipts if receipts is not None and receipts.is_answering else self._connection

    @property
    def _is_open(self) -> bool:
        return self.is_suspended or self._connection.connected

    # -- send to this client

    def emit(self, event: str, *args: Any) -> None:
        self._registry.call_soon(self._send_numbered, self._encode(event, args))

    def call(self, event: str, *args: Any, timeout: float = 10.0) -> Any:
        if self.is_suspended:
            check_seconds("call", timeout)
            self._encode(event, args)  # raises EncodeError
            raise Disconnected("the client has lost its connection and has not resumed it yet")
        return super().call(event, *args, timeout=timeout)

    def disconnect(self, close: bool = False) -> None:
        self._registry.call_soon(self._disconnect, check_close(close))

    def _send_numbered(self, message: Message) -> None:
        if self._is_open:
            self._namespace.deliver_to(self, message)
        else:
            self._connection.check_begun()

    def _send_volatile(self, message: Message) -> None:
        if not self.is_suspended:
            numbered = self._registry.recovery.number_volatile(self.namespace, message)
            super()._send_volatile(numbered)

    def _disconnect(self, close: bool) -> None:
        if self.is_suspended:
            self._registry.recovery.end(self, "server namespace disconnect")
        else:
            self._connection.disconnect(close)

    def expect_acknowledgement(self, number: int, receiver: AckReceiver) -> None:
        if self.is_suspended:
            receiver.set_exception(Disconnected("the client has lost its connection"))
        else:
            super().expect_acknowledgement(number, receiver)

    # -- for recovery and the dispatcher

    def is_in_feed(self, name: str) -> bool:
        """Return whether a plugin sends the messages of a channel to the socket; see `Feed`."""
        return self in self._namespace.feeds.get(name, ())

    def accept(self) -> bool:
        if not self._connection.accept(self.pid, self.received):
            return False
        self._registry.recovery.add(self)
        return True

    def is_lost_with(self, connection: Connection) -> bool:
        return self.lost is connection

    def prepare(self, connection: Connection) -> None:
        """Make the handshake of a new connection that of the socket, for the gate."""
        self.request = connection.session.environ
        self._connection.auth = connection.auth

    def use(self, connection: Connection) -> None:
        """Make an accepted connection the current one."""
        self._connection = connection
        self.lost = None  # its last job has run: the old session can be freed
        self.outbox = connection.session.outbox
        self._namespace.channels.replace_value(self, self.outbox)
        if self.receipts is not None:
            self.receipts.resumed()

    def move_to(self, host: Host) -> None:
        """Make `host` the dispatcher of the socket."""
        if host is not self._host:
            host.adopt(self)
            self._host.release_socket(self)
            self._host = host

    def create_receipts(self) -> Receipts:
        """Return the receipts of a client that numbers its messages."""
        if self.receipts is None:
            self.receipts = Receipts(self, self._registry.recovery.clock)
        return self.receipts

    def answers_to_json(self) -> list[Any]:
        """Return recent answers to numbered messages, for another server."""
        return [] if self.receipts is None else self.receipts.to_json()

    def close_receipts(self) -> None:
        """Discard the answers to numbered messages, because the client is gone."""
        if self.receipts is not None:
            self.receipts.close()

    # -- for moves between servers

    @property
    def is_busy(self) -> bool:
        """Whether handlers are running or queued."""
        return self._connection.inbox.busy

    def arrive(self, channels: Iterable[str]) -> None:
        """Become a recipient of messages, as a suspended socket; the topics are subscribed."""
        namespace, last = self._namespace, self._registry.recovery.log.last
        self._registry.insert(namespace, self)
        for channel in channels:
            namespace.channels.add(self, channel, self.outbox)
            self.memberships.join(channel, last)
        self.position = self.accepted_at = last
        self.is_suspended = True

    def restore(self, session: TransferredSession, offered: Iterable[str]) -> None:
        """Restore the state of a session that has moved here.

        Args:
            session: Its state.
            offered: Its channels at the beginning of the move. Others that the socket holds were
                added here meanwhile, for all servers, and remain.
        """
        connection = self._connection
        self.request = session.environ
        connection.session.environ = session.environ
        connection.auth, connection.reason = session.auth, session.reason
        self.context = session.context
        self.received = session.received
        if session.answers:
            self.create_receipts().restore(session.answers)
        self.carried = session.carried or None
        for channel in set(offered).difference(session.channels).intersection(self.channels):
            self._namespace.leave(self, channel)

    def depart(self) -> None:
        """Stop to be a recipient of messages; no stage is sent."""
        self._registry.remove(self._namespace, self)
        self.is_suspended = False

    def forget(self) -> None:
        """Release what belongs to the socket after it has departed."""
        self._namespace.channels.forget_member(self)
        self._host.release_socket(self)
        self._registry.release(self._namespace)

    def end(self, reason: str) -> None:
        """Remove the socket, and queue its last stages."""
        self._registry.remove(self._namespace, self)
        self._connection.inbox.put(self._host.end, self, reason)
