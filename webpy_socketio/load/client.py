"""A Socket.IO client over a WebSocket, without a greenlet of its own on TCP."""

from __future__ import annotations

import _socket
import json
import time
from collections.abc import Sequence
from typing import Any, Protocol

import gevent
import gevent.event
import gevent.ssl
from gevent import socket
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from webpy_socketio.engine.io.streams import Stream, TCPStream
from webpy_socketio.engine.io.tls import TLSStream
from webpy_socketio.load.target import Target

__all__ = ["ConnectFailed", "LoadClient", "Observer"]

#: Seconds without progress of a write after which the connection is lost.
_WRITE_TIMEOUT = 20.0

#: Types of packets. Payloads are not parsed, except the reason of a rejection.
_ACK, _EVENT, _CONNECT, _CONNECT_ERROR, _DISCONNECT = "43", "42", "40", "44", "41"
_BINARY_EVENT, _BINARY_ACK = "45", "46"


class ConnectFailed(Exception):
    """A client could not connect; the text is the kind of the error, the same for all clients."""


class Observer(Protocol):
    """Receives what happens to the clients; called on the hub, so it must not block."""

    def answered(self, began: float) -> None:
        """Count the answer to an event or ping that was sent at this time."""

    def event_received(self) -> None:
        """Count an event from the server."""

    def lost(self, kind: str) -> None:
        """Count the loss of a connected client."""


class LoadClient:
    """One client in one namespace.

    Args:
        target: The server.
        observer: Receives answers, events and the loss of the connection.
        namespace: Socket.IO namespace.
        auth: Payload of the CONNECT packet, or None.
        headers: Additional headers of the handshake.
    """

    def __init__(
        self,
        target: Target,
        observer: Observer,
        namespace: str = "/",
        auth: Any = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._target = target
        self._observer = observer
        self._namespace = "" if namespace == "/" else f"{namespace},"
        self._auth = "" if auth is None else json.dumps(auth)
        self._headers = headers
        self._protocol = ClientProtocol(parse_uri(target.websocket_url), max_size=None)
        self._stream: Stream | None = None
        self._connected = gevent.event.AsyncResult()
        #: Times at which unanswered events and pings were sent, by number.
        self.pending: dict[int, float] = {}
        self._numbers = 0
        self.is_open = False

    def connect(self, timeout: float) -> None:
        """Connect within `timeout` seconds.

        Raises:
            ConnectFailed: The server cannot be reached, or rejected the client.
        """
        try:
            with gevent.Timeout(timeout, ConnectFailed(f"no connection within {timeout:g} s")):
                self._open()
                self._connected.get()
        except BaseException:
            self._abort()
            raise

    def emit(self, event: str, wants_answer: bool) -> int | None:
        """Send an event, encoded as a JSON list; return its number if it wants an answer."""
        if not wants_answer:
            self._send(f"{_EVENT}{self._namespace}{event}")
            return None
        number = self._register()
        self._send(f"{_EVENT}{self._namespace}{number}{event}")
        return number

    def ping(self) -> int:
        """Send a WebSocket ping, which every server answers (RFC 6455 §5.5.2)."""
        number = self._register()
        self._protocol.send_ping(str(number).encode())
        self._flush()
        return number

    def close(self) -> None:
        """Leave as a browser that closes the page."""
        self.is_open = False
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1001)
            self._flush()
        if self._stream is not None:
            self._stream.close()

    # -- callbacks of the stream

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                if event.opcode is Opcode.TEXT:
                    self._take(bytes(event.data).decode("utf-8", "replace"))
                elif event.opcode is Opcode.PONG:
                    self._answered(bytes(event.data).decode("ascii", "replace"))
        failure = self._failure()
        if failure is None:
            self._flush()
        else:
            self._end(failure)

    def resume_writing(self) -> None:
        """Do nothing: the stream queues what the server has not read."""

    def connection_lost(self, reason: str) -> None:
        self._protocol.receive_eof()
        self._end(self._failure() or f"connection lost: {reason}")

    # -- helpers

    def _failure(self) -> str | None:
        failure = self._protocol.handshake_exc
        if isinstance(failure, InvalidStatus):
            response = failure.response
            return f"handshake rejected: {response.status_code} {response.reason_phrase}"
        if failure is not None:
            return "handshake failed: the server does not speak WebSocket at this path"
        close = self._protocol.close_rcvd
        return None if close is None else f"closed: {close.code} {close.reason}".rstrip()

    def _open(self) -> None:
        target = self._target
        sock = socket.socket(target.family, socket.SOCK_STREAM)
        try:
            sock.connect(target.address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.is_tls:
                context = gevent.ssl.create_default_context()
                sock = context.wrap_socket(sock, server_hostname=target.host)
        except OSError as error:
            sock.close()
            cause = error.strerror or getattr(error, "reason", None) or str(error)
            raise ConnectFailed(f"cannot connect: {cause}") from None
        except BaseException:
            sock.close()
            raise
        request = self._protocol.connect()
        for name, value in self._headers:
            request.headers.pop(name, None)
            request.headers[name] = value
        self._protocol.send_request(request)
        if target.is_tls:
            stream = TLSStream(sock, _WRITE_TIMEOUT)
            self._stream = stream
            stream.start(self)
            gevent.spawn(self._run_tls, stream, sock)
        else:
            raw = _socket.socket(fileno=sock.detach())
            raw.setblocking(False)
            self._stream = TCPStream(raw, gevent.get_hub().loop, _WRITE_TIMEOUT)
            self._stream.start(self)
        self._flush()

    @staticmethod
    def _run_tls(stream: TLSStream, sock: Any) -> None:
        try:
            stream.run()
        finally:
            sock.close()

    def _register(self) -> int:
        self._numbers += 1
        self.pending[self._numbers] = time.monotonic()
        return self._numbers

    def _answered(self, number: str) -> None:
        if number.isdigit() and (began := self.pending.pop(int(number), None)) is not None:
            self._observer.answered(began)

    def _send(self, packet: str) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(packet.encode())
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        if data and self._stream is not None:
            self._stream.write(data)

    def _take(self, packet: str) -> None:
        """Handle an Engine.IO packet."""
        if packet == "2":
            self._send("3")
            return
        kind, body = packet[:2], packet[2:].removeprefix(self._namespace)
        if kind == _ACK:
            self._answered(body.partition("[")[0])
        elif kind == _BINARY_ACK:
            self._answered(body.partition("-")[2].removeprefix(self._namespace).partition("[")[0])
        elif kind in (_EVENT, _BINARY_EVENT):
            self._observer.event_received()
        elif kind == _CONNECT:
            self.is_open = True
            self._connected.set()
        elif kind == _CONNECT_ERROR:
            self._end(f"connection rejected: {_reason(body)}")
        elif kind == _DISCONNECT or packet == "1":
            self._end("disconnected by the server")
        elif packet.startswith("0"):
            self._send(f"{_CONNECT}{self._namespace}{self._auth}")

    def _end(self, kind: str) -> None:
        was_open, self.is_open = self.is_open, False
        self._abort()
        self.pending.clear()
        if was_open:
            self._observer.lost(kind)
        elif not self._connected.ready():
            self._connected.set_exception(ConnectFailed(kind))

    def _abort(self) -> None:
        if self._stream is not None:
            self._stream.abort()


def _reason(body: str) -> str:
    """Return the message of a CONNECT_ERROR, shortened to one line."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    message = found.get("message") if isinstance(found, dict) else None
    return " ".join(str(message or "no reason").split())[:100]
