"""Recovery: suspended sockets, the secrets that resume them, and the messages they missed."""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import gevent.event

from webpy_socketio.backplane.envelope import Envelope, Mark
from webpy_socketio.backplane.sequence import MAX_GROUPS
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.carried_messages import Carried
from webpy_socketio.config.settings import Settings
from webpy_socketio.engine.io.clock import Clock, current_clock
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.io.timeouts import TimeoutQueue
from webpy_socketio.engine.socketio.connection import Connection
from webpy_socketio.engine.socketio.parser import get_parser, read_event
from webpy_socketio.late_copies import LateCopies
from webpy_socketio.message_cut import MessageCut
from webpy_socketio.message_log import MessageLog
from webpy_socketio.missed_messages import MissedMessages
from webpy_socketio.recoverable import UNKNOWN_OFFSET, Claim, Moves, Recoverable
from webpy_socketio.recoverable_namespace import RecoverableNamespace
from webpy_socketio.registry import Namespace, SocketRegistry
from webpy_socketio.suspensions import Suspensions
from webpy_socketio.topic_cut import Note, TopicCut, note_of

__all__ = ["OFFSET_BYTES", "Recovery", "disable", "enable", "settings_of_recovery"]

logger = logging.getLogger("webpy_socketio")

#: Reasons of an end that may be the loss of a connection. The others are ended by the server, or by
#: an error of the client.
_LOSSES = frozenset(("transport close", "transport error", "ping timeout"))

#: With a backplane, clients may resume on another server.
_LOSSES_OF_CLUSTER = _LOSSES | {"server shutting down"}

#: Key of the secret, and of the offset, in the auth payload of a CONNECT.
_PID, _OFFSET = "pid", "offset"

#: Maximum bytes by which a message grows when it is numbered.
OFFSET_BYTES = 64


