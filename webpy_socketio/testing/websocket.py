"""The client side of a WebSocket: handshake, frames, and Engine.IO packets."""

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
    """An Engine.IO session over an in-memory WebSocket.

    `on_message` is called for each message, `on_close` at the end; both run on the hub.
    """

    def __init__(
        self,
        target: str,
        on_message: Callable[[str | bytes], None],
        on_close: Callable[[], None],
    ) -> None:
        self._on_message = on_message
        self._on_close = on_close
        self._protocol = ClientProtocol(parse_uri(f"ws://{HOST}{target}"), max_size=None)
        self.stream = MemoryStream(self._receive, self._lose)
        #: Whether pings are answered.
        self.answer_pings = True
        #: Headers of the handshake's response.
        self.headers = Headers()
        self._open = True

    def handshake(self, headers: Iterable[tuple[str, str]]) -> bytes:
        """Return the HTTP request that opens the WebSocket."""
        request = self._protocol.connect()
        for name, value in headers:
            request.headers.pop(name, None)
            request.headers[name] = value
        self._protocol.send_request(request)
        return b"".join(self._protocol.data_to_send())

    @property
    def close_code(self) -> int | None:
        """The close code sent by the server, or None."""
        close: Close | None = self._protocol.close_rcvd
        return None if close is None else close.code

    def send(self, message: Message) -> None:
        """Send packets; they are dropped if the WebSocket is closed."""
        if self._protocol.state is not State.OPEN:
            return
        if message.text is not None:
            self._protocol.send_text(message.text)
        for attachment in message.attachments:
            self._protocol.send_binary(attachment)
        self._flush()

    def close(self) -> None:
        """Close like a browser that leaves the page, without waiting for the close frame."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1001)
            self._flush()
        self.stream.hang_up()

    def drop(self) -> None:
        """End the TCP connection without a close frame; the server detects this at once."""
        self.stream.hang_up()
        self._lose()

    def abort(self) -> None:
        """Lose the connection: data of both sides is dropped."""
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
                    self._handle_packet(bytes(event.data).decode())
                elif event.opcode is Opcode.BINARY:
                    self._on_message(bytes(event.data))
            elif isinstance(event, Response):
                self.headers = event.headers
        self._flush()

    def _handle_packet(self, packet: str) -> None:
        if packet.startswith("4"):
            self._on_message(packet[1:])
        elif packet == "2" and self.answer_pings:
            self.send(Message(b"3"))

    def _lose(self) -> None:
        if self._open:
            self._open = False
            self._on_close()
