"""A Socket.IO client for tests, and the browser that opens it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, overload
from urllib.parse import urlencode

from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.packets import (
    ACK,
    CONNECT,
    DISCONNECT,
    EVENT,
    Packet,
)
from webpy_socketio.engine.socketio.parser import Parser
from webpy_socketio.exceptions import Refused
from webpy_socketio.receipts import NUMBERED, RECEIVED
from webpy_socketio.socket import Socket
from webpy_socketio.testing.acks import Ack, HandshakeRefused, Progress
from webpy_socketio.testing.events import EventQueue, Received
from webpy_socketio.testing.idle import indent
from webpy_socketio.testing.memory import MemorySocket
from webpy_socketio.testing.packets import encode_connect, read_connect_error
from webpy_socketio.testing.pages import PageClient, PageHost
from webpy_socketio.testing.websocket import WebSocketClient

__all__ = ["Browser", "Client", "Host"]


#: Auth payload, query parameters and headers of a handshake.
Handshake: TypeAlias = "tuple[dict[str, Any] | None, Mapping[str, str], Mapping[str, str] | None]"


class Host(Progress, PageHost, Protocol):
    """The part of the server that clients and browsers use."""

    @property
    def path(self) -> str:
        """The path of Socket.IO."""

    @property
    def parser(self) -> Parser:
        """The parser of the server."""

    def number(self) -> int:
        """Return the number of the next client."""

    def find(self, session_id: str) -> Socket | None:
        """Return the socket with this id, whether it is still connected or not."""


class Browser(PageClient):
    """A browser that visits the application: it keeps cookies, requests pages and opens sockets.

    `headers` are sent with every request, including the handshakes of sockets. All cookies are sent
    with every request: their paths and domains are ignored. Redirects are not followed.
    """

    def __init__(
        self,
        server: Host,
        *,
        cookies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        super().__init__(server, cookies=cookies, headers=headers, address=address)
        self._host = server

    def connect(
        self,
        namespace: str = "/",
        *,
        auth: dict[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Client:
        """Open a socket, as ``io(namespace, {auth, query})`` does in a page.

        Args:
            namespace: Socket.IO namespace.
            auth: The handshake's ``auth`` payload.
            query: Parameters of the handshake's query string.
            headers: Additional headers of the handshake.

        Raises:
            Refused: A gate rejected the connection; the text is its reason, ``data`` its data.
            HandshakeRefused: The handshake failed before any gate, as for a wrong origin or a
                redirect to a login page; its ``response`` is the answer.
        """
        client = Client(self._host, self, namespace, (auth, query or {}, headers))
        client.open()
        return client


class Client:
    """A connected client, created by `TestServer.connect` and `Browser.connect`.

    Methods that send return once all effects have happened: handlers have run, and their messages
    have arrived. Errors raised by handlers are raised again from these methods.
    """

    def __init__(
        self, server: Host, browser: Browser, namespace: str, handshake: Handshake
    ) -> None:
        self._server = server
        #: The browser whose cookies it sends.
        self.browser = browser
        self.namespace = namespace
        #: Whether it is connected, from the client's point of view.
        self.connected = False
        #: The reason of the disconnection, as in the JavaScript client.
        self.reason: str | None = None
        #: The public socket id.
        self.id = ""
        self._socket: Socket | None = None
        self._refused: str | None = None
        self._refused_data: Any = None
        self._number = server.number()
        self._events = EventQueue()
        self._parser = server.parser
        self._decoder = self._parser.new_decoder()
        self._acks: list[Ack] = []
        self._ack_values: dict[str, Any] = {}
        self._unanswered: list[Packet] = []
        self._websocket: WebSocketClient
        self._handshake = handshake
        #: Whether `resume` has resumed the connection; False for a new one.
        self.recovered = False
        #: Secret and position of connection state recovery.
        self._pid: str | None = None
        self._offset: str | None = None
        #: Whether messages are numbered on this connection, and the number of the last one.
        self._is_numbered = False
        self._number_sent = 0
        #: Numbers of messages that were not answered yet, by acknowledgement id.
        self._asked: dict[int, int] = {}
        #: Messages to send when the lost connection is resumed.
        self._buffer: list[tuple[str, tuple[Any, ...], int | None]] = []
        self._is_lost = False

    def __repr__(self) -> str:
        where = "" if self.namespace == "/" else f" in {self.namespace}"
        state = "connected" if self.connected else f"not connected: {self.reason or self._refused}"
        return f"<Client {self._number}{where}, {state}>"

    # -- connection

    def open(self) -> None:
        """Connect; for `Browser.connect`."""
        auth, query, headers = self._handshake
        if self._pid is not None:
            auth = {"pid": self._pid, "offset": self._offset, **(auth or {})}
        target = f"{self._server.path}?{urlencode({**query, 'EIO': '4', 'transport': 'websocket'})}"
        self._websocket = websocket = WebSocketClient(target, self._receive, self._lose)
        request = websocket.handshake(self.browser.all_headers(headers).items())
        sock = MemorySocket(request, websocket.stream)
        self._server.handle(sock, self.browser.address, "the handshake")
        if sock.answer:
            raise HandshakeRefused(bytes(sock.answer), self._server.path)
        self._send(encode_connect(self._parser, self.namespace, auth))
        self._server.wait(lambda: self.connected or bool(self._refused) or self.reason is not None)
        if self._refused is not None or not self.connected:
            websocket.close()
        self._server.settle()
        if self._refused is not None:
            raise Refused(self._refused, data=self._refused_data)
        if self._socket is None:
            raise AssertionError(
                f"{self!r}: the connection was not accepted{self._server.explain()}"
            )
        self.browser.keep_cookies(websocket.headers.get_all("Set-Cookie"))

    @property
    def socket(self) -> Socket:
        """The server's `Socket` of this client, as handlers receive it.

        It remains available after the connection has ended.
        """
        assert self._socket is not None, "the client never connected"
        return self._socket

    @property
    def answer_pings(self) -> bool:
        """Whether the client answers pings; set it to False to provoke a ping timeout."""
        return self._websocket.answer_pings

    @answer_pings.setter
    def answer_pings(self, answer: bool) -> None:
        self._websocket.answer_pings = answer

    @property
    def close_code(self) -> int | None:
        """The close code of the server's WebSocket close frame, or None."""
        return self._websocket.close_code

    def disconnect(self) -> None:
        """Disconnect, as ``socket.disconnect()`` does in a page."""
        self._end("io client disconnect")
        self._send(self._parser.encode_disconnect(self.namespace))
        self._websocket.close()
        self._server.settle()

    def close(self) -> None:
        """Close the connection as when its page is closed; the reason is "transport close"."""
        self._end("transport close")
        self._websocket.close()
        self._server.settle()

    def abort(self) -> None:
        """Lose the connection without closing it; the server detects this by its ping timeout."""
        self._is_lost = self.connected
        self._end("vanished")
        self._websocket.abort()

    def lose(self) -> None:
        """Lose the connection without closing it; the server detects this at once.

        With ``SOCKETIO_RECOVERY_TIME``, the server suspends the socket, and `resume` resumes it.
        Until then, `send`, `emit` and `ask` queue their messages, as the JavaScript client does.
        """
        self._is_lost = self.connected
        self._end("transport close")
        self._websocket.drop()
        self._server.settle()

    def resume(self, *, auth: dict[str, Any] | None = None) -> bool:
        """Reconnect as the JavaScript client does after a loss, with the same handshake.

        Missed messages are received like others. Messages sent since the loss follow, and answers
        to earlier ones arrive. Call it after `lose` or `abort`. After `abort`, the server may not
        have detected the loss yet.

        Args:
            auth: Replaces the handshake's ``auth`` payload.

        Returns:
            Whether the connection was resumed, as `recovered`. Otherwise the client has a new
            socket and a new `id`.

        Raises:
            Refused: A gate rejected the connection; the text is its reason, ``data`` its data.
        """
        if self.connected:
            raise AssertionError(f"cannot resume: {self!r}; call lose() or abort() first")
        if auth is not None:
            self._handshake = (auth, *self._handshake[1:])
        self.recovered = False
        self.reason = self._refused = self._refused_data = None
        self._decoder = self._parser.new_decoder()
        self.open()
        self._is_lost = False
        for ack, number in self._asked.items():  # only if recovered
            self._send(self._parser.encode_event(self.namespace, NUMBERED, (number,), ack))
        buffer, self._buffer = self._buffer, []
        for message in buffer:
            self._send_event(*message)
        self._server.settle()
        return self.recovered

    # -- sending

    def send(self, message: Any, channel: str | None = None) -> None:
        """Send a message, or a message to a channel, which requires a subscription to it."""
        if channel is None:
            self.emit("message", message)
        else:
            self.emit("__channel__", channel, message)

    def emit(self, event: str, *args: Any) -> None:
        """Send a custom event."""
        self._send_event(event, args, None)
        self._server.settle()

    def call(self, event: str, *args: Any) -> Any:
        """Send an event, and return the acknowledgement of its handlers.

        Returns:
            None, a value, or a list of several values, as for `Socket.call` on the server.

        Raises:
            AssertionError: No acknowledgement arrives.
        """
        return self.ask(event, *args).value

    def ask(self, event: str, *args: Any) -> Ack:
        """Send an event and return its `Ack`.

        The value of the `Ack` is available once the server has acknowledged the event.
        """
        ack = Ack(self._server, event)
        self._acks.append(ack)
        self._send_event(event, args, len(self._acks) - 1)
        self._server.settle()
        return ack

    def subscribe(self, channel: str) -> None:
        """Subscribe to a channel.

        Raises:
            Refused: A gate rejected the subscription; the text is its reason, ``data`` its data.
        """
        self._change("__subscribe__", channel)

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel."""
        self._change("__unsubscribe__", channel)

    def on(self, event: str, *, answer: Any) -> None:
        """Acknowledge an event that the server sends with ``socket.call``.

        Args:
            event: Name of the event.
            answer: The value of the acknowledgement, or a function that receives the event's
                arguments and returns the value without blocking.
        """
        self._ack_values[event] = answer
        waiting, self._unanswered = self._unanswered, []
        for packet in waiting:
            self._answer(packet)
        self._server.settle()

    # -- receiving

    @overload
    def receive(self) -> Received: ...
    @overload
    def receive(self, event: str) -> Any: ...
    def receive(self, event: str | None = None) -> Any:
        """Remove the next event from the queue and return it.

        Args:
            event: Name of the event; by default the next event of any name.

        Returns:
            The event's data, or a `Received` if no name is given.

        Raises:
            AssertionError: No matching event arrived before the server became idle. The text lists
                all received events.
        """
        self._server.wait(lambda: self._events.has(event))
        self._server.check()
        if not self._events.has(event):
            raise AssertionError(self._explain("no event" if event is None else f"no {event!r}"))
        found = self._events.take(event)
        return found if event is None else found.data

    @overload
    def received(self) -> list[Received]: ...
    @overload
    def received(self, event: str) -> list[Any]: ...
    def received(self, event: str | None = None) -> list[Any]:
        """Remove and return the queued events; with a name, only those of this name.

        Returns:
            A list of `Received`; with a name, a list of the data of the events of this name.
        """
        self._server.settle()
        found = self._events.take_all(event)
        return found if event is None else [item.data for item in found]

    # -- internals

    def _send(self, message: Message) -> None:
        self._websocket.send(message)

    def _send_event(self, event: str, args: tuple[Any, ...], ack: int | None) -> None:
        if self._is_lost:
            self._buffer.append((event, args, ack))
            return
        if not self.connected:
            raise AssertionError(f"cannot send: {self!r}")
        if self._is_numbered:
            self._number_sent += 1
            if ack is not None:
                self._asked[ack] = self._number_sent
            event, args = NUMBERED, (self._number_sent, event, *args)
        self._send(self._parser.encode_event(self.namespace, event, args, ack))

    def _change(self, event: str, channel: str) -> None:
        answer = self.call(event, channel)
        if not answer["ok"]:
            raise Refused(answer["error"], data=answer.get("data"))

    def _explain(self, what: str) -> str:
        history = [f"{event}: {data!r}" for event, data in self._events.history]
        return (
            f"{what} for {self!r}; all received events, in order:\n{indent(history)}"
            f"{self._server.explain()}"
        )

    def _receive(self, data: str | bytes) -> None:
        refusal = read_connect_error(self._parser, self.namespace, data)
        if refusal is not None:
            self._refused, self._refused_data = refusal["message"], refusal.get("data")
            return
        packet = self._decoder.feed(data)
        if packet is None:
            return
        if packet.type == CONNECT:
            self.id = packet.data["sid"]
            pid = packet.data.get("pid")
            self.recovered = pid is not None and pid == self._pid
            self._pid = pid
            self._is_numbered = "received" in packet.data
            self._number_sent = packet.data.get("received", 0)
            if not self.recovered:
                self._asked.clear()
            self._socket = self._server.find(self.id)
            self.connected = True
        elif packet.type == DISCONNECT:
            self._end("io server disconnect")
        elif packet.type == ACK and packet.id is not None:
            self._asked.pop(packet.id, None)
            self._acks[packet.id].set(packet.data)
        elif packet.type == EVENT and packet.data[0] != RECEIVED:
            args = packet.data[1:]
            if self._pid is not None and packet.id is None and args and isinstance(args[-1], str):
                self._offset = args.pop()
            self._events.put(packet.data[0], args)
            if packet.id is not None:
                self._answer(packet)

    def _answer(self, packet: Packet) -> None:
        event, *args = packet.data
        if event not in self._ack_values:
            self._unanswered.append(packet)
            return
        answer: Callable[..., Any] | Any = self._ack_values[event]
        value = answer(*args) if callable(answer) else answer
        assert packet.id is not None
        self._send(self._parser.encode_ack(self.namespace, packet.id, [value]))

    def _lose(self) -> None:
        self._end("transport close")

    def _end(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
        self.connected = False