class Recovery:
    """Connection state recovery of one runtime; for the hub's thread only.

    Args:
        settings: Settings of the servers.
    """

    def __init__(self, settings: Settings) -> None:
        self.skip_gates = settings.recovery_skip_gates
        # A loss is detected within a ping interval and a timeout. The client's last pong may be
        # older by another timeout.
        detection = settings.ping_interval + 2 * settings.ping_timeout
        self._clock = current_clock()
        self._parser = get_parser(settings.parser)
        #: Identifies the numbers of this log in offsets.
        self.epoch = secrets.token_urlsafe(6)
        self.log = MessageLog(
            self.epoch,
            detection + settings.recovery_time,
            settings.recovery_messages,
            settings.recovery_bytes,
            # A call in C: it takes place for each message.
            time.monotonic if type(self._clock) is Clock else self._clock.now,
            self._parser,
        )
        self.missed = MissedMessages(self.log, self.epoch)
        #: All recoverable sockets, by pid.
        self._sockets: dict[str, Recoverable] = {}
        self.suspensions = Suspensions[Recoverable](
            self._clock, settings, lambda socket: self.end(socket)
        )
        #: Connected sockets whose carried messages are confirmed by staying connected.
        self._unconfirmed = TimeoutQueue[Recoverable](self._clock, detection, self._confirm)
        #: Cuts of the sessions that are moving here.
        self.cuts: list[MessageCut | TopicCut] = []
        #: The last broadcasts on several topics that are not ordered: further copies may follow.
        self.recent_groups: deque[Note] = deque(maxlen=MAX_GROUPS)
        #: Further copies of broadcasts for sessions that have moved here; None if the backplane is
        #: ordered.
        self.late_copies: LateCopies | None = None
        #: This server, as part of new pids; empty without a backplane.
        self.node = ""
        #: Moves of sessions between servers; None without a backplane.
        self.moves: Moves | None = None

    @property
    def clock(self) -> Clock:
        """The clock for timeouts."""
        return self._clock

    def close(self) -> None:
        """Stop the timers."""
        if self.moves is not None:
            self.moves.close()
        self.suspensions.clear()
        self._unconfirmed.clear()

    def new_pid(self) -> str:
        """Return a secret for a new socket, which names this server."""
        secret = secrets.token_urlsafe(24)  # 192 bits: cannot be guessed
        return f"{secret}.{self.node}" if self.node else secret

    # -- messages

    def last_number(self) -> int:
        """Return the number of the last message; 0 before the first."""
        return self.log.last

    def number_volatile(self, namespace: str, message: Message) -> Message:
        """Return a volatile event as it is sent: it is not retained and has no offset of its own.

        The stock client takes any text at the end of an event for an offset, so that text must not
        be the last argument.
        """
        if self._parser.ends_with_text(message):
            return self.log.add_last_offset(message, namespace)
        return message

    def read(self, namespace: str, message: Message) -> list[Any]:
        """Return name and arguments of a sent event, without the offset."""
        event = read_event(namespace, message)
        if len(event) > 1 and self.log.is_offset(event[-1]):
            del event[-1]
        return event

    def received(self, topic: Topic, envelope: Envelope) -> None:
        """Handle that a message of another process was numbered.

        Call while sessions are moving here, and for a broadcast on topics that are not ordered.
        """
        for cut in self.cuts:
            cut.received(self.log.last, topic, envelope)
        if envelope.marks:
            self.recent_groups.append(note_of(self.log.last, topic, envelope))

    def published(self, topics: Sequence[Topic], marks: Sequence[Mark]) -> None:
        """Handle that the last message was published on topics that are not ordered."""
        for cut in self.cuts:
            if isinstance(cut, TopicCut):
                cut.sent(self.log.last, topics, marks)

    # -- sockets

    def find(self, pid: str, namespace: str) -> Recoverable | None:
        """Return the socket with a secret."""
        socket = self._sockets.get(pid)
        return socket if socket is not None and socket.namespace == namespace else None

    def add(self, socket: Recoverable) -> None:
        """Make an accepted socket recoverable; its position is that of the last message."""
        socket.position = socket.accepted_at = self.log.last
        self._sockets[socket.pid] = socket

    def suspend(self, socket: Recoverable, connection: Connection) -> bool:
        """Suspend a socket whose connection was closed.

        Returns:
            False if the client is gone or there is no room; the socket has then ended.
        """
        session = connection.session
        address = session.environ.get("REMOTE_ADDR", "")
        is_claimed = socket.claim is not None and socket.claim.connection is not connection
        if not is_claimed and (
            connection.reason not in (_LOSSES if self.moves is None else _LOSSES_OF_CLUSTER)
            or session.client_left
            or not self.suspensions.has_room(address)
        ):
            self.forget(socket)
            return False
        # A pong to a ping that was sent after the connection was accepted.
        if session.confirmed > socket.accepted_at:
            socket.position = max(socket.position, session.confirmed)
            socket.carried = None
        self._unconfirmed.discard(socket)
        socket.is_suspended = True
        socket.lost = connection
        self.suspensions.add(socket, address)
        return True

    def adopt(self, socket: Recoverable, address: str, remaining: float) -> None:
        """Make a suspended socket recoverable that has moved here; its time goes on."""
        self._sockets[socket.pid] = socket
        self.suspensions.add(socket, address, remaining)

    def end(self, socket: Recoverable, reason: str | None = None) -> None:
        """End a suspended socket; has no effect on others.

        Args:
            socket: The socket.
            reason: The reason of its last stages. Default: that of the loss.
        """
        if socket.is_suspended and self._sockets.get(socket.pid) is not socket:
            socket.ending = reason  # it is moving here, and the other server may end it as well
        elif socket.is_suspended:
            socket.is_suspended = False
            self.forget(socket)
            socket.end(reason or socket.connection.reason or "transport close")

    def forget(self, socket: Recoverable) -> None:
        """Make a socket unrecoverable, because its client is gone."""
        if self._sockets.pop(socket.pid, None) is not None and self.moves is not None:
            self.moves.session_ended(socket.pid)
        if self.late_copies is not None:
            self.late_copies.discard(socket)
        self.suspensions.remove(socket)
        self._unconfirmed.discard(socket)
        socket.close_receipts()

    # -- resume

    def claim(self, connection: Connection) -> Claim | None:
        """Take over the socket that a CONNECT names; waits for running handlers of the socket.

        A connection that still holds the socket is closed at once. The secret and the offset are
        removed from the connection's auth payload.

        Returns:
            The claim, which may be answered already; None if the client gets a new connection.
        """
        pid, offset = _take(connection)
        if pid is None:
            return None
        socket = self.find(pid, connection.namespace)
        if socket is None and self.moves is not None:
            self.moves.fetch(pid, connection, offset)
            socket = self.find(pid, connection.namespace)
        if socket is None:
            return None
        claim = Claim(socket, connection, offset)
        if not self.take_over(claim):
            return None
        return claim if self.is_current(claim) or claim.is_answered else None

    def take_over(self, claim: Claim, timeout: float | None = None) -> bool:
        """Make a claim that of its socket, close the connection, and wait for running handlers.

        Args:
            claim: The claim.
            timeout: Longest wait, in seconds; None waits without a limit.

        Returns:
            False if messages are not retained, and the socket has ended; or after the timeout.
        """
        socket = claim.socket
        socket.claim = claim
        held = socket.connection
        if held.connected:
            held.supersede()
        if claim.offset is not UNKNOWN_OFFSET and self.missed.locate(socket, claim.offset) is None:
            logger.debug("%s ends: messages that its client missed are not retained", str(socket))
            self.end(socket)
            return False
        if not held.inbox.busy or held.inbox.current:  # an inbox cannot wait for itself
            return True
        done = gevent.event.Event()
        held.inbox.put(done.set)
        return done.wait(timeout) is True

    def complete(self, claim: Claim) -> int | None:
        """Resume a claimed socket and send the messages that its client missed.

        Returns:
            The number of messages; None if the socket could not be resumed.
        """
        socket, connection = claim.socket, claim.connection
        if not self.is_current(claim):
            return None
        missed = self.missed.find(socket, claim.offset)
        messages = [] if missed is None else [each.message for each in (*missed[0], *missed[1])]
        if missed is None or not connection.session.outbox.has_room(messages):
            self.end(socket)
            return None
        carried, own = missed
        claim.is_answered = True
        connection.id = socket.session_id
        connection.data = socket
        if not connection.accept(socket.pid, socket.received):
            return None
        socket.is_suspended = False
        self.suspensions.remove(socket)
        # The client confirms missed messages by their offsets.
        position = self.log.position(claim.offset, socket.position)
        socket.position = position if own else self.log.last
        socket.accepted_at = self.log.last
        socket.carried = Carried(carried) if carried else None
        if not own:
            socket.excluded = ()
        if carried:
            # A volatile event with the offset of the last message would not confirm them.
            self.log.skip()
            self._unconfirmed.add(socket)
        socket.use(connection)
        for message in messages:
            connection.send(message)
        return len(messages)

    def refused(self, claim: Claim) -> None:
        """End the socket of a claim that a gate has refused, unless there is a newer claim."""
        claim.is_answered = True
        if claim.socket.claim is claim:
            self.end(claim.socket)

    def _confirm(self, socket: Recoverable) -> None:
        """Discard carried messages: the client has answered a ping since it received them."""
        if socket.connection.session.paused:  # the answer may not have been read
            self._unconfirmed.add(socket)
        else:
            socket.carried = None

    def is_current(self, claim: Claim) -> bool:
        """Return whether a claim can continue; refuse its connection if there is a newer claim."""
        if claim.socket.claim is not claim:
            claim.connection.refuse("the session was resumed by another connection")
            claim.is_answered = True
        elif not claim.connection.deciding:  # closed in the meantime
            claim.is_answered = True
        return not claim.is_answered and claim.socket.is_suspended


