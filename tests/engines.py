"""Engines for tests: a real server, its clients, and a receiver that records."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.ssl
import pytest

from webpy_socketio.engine import Engine, EngineConfig, EngineServer, Session

from . import raw
from .certificates import make_certificate
from .conftest import Journal


class RecordedSession:
    """The receiver of one session, which passes its calls to a `Recorder`."""

    def __init__(self, recorder: Recorder, session: Session) -> None:
        self._recorder = recorder
        self._session = session

    def message(self, data: str | bytes) -> None:
        self._recorder.message(self._session, data)

    def closed(self, reason: str) -> None:
        self._recorder.closed(self._session, reason)

    def wait_closed(self) -> str:
        return self._recorder.wait_closed()


class Recorder(Journal):
    """An application that records the calls of its receivers, and echoes messages with `echo`."""

    def __init__(self, echo: bool = False) -> None:
        super().__init__()
        self.echo = echo

    def opened(self, session: Session) -> RecordedSession:
        self.append(("opened", session.id))
        return RecordedSession(self, session)

    def message(self, session: Session, data: str | bytes) -> None:
        self.append(("message", data))
        if self.echo:
            session.send(data)

    def closed(self, session: Session, reason: str) -> None:
        self.append(("closed", reason))

    @property
    def messages(self) -> list[str | bytes]:
        return [value for kind, value in self if kind == "message"]

    @property
    def endings(self) -> list[str]:
        return [value for kind, value in self if kind == "closed"]

    def wait_closed(self) -> str:
        """Wait until a session is closed, and return the reason."""
        self.wait(lambda journal: any(kind == "closed" for kind, _ in journal))
        return self.endings[0]


class Http:
    """One HTTP connection, for valid and invalid requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.OPENED.append(self.sock)

    def send(self, method: str, target: str, *headers: str, body: bytes = b"") -> None:
        lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers, "", ""]
        self.sock.sendall("\r\n".join(lines).encode("latin-1") + body)

    def response(self, method: str = "GET") -> tuple[int, http.client.HTTPMessage, bytes]:
        response = http.client.HTTPResponse(self.sock, method=method)
        try:
            response.begin()
            return response.status, response.headers, response.read()
        finally:
            response.close()

    def request(
        self, method: str, target: str, *headers: str, body: bytes = b""
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        self.send(method, target, *headers, body=body)
        return self.response(method)

    def read_to_end(self) -> bytes:
        """Return all bytes until the server closes or resets the connection."""
        data = b""
        while True:
            try:
                chunk = self.sock.recv(65_536)
            except ConnectionResetError:
                return data
            if not chunk:
                return data
            data += chunk


class Running:
    """A running server with an engine, and clients for it."""

    def __init__(
        self,
        receiver: Any = None,
        application: Any = None,
        pywsgi: dict[str, Any] | None = None,
        listener: Any = ("127.0.0.1", 0),
        **config: Any,
    ) -> None:
        self.receiver = Recorder() if receiver is None else receiver
        self.engine = Engine(self.receiver, EngineConfig(**config))
        self.server = EngineServer(listener, self.engine, application, log=None, **(pywsgi or {}))
        self.server.start()
        self.port: int = self.server.server_port

    @property
    def session(self) -> Session:
        """The only session of the engine."""
        (session,) = self.engine.sessions.values()
        return session

    def http(self) -> Http:
        return Http(self.port)

    def polling(self, **headers: str) -> raw.Polling:
        return raw.Polling(self.port, self.engine.path, headers=headers)

    def websocket(self, query: str = "", **headers: str) -> raw.WebSocket:
        query = f"EIO=4&transport=websocket{query}"
        return raw.WebSocket(self.port, self.engine.path, query, headers)

    def start_poll(self, polling: raw.Polling) -> gevent.Greenlet:
        """Send a GET, and return when it waits in the server."""
        poll = gevent.spawn(polling.request, "GET")
        eventually(lambda: self.engine.sessions[polling.sid].transport.waiting)
        return poll


def eventually(condition: Callable[[], Any]) -> None:
    """Wait for a state that has no event, until the test times out."""
    while not condition():
        gevent.sleep(0.001)


def trust_all() -> ssl.SSLContext:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key in one file."""
    folder = tmp_path_factory.mktemp("tls")
    signed, key = make_certificate(folder)
    path = folder / "both.pem"
    path.write_bytes(key.read_bytes() + signed.read_bytes())
    return path


@pytest.fixture(autouse=True)
def _nothing_printed(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Check that no client causes output on standard error, such as a traceback."""
    yield
    assert capfd.readouterr().err == ""
