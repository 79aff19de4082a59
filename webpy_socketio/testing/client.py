"""A client: sends, subscribes, answers, and tells what arrived."""

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
    """A connected client; `TestServer.connect` and `Browser.connect` make them.

    Whatever sends returns when everything that it caused has happened: handlers have run, and what
    they sent has arrived. An error that they raised is raised again here.
    """

    def __init__(self, server: TestServer, browser: Browser, namespace: str) -> None:
        self._server = server
        #: Whose cookies it has.
        self.browser = browser
        self.namespace = namespace
        #: Whether it is connected, as far as it knows itself.
        self.connected = False
        #: Why it is not connected any more, in the words of the stock client.
        self.reason: str | None = None
        #: The public session id.
        self.id = ""
        self._socket: Socket | None = None
        self._refused: str | None = None
        self._number = server.number()
        self._mailbox = EventQueue()
        self._decoder = Decoder()
        self._answers: list[Ack] = []
        self._answerers: dict[str, Any] = {}
        self._questions: list[Packet] = []
        self._link: WebSocketClient

    def __repr__(self) -> str:
        where = "" if self.namespace == "/" else f" in {self.namespace}"
        state = "connected" if self.connected else f"not connected: {self.reason or self._refused}"
        return f"<Client {self._number}{where}, {state}>"

    # -- its life

    def open(
        self,
        auth: dict[str, Any] | None,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None,
    ) -> None:
        """Connect; for `Browser.connect`."""
        target = f"{self._server.path}?{urlencode({**query, 'EIO': '4', 'transport': 'websocket'})}"
        self._link = link = WebSocketClient(target, self._receive, self._lose)
        request = link.handshake(self.browser.all_headers(headers).items())
        sock = MemorySocket(request, link.stream)
        self._server.handle(sock, self.browser.address, "the handshake")
        if sock.answer:
            raise HandshakeRefused(bytes(sock.answer), self._server.path)
        data = "" if auth is None else json.dumps(auth)
        self._send(Message(f"4{CONNECT}{self._prefix}{data}".encode()))
        self._server.wait(lambda: self.connected or bool(self._refused) or self.reason is not None)
        if self._refused is not None or not self.connected:
            link.close()
        self._server.settle()
        if self._refused is not None:
            raise Refused(self._refused)
        if self._socket is None:
            raise AssertionError(f"{self!r}: it was not let in{self._server.explain()}")
        self.browser.keep_cookies(link.headers.get_all("Set-Cookie"))

    @property
    def socket(self) -> Socket:
        """The server's side of it: what handlers get, with ``context`` and ``channels``.

        It stays when the connection is over.
        """
        assert self._socket is not None, "it never connected"
        return self._socket

    @property
    def answer_pings(self) -> bool:
        """Whether it answers the server's pings, as every client does that is there."""
        return self._link.answer_pings

    @answer_pings.setter
    def answer_pings(self, answer: bool) -> None:
        self._link.answer_pings = answer

    @property
    def close_code(self) -> int | None:
        """The code that the server closed the WebSocket with, if it did."""
        return self._link.close_code

    def disconnect(self) -> None:
        """Leave, as ``socket.disconnect()`` does in a page."""
        self._end("io client disconnect")
        self._send(encode_disconnect(self.namespace))
        self._link.close()
        self._server.settle()

    def close(self) -> None:
        """Be gone as a page is that was closed: the server sees "transport close"."""
        self._end("transport close")
        self._link.close()
        self._server.settle()

    def abort(self) -> None:
        """Be gone without a word, as a phone in a tunnel; the server finds out by its pings."""
        self._end("vanished")
        self._link.abort()

    # -- what it sends

    def send(self, message: Any, channel: str | None = None) -> None:
        """Send a message; with a channel, which it has to be in, a message addressed to that."""
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
        """Send an event and return the acknowledgement: what its handlers answered.

        As on the server: None, a value, or a list of several.
        """
        return self.ask(event, *args).value

    def ask(self, event: str, *args: Any) -> Ack:
        """The same for a handler that waits: its answer may come later."""
        self._must_be_connected()
        answer = Ack(self._server, event)
        self._answers.append(answer)
        self._send(encode_event(self.namespace, event, args, len(self._answers) - 1))
        self._server.settle()
        return answer

    def subscribe(self, channel: str) -> None:
        """Subscribe to a channel. Raises `Refused` with the reason if it may not."""
        self._change("__subscribe__", channel)

    def unsubscribe(self, channel: str) -> None:
        """Leave a channel."""
        self._change("__unsubscribe__", channel)

    def on(self, event: str, *, answer: Any) -> None:
        """Acknowledge this event of the server's, ``socket.call``: by a value or a function's.

        The function gets the event's arguments, and must not wait.
        """
        self._answerers[event] = answer
        waiting, self._questions = self._questions, []
        for packet in waiting:
            self._answer(packet)
        self._server.settle()

    # -- what arrived

    @overload
    def receive(self) -> Received: ...
    @overload
    def receive(self, event: str) -> Any: ...
    def receive(self, event: str | None = None) -> Any:
        """Take the next event of this name and return its data; without a name the next of all.

        Fails if there is none when everything has happened, and says what there was instead.
        """
        self._server.wait(lambda: self._mailbox.has(event))
        self._server.check()
        if not self._mailbox.has(event):
            raise AssertionError(self._explain("no event" if event is None else f"no {event!r}"))
        found = self._mailbox.take(event)
        return found if event is None else found.data

    @overload
    def received(self) -> list[Received]: ...
    @overload
    def received(self, event: str) -> list[Any]: ...
    def received(self, event: str | None = None) -> list[Any]:
        """Take all that arrived and was not taken, when everything has happened.

        A list of `Received`; with a name only the events of this name, and of them the data.
        """
        self._server.settle()
        found = self._mailbox.take_all(event)
        return found if event is None else [item.data for item in found]

    # -- how

    @property
    def _prefix(self) -> str:
        return "" if self.namespace == "/" else f"{self.namespace},"

    def _send(self, message: Message) -> None:
        self._link.send(message)

    def _must_be_connected(self) -> None:
        if not self.connected:
            raise AssertionError(f"{self!r} has nobody to send to")

    def _change(self, event: str, channel: str) -> None:
        answer = self.call(event, channel)
        if not answer["ok"]:
            raise Refused(answer["error"])

    def _explain(self, what: str) -> str:
        history = [f"{event}: {data!r}" for event, data in self._mailbox.history]
        return (
            f"{what} for {self!r}; all that ever arrived, in order:\n{indent(history)}"
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
            self._answers[packet.id].set(packet.data)
        elif packet.type == EVENT:
            self._mailbox.put(packet.data[0], packet.data[1:])
            if packet.id is not None:
                self._answer(packet)

    def _answer(self, packet: Packet) -> None:
        event, *args = packet.data
        if event not in self._answerers:
            self._questions.append(packet)
            return
        answer: Callable[..., Any] | Any = self._answerers[event]
        value = answer(*args) if callable(answer) else answer
        assert packet.id is not None
        self._send(encode_ack(self.namespace, packet.id, [value]))

    def _lose(self) -> None:
        self._end("transport close")

    def _end(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
        self.connected = False
