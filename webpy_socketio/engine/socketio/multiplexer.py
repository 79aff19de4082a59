"""The Socket.IO v5 multiplexer: the namespaces of one Engine.IO session."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

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
    NAME,
    Packet,
    decode_event,
)
from webpy_socketio.engine.socketio.parser import Parser, get_parser
from webpy_socketio.exceptions import ProtocolError

__all__ = ["Multiplexer", "SocketIO"]


#: Maximum size of a CONNECT in characters, and of its auth payload in memory in bytes. The payload
#: is kept while the client is connected.
MAX_AUTH, MAX_AUTH_MEMORY = 65_536, 131_072


#: Maximum number of running gates of abandoned CONNECTs in a session. Beyond it, a new CONNECT
#: waits for the gate of the previous one.
MAX_ABANDONED = 4


class SocketIO:
    """The application of an `Engine` that implements Socket.IO and calls an `Application`.

    Args:
        application: Handles the connections of its namespaces.
        config: Limits and timeouts; the defaults of `EngineConfig` if None.
        others: Applications with a namespace of their own, by namespace.
        namespaces: The namespaces of `application`, by name. Other ones are rejected. A container
            of many names decides with ``in``, without waiting; its repr is logged.

    Raises:
        ConfigurationError: The parser of `config` is not installed.
    """

    def __init__(
        self,
        application: Application,
        config: EngineConfig | None = None,
        others: Mapping[str, Application] | None = None,
        namespaces: Container[str] = ("/",),
    ) -> None:
        self.config = config or EngineConfig()
        self.application = application
        self.namespaces = namespaces
        self._others = others or {}
        self.parser = get_parser(self.config.parser)
        self.clock = current_clock()
        #: Throttled log of packets from misconfigured clients.
        self.notices = ThrottledLog(self.clock)
        #: The greenlets that run handlers.
        self.workers = GreenletPool()
        self._unconnected = TimeoutQueue[Session](
            self.clock, self.config.connect_timeout, _on_connect_timeout
        )
        self._incomplete = TimeoutQueue[Session](
            self.clock,
            self.config.ping_interval + self.config.ping_timeout,
            self._on_attachment_timeout,
        )

    def opened(self, session: Session) -> Multiplexer:
        """Return the receiver of a new session, and start its connect timeout."""
        self._unconnected.add(session)
        return Multiplexer(self, session)

    def find(self, namespace: str) -> Application | None:
        """Return the application of a namespace, or None if the namespace does not exist.

        A namespace of another application belongs to it, whatever `namespaces` contains.
        """
        other = self._others.get(namespace)
        if other is None and namespace in self.namespaces:
            return self.application
        return other

    def session_closed(self, session: Session) -> None:
        """Stop the timeouts of a session."""
        self._unconnected.discard(session)
        self._incomplete.discard(session)

    def connected(self, session: Session, connected: bool) -> None:
        """Stop the connect timeout of a session, or start it if its last namespace is gone."""
        if connected:
            self._unconnected.discard(session)
        elif session not in self._unconnected:  # a rejected CONNECT must not restart the timeout
            self._unconnected.add(session)

    def attachments_announced(self, session: Session) -> None:
        """Start the timeout for the attachments of a binary packet."""
        self._incomplete.add(session)

    def _on_attachment_timeout(self, session: Session) -> None:
        if session.paused:  # the attachments may be waiting to be read
            self._incomplete.add(session)
        else:
            session.reject(note="attachments missing")

    def attachments_completed(self, session: Session) -> None:
        """Stop the timeout for attachments."""
        self._incomplete.discard(session)

    def dispose(self) -> None:
        """Stop the timers and the idle greenlets."""
        self._unconnected.clear()
        self._incomplete.clear()
        self.workers.dispose()


class Multiplexer:
    """Routes the packets of one session to its connections, by namespace."""

    __slots__ = (
        *("_abandoned", "_connections", "_decoder", "_inboxes", "_socketio"),
        *("reads_events", "session"),
    )

    def __init__(self, socketio: SocketIO, session: Session) -> None:
        self.session = session
        self._socketio = socketio
        self._decoder = socketio.parser.new_decoder()
        #: Whether transports may call `event`, see `EventReceiver`.
        self.reads_events = socketio.parser.NAME == NAME
        self._connections: dict[str, Connection] = {}
        self._inboxes: dict[str, Inbox] = {}
        #: Inboxes of CONNECTs that the client replaced while their gate was running.
        self._abandoned: Sequence[Inbox] = ()

    def inbox(self, namespace: str) -> Inbox:
        """Return the inbox of a namespace, and create it if needed.

        Later connections reuse the inbox: a client that reconnects in a loop is subject to the same
        backpressure.
        """
        inbox = self._inboxes.get(namespace)
        if inbox is None:
            config = self._socketio.config
            # Decoded messages are much larger than their JSON: an empty dict takes 64 bytes for 3
            # characters. The queue is therefore limited to the size of one message.
            inbox = Inbox(
                self.session, self._socketio.workers, config.inbox_events, config.max_message_size
            )
            self._inboxes[namespace] = inbox
        return inbox

    @property
    def parser(self) -> Parser:
        """The parser of the server."""
        return self._socketio.parser

    @property
    def clock(self) -> Clock:
        """The clock for timeouts."""
        return self._socketio.clock

    def message(self, data: str | bytes) -> None:
        """Handle one message of the client.

        Raises:
            ProtocolError: The message is invalid. `Application.failed` was called.
        """
        try:
            packet = self._decoder.feed(data)
            if packet is None:
                if not self._connections:
                    raise ProtocolError("binary packet received before CONNECT")
                self._socketio.attachments_announced(self.session)
                return
            if isinstance(data, bytes):
                self._socketio.attachments_completed(self.session)
            connection = self._connections.get(packet.namespace)
            if connection is None or packet.type != EVENT:
                if self.session.count():
                    self._receive_other(packet, connection)
            elif packet.error is None:
                connection.receive_event(packet.data, packet.id, self._decoder.size)
            else:
                connection.drop_event(packet.error, packet.id, self._decoder.size)
        except ProtocolError as error:
            self._report(data, error)
            raise

    def event(self, body: str, identifier: int | None, size: int) -> None:
        """Handle a plain event of the client; see `EventReceiver`.

        Raises:
            ProtocolError: The event is invalid. `Application.failed` was called.
        """
        connection = self._connections.get("/")
        if connection is not None and connection.connected and self._decoder.incomplete is None:
            data = decode_event(body)
            if data is not None:
                connection.receive_event(data, identifier, size)
                return
        number = "" if identifier is None else identifier
        self.message(f"{EVENT}{number}{body}")

    def _report(self, data: str | bytes, error: ProtocolError) -> None:
        if isinstance(data, bytes) != self.parser.BINARY and not self._connections:
            self._socketio.notices.throttled("parser", _PARSER_ERRORS[self.parser.BINARY])
        for connection in self._connections.values():
            connection.application.failed(connection, error)

    def _receive_other(self, packet: Packet, connection: Connection | None) -> None:
        """Handle a packet that is not an event of a connection."""
        if packet.type == CONNECT and packet.error is not None:
            self.session.outbox.push(
                self.parser.encode_connect_error(packet.namespace, str(packet.error))
            )
        elif packet.type == CONNECT:
            self._connect(packet.namespace, packet.data, connection)
        elif connection is None:
            # The packet may have been sent before the client received the DISCONNECT of this
            # namespace. Without other namespaces, the session is closed in that case.
            if not self._connections:
                raise ProtocolError("packet received for a namespace that is not connected")
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
            raise ProtocolError("second CONNECT for the same namespace")
        if self._decoder.size > MAX_AUTH:
            raise ProtocolError(f"auth payload exceeds {MAX_AUTH} characters")
        if json.memory_of(auth, MAX_AUTH_MEMORY) > MAX_AUTH_MEMORY:
            raise ProtocolError(f"auth payload exceeds {MAX_AUTH_MEMORY} bytes in memory")
        application = self._socketio.find(namespace)
        if application is None:
            self._socketio.notices.once(
                "namespace",
                namespace,
                f"rejected unknown namespace {safe_repr(namespace)} (SOCKETIO_NAMESPACES is "
                f"{self._socketio.namespaces!r}): add it there, or correct the client: "
                'io("/name") connects to a namespace, io({path: "/name"}) to a path of the server',
            )
            self.session.outbox.push(
                self.parser.encode_connect_error(namespace, "Invalid namespace")
            )
            return
        if connection is not None:
            self._abandon(connection)
        elif not self._has_room_for(namespace):
            self._socketio.notices.throttled(
                "max_namespaces",
                "rejected a connection to a namespace: the client is in "
                f"{self._socketio.config.max_namespaces} others (SOCKETIO_MAX_NAMESPACES)",
            )
            self.session.outbox.push(
                self.parser.encode_connect_error(namespace, "too many namespaces")
            )
            return
        connection = Connection(self, application, namespace, auth)
        self._connections[namespace] = connection
        connection.begin(self._decoder.size)

    def _has_room_for(self, namespace: str) -> bool:
        """Return whether the session may have another namespace; discard inboxes without a use.

        Inboxes are counted rather than connections: the handlers of a closed connection may still
        run, and clients choose the names of namespaces.
        """
        limit = self._socketio.config.max_namespaces
        inboxes = self._inboxes
        if namespace not in inboxes and len(inboxes) >= limit:
            for name in [name for name, inbox in inboxes.items() if not inbox.busy]:
                if name not in self._connections:
                    del inboxes[name]
        return namespace in inboxes or len(inboxes) < limit

    def _abandon(self, connection: Connection) -> None:
        """Close an undecided connection that a new CONNECT replaces.

        If its gate is still running, the new connection gets another inbox and need not wait.
        """
        if connection.deciding:
            self._abandoned = [inbox for inbox in self._abandoned if inbox.busy]
            if len(self._abandoned) < MAX_ABANDONED:
                self._abandoned = [*self._abandoned, self._inboxes.pop(connection.namespace)]
        connection.close("client namespace disconnect")

    def accepted(self) -> None:
        """Stop the connect timeout, because a connection was accepted."""
        self._socketio.connected(self.session, True)

    def remove(self, connection: Connection) -> None:
        """Remove a closed connection; without others, the connect timeout starts."""
        if self._connections.get(connection.namespace) is connection:
            del self._connections[connection.namespace]
        if self.session.open and not self._connections:
            self._socketio.connected(self.session, False)

    def close_if_unused(self) -> None:
        """Close the session if it has no connections left."""
        if not self._connections:
            self.session.close("server namespace disconnect")

    def disconnect_all(self) -> None:
        """Disconnect all connections of the session, and close it.

        Each client-side socket gets a packet of its own, as from Node.js: without it, the stock
        client would reconnect.
        """
        for connection in list(self._connections.values()):
            connection.disconnect()
        self.close_if_unused()  # not closed yet if the last connection was undecided

    def closed(self, reason: str) -> None:
        """Close all connections, because the session is closed."""
        self._socketio.session_closed(self.session)
        connections = list(self._connections.values())
        self._connections.clear()
        for connection in connections:
            connection.close(reason)


#: Log messages for clients with another parser, by `Parser.BINARY` of the server.
_PARSER_ERRORS = {
    False: (
        "rejected a client whose first packet is binary: it uses another parser, such as "
        "MessagePack in socket.io.msgpack.min.js. Load socket.io.min.js, or set SOCKETIO_PARSER "
        'to "msgpack"'
    ),
    True: (
        'rejected a client whose first packet is text, because SOCKETIO_PARSER is "msgpack": load '
        "socket.io.msgpack.min.js as socketio_scripts() does, or pass "
        "io(url, {parser}) with socket.io-msgpack-parser"
    ),
}


def _on_connect_timeout(session: Session) -> None:
    session.close("connect timeout")