def _take(connection: Connection) -> tuple[str | None, object]:
    """Remove the secret and the offset from the auth payload of a CONNECT, and return them."""
    auth = connection.auth
    if not isinstance(auth, dict) or _PID not in auth:
        return None, None
    rest = {name: value for name, value in auth.items() if name not in (_PID, _OFFSET)}
    connection.auth = rest or None
    pid = auth[_PID]
    return (pid if isinstance(pid, str) else None), auth.get(_OFFSET)


def settings_of_recovery(settings: Settings) -> tuple[float, int, int, bool]:
    """Return the settings that all servers of a runtime must share."""
    return (
        settings.recovery_time,
        settings.recovery_messages,
        settings.recovery_bytes,
        settings.recovery_skip_gates,
    )


def enable(registry: SocketRegistry[Any], settings: Settings) -> None:
    """Enable recovery for the sockets of a runtime, unless the settings disable it."""
    if settings.recovery_time:
        registry.recovery = Recovery(settings)
        registry.use_namespaces(RecoverableNamespace)


def disable(registry: SocketRegistry[Any]) -> None:
    """Disable recovery, after all sockets of a runtime have ended."""
    if registry.recovery is not None:
        registry.recovery.close()
        registry.recovery = None
        registry.use_namespaces(Namespace)
