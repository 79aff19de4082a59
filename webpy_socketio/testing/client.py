"""A Socket.IO client for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import urlencode

from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.packets import (
    ACK,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    EVENT,
    Decoder,
    Packet,
    encode_ack,
    encode_disconnect,
    encode_event,
)
from webpy_socketio.exceptions import Refused
from webpy_socketio.testing.acks import Ack, HandshakeRefused
from webpy_socketio.testing.events import EventQueue, Received
from webpy_socketio.testing.idle import indent
from webpy_socketio.testing.memory import MemorySocket
from webpy_socketio.testing.websocket import WebSocketClient

if TYPE_CHECKING:
    from webpy_socketio.socket import Socket
    from webpy_socketio.testing.browser import Browser
    from webpy_socketio.testing.server import TestServer

__all__ = ["Client"]


class Client:
    """A connected client, created by `TestServer.connect` and `Browser.connect`.

    Methods that send return once all effects have happened: handlers have run, and their messages
    have arrived. Errors raised by handlers are raised again from these methods.
    """

    def __init__(self, server: TestServer, browser: Browser, namespace: str) -> None:
        self._server = server
        #: The browser whose cookies it sends.
        self.browser = browser
        self.namespace = namespace
        #: Whether it is connected, from the client's point of view.
        self.connected = False
        #: The reason of the disconnection, as in the JavaScript client.
        self.reason: str | None = None
        #: The public socket ID.
        self.id = ""
        self._socket: Socket | None = None
        self._refused: str | None = None
        self._number = server.number()
        self._events = EventQueue()
        self._decoder = Decoder()
        self._acks: list[Ack] = []
        self._ack_values: dict[str, Any] = {}
        self._unanswered: list[Packet] = []
        self._websocket: WebSocketClient

    def __repr__(self) -> str:
        where = "" if self.namespace == "/" else f" in {self.namespace}"
        state = "connected" if self.connected else f"not connected: {self.reason or self._refused}"
        return f"<Client {self._number}{where}, {state}>"

    # -- connection

    def open(
        self,
        auth: dict[str, Any] | None,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None,
    ) -> None:
        """Connect; for `Browser.connect`."""
        target = f"{self._server.path}?{urlencode({**query, 'EIO': '4', 'transport': 'websocket'})}"
        self._websocket = websocket = WebSocketClient(target, self._receive, self._lose)
        request = websocket.handshake(self.browser.all_headers(headers).items())
        sock = MemorySocket(request, websocket.stream)
        self._server.handle(sock, self.browser.address, "the handshake")
        if sock.answer:
            raise HandshakeRefused(bytes(sock.answer), self._server.path)
        data = "" if auth is None else json.dumps(auth)
        self._send(Message(f"4{CONNECT}{self._prefix}{data}".encode()))
        self._server.wait(lambda: self.connected or bool(self._refused) or self.reason is not None)
        if self._refused is not None or not self.connected:
            websocket.close()
        self._server.settle()
        if self._refused is not None:
            raise Refused(self._refused)
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
        self._send(encode_disconnect(self.namespace))
        self._websocket.close()
        self._server.settle()

    def close(self) -> None:
        """Close the connection as when its page is closed; the reason is "transport close"."""
        self._end("transport close")
        self._websocket.close()
        self._server.settle()

    def abort(self) -> None:
        """Lose the connection without closing it; the server detects this by its ping timeout."""
        self._end("vanished")
        self._websocket.abort()

    # -- sending

    def send(self, message: Any, channel: str | None = None) -> None:
        """Send a message, or a message to a channel, which requires a subscription to it."""
        if channel is None:
            self.emit("message", message)
        else:
            self.emit("__channel__", channel, message)

    def emit(self, event: str, *args: Any) -> None:
        """Send a custom event."""
        self._must_be_connected()
        self._send(encode_event(self.namespace, event, args))
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
        """Send an event, and return its `Ack`, which a waiting handler may send later."""
        self._must_be_connected()
        ack = Ack(self._server, event)
        self._acks.append(ack)
        self._send(encode_event(self.namespace, event, args, len(self._acks) - 1))
        self._server.settle()
        return ack

    def subscribe(self, channel: str) -> None:
        """Subscribe to a channel.

        Raises:
            Refused: A gate rejected the subscription; the text is its reason.
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
            AssertionError: There is none once the server is idle; the text lists what arrived.
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
        """Remove all events from the queue and return them.

        Returns:
            A list of `Received`; with a name, a list of the data of the events of this name.
        """
        self._server.settle()
        found = self._events.take_all(event)
        return found if event is None else [item.data for item in found]

    # -- internals

    @property
    def _prefix(self) -> str:
        return "" if self.namespace == "/" else f"{self.namespace},"

    def _send(self, message: Message) -> None:
        self._websocket.send(message)

    def _must_be_connected(self) -> None:
        if not self.connected:
            raise AssertionError(f"cannot send: {self!r}")

    def _change(self, event: str, channel: str) -> None:
        answer = self.call(event, channel)
        if not answer["ok"]:
            raise Refused(answer["error"])

    def _explain(self, what: str) -> str:
        history = [f"{event}: {data!r}" for event, data in self._events.history]
        return (
            f"{what} for {self!r}; all received events, in order:\n{indent(history)}"
            f"{self._server.explain()}"
        )

    def _receive(self, data: str | bytes) -> None:
        if isinstance(data, str) and data.startswith(f"{CONNECT_ERROR}{self._prefix}"):
            self._refused = json.loads(data[1 + len(self._prefix) :])["message"]
            return
        packet = self._decoder.feed(data)
        if packet is None:
            return
        if packet.type == CONNECT:
            self.id = packet.data["sid"]
            self._socket = self._server.find(self.id)
            self.connected = True
        elif packet.type == DISCONNECT:
            self._end("io server disconnect")
        elif packet.type == ACK and packet.id is not None:
            self._acks[packet.id].set(packet.data)
        elif packet.type == EVENT:
            self._events.put(packet.data[0], packet.data[1:])
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
        self._send(encode_ack(self.namespace, packet.id, [value]))

    def _lose(self) -> None:
        self._end("transport close")

    def _end(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
        self.connected = False
