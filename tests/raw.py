"""Clients that send arbitrary bytes, valid or invalid, and decode the responses."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from pathlib import Path
from typing import Any, Protocol

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

SEPARATOR = "\x1e"

#: All opened sockets; a fixture of conftest closes them after each test.
OPENED: list[socket.socket] = []


def crowd(port: int) -> list[socket.socket]:
    """Open as many connections as the server's listen queue must hold, one after another.

    Blocks if the queue is shorter.
    """
    count = min(300, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    OPENED.extend(opened)
    return opened


class Closed(Exception):
    """The server closed the connection; `code` is the WebSocket close code, or None."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


class WebSocket:
    """A WebSocket client that sends and receives Engine.IO packets as str or bytes."""

    def __init__(
        self,
        port: int,
        path: str = "/socket.io/",
        query: str = "EIO=4&transport=websocket",
        headers: dict[str, str] | None = None,
        handshake: bool = True,
    ) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        # Nagle's algorithm would delay the second of two frames until an ACK: measured, 40 ms.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        OPENED.append(self.sock)
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}{path}?{query}"))
        request = self._protocol.connect()
        for name, value in (headers or {}).items():
            request.headers[name.replace("_", "-")] = value
        self._protocol.send_request(request)
        self._flush()
        self._frames: list[Frame] = []
        self.status = self._read_response()
        #: The Socket.IO id, once connected.
        self.id = ""
        #: The values of the open packet.
        self.open: dict[str, Any] = {}
        if handshake and self.status == 101 and "sid=" not in query:
            packet = self.receive()
            assert isinstance(packet, str), packet
            assert packet.startswith("0")
            self.open = json.loads(packet[1:])

    def connect(self, auth: str = "", namespace: str = "") -> dict[str, Any]:
        """Connect to a namespace, such as ``"/custom,"``; return the payload of the response."""
        self.send(f"40{namespace}{auth}")
        reply = self.receive()
        assert isinstance(reply, str), reply
        assert reply.startswith(f"40{namespace}"), reply
        payload: dict[str, Any] = json.loads(reply[2 + len(namespace) :])
        self.id = payload["sid"]
        return payload

    def emit(self, event: str, *args: Any, ack: int | None = None) -> None:
        """Send an event."""
        self.send(f"42{'' if ack is None else ack}" + json.dumps([event, *args]))

    def call(self, event: str, *args: Any) -> Any:
        """Send an event and return the arguments of its acknowledgement."""
        self.emit(event, *args, ack=7)
        reply = self.receive()
        assert isinstance(reply, str), reply
        assert reply.startswith("437"), reply
        return json.loads(reply[3:])

    def emit_and_wait(self, event: str, *args: Any) -> None:
        """Send an event and wait until it is handled; no packet may arrive in between."""
        self.emit(event, *args)
        self.barrier()

    def barrier(self) -> None:
        """Wait until the server has handled all earlier packets of this client."""
        assert self.call("__unsubscribe__", "barrier") == [{"ok": True}]

    def event(self) -> list[Any]:
        """Return the next event as a list of its name and arguments."""
        packet = self.receive()
        assert isinstance(packet, str), packet
        assert packet.startswith("42"), packet
        event: list[Any] = json.loads(packet[packet.index("[") :])
        return event

    def send(self, data: str | bytes) -> None:
        """Send one frame; raise `Closed` if the server has sent a close frame already."""
        try:
            if isinstance(data, str):
                self._protocol.send_text(data.encode())
            else:
                self._protocol.send_binary(data)
        except InvalidState:
            raise Closed(self._protocol.close_code) from None
        self._flush()

    def send_raw(self, data: bytes) -> None:
        """Send bytes, which need not be a valid frame."""
        self.sock.sendall(data)

    def receive(self, pings: bool = False) -> str | bytes:
        """Return the next message, or raise `Closed`; answer and skip pings unless `pings`."""
        while True:
            while not self._frames:
                self._read()
            frame = self._frames.pop(0)
            if frame.opcode is Opcode.CLOSE:
                raise Closed(int.from_bytes(bytes(frame.data)[:2], "big") or None)
            data = bytes(frame.data)
            if frame.opcode is Opcode.BINARY:
                return data
            if frame.opcode is not Opcode.TEXT:
                continue
            if data == b"2" and not pings:
                self.send("3")
                continue
            return data.decode()

    def wait_closed(self) -> int | None:
        """Read until the server closes, and return the close code."""
        while True:
            try:
                self.receive()
            except Closed as closed:
                return closed.code

    def close(self) -> None:
        """Send a close frame and close the TCP connection."""
        with contextlib.suppress(OSError):
            self._protocol.send_close()
            self._flush()
        self.sock.close()

    def vanish(self, reset: bool = False) -> None:
        """Close the TCP connection without a close frame; with `reset`, by RST."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def _flush(self) -> None:
        self.sock.sendall(b"".join(self._protocol.data_to_send()))

    def _read_response(self) -> int:
        while True:
            self._feed()
            for event in self._protocol.events_received():
                if isinstance(event, Frame):
                    self._frames.append(event)
                else:
                    status = event.status_code  # type: ignore[union-attr]
            if "status" in locals():
                return int(status)

    def _read(self) -> None:
        self._feed()
        self._frames += [
            event for event in self._protocol.events_received() if isinstance(event, Frame)
        ]

    def _feed(self) -> None:
        try:
            data = self.sock.recv(65_536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed(None)
        self._protocol.receive_data(data)


class Server(Protocol):
    """A server with a port."""

    port: int


def connect(server: Server, *channels: str) -> WebSocket:
    """Connect a client to a server, and subscribe it to channels."""
    client = WebSocket(server.port)
    client.connect()
    for channel in channels:
        assert client.call("__subscribe__", channel) == [{"ok": True}]
    return client


class Polling:
    """A long-polling session, with a new connection for each GET and POST."""

    def __init__(
        self,
        port: int,
        path: str = "/socket.io/",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.port = port
        self.path = path
        self.headers = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        status, body = self.request("GET")
        assert status == 200, (status, body)
        self.open: dict[str, Any] = json.loads(body[1:])
        self.sid: str = self.open["sid"]

    @property
    def query(self) -> str:
        sid = getattr(self, "sid", None)
        return "EIO=4&transport=polling" + (f"&sid={sid}" if sid else "")

    def request(self, method: str, body: bytes | None = None) -> tuple[int, str]:
        """Send one request; return status and body of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request(method, f"{self.path}?{self.query}", body, self.headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def poll(self) -> list[str]:
        """Wait for the next payload, and return its packets."""
        status, body = self.request("GET")
        assert status == 200, (status, body)
        return body.split(SEPARATOR)

    def send(self, *packets: str) -> tuple[int, str]:
        """Send packets as one payload."""
        return self.request("POST", SEPARATOR.join(packets).encode())

    def connect(self) -> None:
        """Connect to the main namespace."""
        assert self.send("40") == (200, "ok")
        packets = self.poll()
        assert packets[0].startswith("40"), packets
        self.id = json.loads(packets[0][2:])["sid"]
