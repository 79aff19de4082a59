"""Socket.IO v5 on top of an Engine.IO session: namespaces, events, acknowledgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io import json
from webpy_socketio.engine.io.clock import Clock, current_clock
from webpy_socketio.engine.io.greenlets import GreenletPool
from webpy_socketio.engine.io.throttled_log import ThrottledLog, safe_repr
from webpy_socketio.engine.io.timeouts import TimeoutQueue
from webpy_socketio.engine.socketio.connection import Application, Connection
from webpy_socketio.engine.socketio.inbox import Inbox
from webpy_socketio.engine.socketio.packets import (
    ACK,
    CONNECT,
    DISCONNECT,
    EVENT,
    Decoder,
    encode_connect_error,
)
from webpy_socketio.exceptions import ProtocolError

__all__ = ["Multiplexer", "SocketIO"]


#: Characters of a CONNECT, and bytes that its auth payload takes in memory: it is kept for as long as
#: the client is connected.
MAX_AUTH, MAX_AUTH_MEMORY = 65_536, 131_072


#: Gates of abandoned attempts that one session may keep busy; beyond that, an attempt to connect
#: waits for the gate of the attempt before it.
MAX_ABANDONED = 4


class SocketIO:
    """The receiver that an `Engine` is given to speak Socket.IO to an `Application`.

    `others` are applications with a namespace of their own, by its name.
    """

    def __init__(
        self,
        application: Application,
        config: EngineConfig | None = None,
        others: Mapping[str, Application] | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        #: Who is told about the connections of each namespace that exists.
        self.applications: dict[str, Application] = {
            **dict.fromkeys(self.config.namespaces, application),
            **(others or {}),
        }
        self.clock = current_clock()
        #: What is told of clients that are set up wrongly.
        self.notices = ThrottledLog(self.clock)
        #: The greenlets that handlers run in.
        self.workers = GreenletPool()
        self._unconnected = TimeoutQueue[Session](self.clock, self.config.connect_timeout, _give_up)
        self._incomplete = TimeoutQueue[Session](
            self.clock,
            self.config.ping_interval + self.config.ping_timeout,
            self._give_up_waiting,
        )

    def opened(self, session: Session) -> None:
        session.data = Multiplexer(self, session)
        self._unconnected.add(session)

    def message(self, session: Session, data: str | bytes) -> None:
        session.data.receive(data)

    def closed(self, session: Session, reason: str) -> None:
        self._unconnected.discard(session)
        self._incomplete.discard(session)
        session.data.closed(reason)

    def connected(self, session: Session, connected: bool) -> None:
        """A session has its first namespace, or lost its last one: it may not stay without."""
        if connected:
            self._unconnected.discard(session)
        elif session not in self._unconnected:  # to be refused again and again buys no time
            self._unconnected.add(session)

    def attachments_announced(self, session: Session) -> None:
        """Attachments are to follow: soon, or what came so far would be kept for ever."""
        self._incomplete.add(session)

    def _give_up_waiting(self, session: Session) -> None:
        if session.paused:  # we are the ones who do not read
            self._incomplete.add(session)
        else:
            session.reject(note="attachments never came")

    def attachments_completed(self, session: Session) -> None:
        """The attachments came."""
        self._incomplete.discard(session)

    def dispose(self) -> None:
        """Stop the timer, and let idle greenlets go."""
        self._unconnected.clear()
        self._incomplete.clear()
        self.workers.dispose()


class Multiplexer:
    """One session's connections, by namespace."""

    __slots__ = ("_abandoned", "_connections", "_decoder", "_inboxes", "_socketio", "session")

    def __init__(self, socketio: SocketIO, session: Session) -> None:
        self.session = session
        self._socketio = socketio
        self._decoder = Decoder()
        self._connections: dict[str, Connection] = {}
        self._inboxes: dict[str, Inbox] = {}
        #: Inboxes of attempts to connect that the client gave up while a gate decided on them.
        self._abandoned: Sequence[Inbox] = ()

    def inbox(self, namespace: str) -> Inbox:
        """The inbox of a namespace.

        It outlives a connection: a client that connects and leaves again and again waits for what it
        asked before, and is not read any further while that is too much.
        """
        inbox = self._inboxes.get(namespace)
        if inbox is None:
            config = self._socketio.config
            # In memory a message is many times as large as on its way: an empty dict takes 64 bytes
            # for the 3 that it had. So no more may wait than is let through at once.
            inbox = Inbox(
                self.session, self._socketio.workers, config.inbox_events, config.max_message_size
            )
            self._inboxes[namespace] = inbox
        return inbox

    @property
    def clock(self) -> Clock:
        """What its waiting is measured by."""
        return self._socketio.clock

    @property
    def outbox_bytes(self) -> int:
        """Bytes that a message to the client may have."""
        return self._socketio.config.outbox_bytes

    def receive(self, data: str | bytes) -> None:
        """Take one message of the client; raises `ProtocolError`, and tells the application so."""
        try:
            self._receive(data)
        except ProtocolError as error:
            if isinstance(data, bytes) and not self._connections:
                self._socketio.notices.throttled(
                    "parser",
                    "rejected a client whose first packet is binary: its packets are encoded by another "
                    "parser, such as MessagePack in socket.io.msgpack.min.js. Load socket.io.min.js",
                )
            for connection in self._connections.values():
                connection.application.failed(connection, error)
            raise

    def _receive(self, data: str | bytes) -> None:
        packet = self._decoder.feed(data)
        if packet is None:
            if not self._connections:
                raise ProtocolError("a binary packet before CONNECT")
            self._socketio.attachments_announced(self.session)
            return
        if isinstance(data, bytes):
            self._socketio.attachments_completed(self.session)
        connection = self._connections.get(packet.namespace)
        if (connection is None or packet.type != EVENT) and not self.session.count():
            return
        if packet.type == CONNECT and packet.error is not None:
            self.session.outbox.push(encode_connect_error(packet.namespace, str(packet.error)))
        elif packet.type == CONNECT:
            self._connect(packet.namespace, packet.data, connection)
        elif connection is None:
            # In flight while we ended this namespace, perhaps; with no other one, there is
            # nothing it could be in time for.
            if not self._connections:
                raise ProtocolError("a packet for a namespace that is not connected")
        elif packet.type == EVENT:
            if packet.error is None:
                connection.receive_event(packet.data, packet.id, self._decoder.size)
            else:
                connection.drop_event(packet.error, packet.id, self._decoder.size)
        elif packet.type == ACK and packet.id is not None:
            if packet.error is None:
                connection.receive_ack(packet.id, packet.data)
            else:
                connection.fail_ack(packet.id, packet.error)
        elif packet.type == DISCONNECT:
            self.remove(connection)
            connection.close("client namespace disconnect")

    def _connect(self, namespace: str, auth: object, connection: Connection | None) -> None:
        if connection is not None and connection.connected:
            raise ProtocolError("a second CONNECT for the same namespace")
        if self._decoder.size > MAX_AUTH:
            raise ProtocolError(f"an auth payload above {MAX_AUTH} characters")
        if json.memory_of(auth, MAX_AUTH_MEMORY) > MAX_AUTH_MEMORY:
            raise ProtocolError(f"an auth payload of more than {MAX_AUTH_MEMORY} bytes in memory")
        application = self._socketio.applications.get(namespace)
        if application is None:
            self._socketio.notices.once(
                "namespace",
                namespace,
                f"a client asked for the namespace {safe_repr(namespace)}, and SOCKETIO_NAMESPACES has only "
                f"{list(self._socketio.config.namespaces)}: add it there, or correct the client: "
                'io("/name") names a namespace, io({path: "/name"}) the path of the server\'s resource',
            )
            self.session.outbox.push(encode_connect_error(namespace, "Invalid namespace"))
            return
        if connection is not None:
            self._abandon(connection)
        connection = Connection(self, application, namespace, auth)
        self._connections[namespace] = connection
        connection.begin(self._decoder.size)

    def _abandon(self, connection: Connection) -> None:
        """Close an attempt to connect that the client replaced.

        If a gate still decides on it, the new attempt does not wait for that gate.
        """
        if connection.deciding:
            self._abandoned = [inbox for inbox in self._abandoned if inbox.busy]
            if len(self._abandoned) < MAX_ABANDONED:
                self._abandoned = [*self._abandoned, self._inboxes.pop(connection.namespace)]
        connection.close("client namespace disconnect")

    def accepted(self) -> None:
        """A connection was accepted: the session may stay."""
        self._socketio.connected(self.session, True)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is over, while the session goes on."""
        if self._connections.get(connection.namespace) is connection:
            del self._connections[connection.namespace]
        if self.session.open and not self._connections:
            self._socketio.connected(self.session, False)

    def close_if_unused(self) -> None:
        """End the session if the server ended the last of its connections."""
        if not self._connections:
            self.session.close("server namespace disconnect")

    def closed(self, reason: str) -> None:
        """The session is over, and all its connections with it."""
        connections = list(self._connections.values())
        self._connections.clear()
        for connection in connections:
            connection.close(reason)


def _give_up(session: Session) -> None:
    session.close("connect timeout")
