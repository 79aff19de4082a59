"""The server for the test suite of engine.io-client.

``python tests/conformance/engine_client_server.py [PORT]`` (default 3000; 0 for a free port).
Prints ``PORT <port>``.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs

from announce import start

from webpy_socketio.engine import Engine, EngineConfig, EngineServer, PeerWorkers, Session
from webpy_socketio.engine.engine import sid_in
from webpy_socketio.engine.engineio.polling import Watch
from webpy_socketio.engine.engineio.requests import Response
from webpy_socketio.engine.http.wsgi import ACCEPT_KEY
from webpy_socketio.engine.io import json

CONFIG = EngineConfig(ping_interval=0.5, max_message_size=100, allowed_origins=["*"])

#: The cookies of the handshake response, of which the client stores "1" and "2".
COOKIES = (
    "1=1; Max-Age=86400",
    "2=2; Path=/; HttpOnly; Secure; SameSite=Strict",
    "3=3; Max-Age=0",
    f"4=4; Expires={formatdate(usegmt=True)}",
)


class Commands:
    """Responds to the commands of the suite, and echoes other messages."""

    def __init__(self, session: Session) -> None:
        self._session = session
        #: The headers of the last POST.
        self.headers: dict[str, str] = {}

    def message(self, data: str | bytes) -> None:
        if data == "give binary":
            data = bytes(range(5))
        elif data == "give utf8":
            data = "пойду спать всем спокойной ночи"
        elif data == "sendHeaders":
            data = json.dumps(self.headers).decode()
        self._session.send(data)

    def closed(self, reason: str) -> None:
        pass


class CommandsApplication:
    """Sends "hi" to each session."""

    def opened(self, session: Session) -> Commands:
        session.send("hi")
        return Commands(session)


class RecordingEngine(Engine):
    """An engine that stores the headers of the last POST in `Commands.headers`."""

    def respond(self, environ: dict[str, Any], watch: Watch) -> Response:
        session = self.sessions.get(sid_in(environ["QUERY_STRING"]))
        if session is not None and environ["REQUEST_METHOD"] == "POST":
            assert isinstance(session.receiver, Commands)
            session.receiver.headers = {
                name.removeprefix("HTTP_").replace("_", "-").lower(): value
                for name, value in environ.items()
                if name.startswith("HTTP_")
            }
        return super().respond(environ, watch)

    def may_repeat(self, environ: dict[str, Any]) -> bool:
        return False  # `respond` must be called for the first POST of each connection


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Accept handshakes and set cookies; reject those with ``deny`` in the query."""
    if "deny" in parse_qs(environ["QUERY_STRING"]):
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"code":4,"message":"Forbidden"}']
    environ[ACCEPT_KEY] = True
    start_response("200 OK", [("Set-Cookie", cookie) for cookie in COOKIES])
    return []


def make(listener: Any, config: EngineConfig, peers: PeerWorkers | None) -> EngineServer:
    engine = RecordingEngine(CommandsApplication(), config, "/engine.io/")
    return EngineServer(listener, engine, application, peers, log=None)


if __name__ == "__main__":
    start(make, CONFIG)
