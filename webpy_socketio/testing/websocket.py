"""A client's end of a WebSocket: the handshake, frames, and the packets of Engine.IO in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from webpy_socketio.engine.io.packets import Message
from webpy_socketio.testing.memory import HOST, MemoryStream

__all__ = ["WebSocketClient"]


class WebSocketClient:
    """An Engine.IO session over a WebSocket in memory.

    `heard` gets each message, `ended` is called when it is over; both on the hub.
    """

    def __init__(
        self, target: str, heard: Callable[[str | bytes], None], ended: Callable[[], None]
    ) -> None:
        self._heard = heard
        self._ended = ended
        self._protocol = ClientProtocol(parse_uri(f"ws://{HOST}{target}"), max_size=None)
        self.stream = MemoryStream(self._receive, self._lose)
        #: Whether pings are answered.
        self.answer_pings = True
        #: The headers of the answer to the handshake.
        self.headers = Headers()
        self._open = True

    def handshake(self, headers: Iterable[tuple[str, str]]) -> bytes:
        """The HTTP request that a WebSocket begins with."""
        request = self._protocol.connect()
        for name, value in headers:
            request.headers.pop(name, None)
            request.headers[name] = value
        self._protocol.send_request(request)
        return b"".join(self._protocol.data_to_send())

    @property
    def close_code(self) -> int | None:
        """The code that the server closed with, if it said one."""
        close: Close | None = self._protocol.close_rcvd
        return None if close is None else close.code

    def send(self, message: Message) -> None:
        """Send packets; nothing happens when the WebSocket is over."""
        if self._protocol.state is not State.OPEN:
            return
        if message.text is not None:
            self._protocol.send_text(message.text)
        for attachment in message.attachments:
            self._protocol.send_binary(attachment)
        self._flush()

    def close(self) -> None:
        """Close as a browser does that leaves the page: without waiting for an answer."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1001)
            self._flush()
        self.stream.hang_up()

    def abort(self) -> None:
        """Be gone without a word: whatever either side sends is lost."""
        self.stream.silent = True
        self._lose()

    def _flush(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        if data:
            self.stream.send(data)

    def _receive(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                if event.opcode is Opcode.TEXT:
                    self._take(bytes(event.data).decode())
                elif event.opcode is Opcode.BINARY:
                    self._heard(bytes(event.data))
            elif isinstance(event, Response):
                self.headers = event.headers
        self._flush()

    def _take(self, packet: str) -> None:
        if packet.startswith("4"):
            self._heard(packet[1:])
        elif packet == "2" and self.answer_pings:
            self.send(Message(b"3"))

    def _lose(self) -> None:
        if self._open:
            self._open = False
            self._ended()
