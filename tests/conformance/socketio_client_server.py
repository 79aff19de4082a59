"""The server for the test suite of socket.io-client, built with the public API.

``python tests/conformance/socketio_client_server.py [PORT]`` (default 3000; 0 for a free port; the
suite expects 3210). Prints ``PORT <port>``.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import contextlib
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qsl

import gevent
import web
from announce import start

from webpy_socketio import (
    CallTimeout,
    Disconnected,
    Refused,
    Socket,
    SocketIOServer,
    on_connect,
    on_connecting,
    on_event,
    socketio_urls,
)
from webpy_socketio.engine import EngineConfig, EngineServer, PeerWorkers
from webpy_socketio.engine.engine import sid_in

CONFIG = EngineConfig(
    ping_interval=2.0,
    allowed_origins=["*"],
)

NAMESPACES = ["/", "/foo", "/timeout_socket", "/valid", "/asd", "/abc", "/no"]

#: Minimum duration of a handshake in seconds; the suite tests clients that do not wait for it.
HANDSHAKE = 0.01

TEXTS = ("てすと", "Я Б Г Д Ж Й", "Ä ä Ü ü ß", "utf8 — string", "utf8 — string")
DATA = b"asdfasdf"


def now() -> str:
    """Return the time in the format of a JavaScript Date in JSON."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def query_of(request: dict[str, Any]) -> dict[str, str]:
    return dict(parse_qsl(request["QUERY_STRING"], keep_blank_values=True))


def handshake(request: dict[str, Any], socket: Socket) -> dict[str, Any]:
    return {"query": query_of(request), "auth": socket.auth or {}}


@on_connecting
def gate(request: Any, socket: Any, context: Any) -> None:
    if socket.namespace == "/no":
        raise Refused("Auth failed (custom namespace)")
    if socket.namespace == "/" and query_of(request).get("fail"):
        raise Refused("Auth failed (main namespace)")


@on_connect
def greet(request: Any, socket: Any, context: Any) -> None:
    if socket.namespace == "/abc":
        socket.emit("handshake", handshake(request, socket))


@on_event("hi")
def hi(request: Any, socket: Any, context: Any) -> None:
    socket.emit("hi")


@on_event("echo")
def echo(request: Any, socket: Any, context: Any, value: Any) -> Any:
    return (value,)  # a tuple, because None alone means no acknowledgement arguments


@on_event("getId")
def get_id(request: Any, socket: Any, context: Any) -> str:
    return str(socket.session_id)


@on_event("getHandshake")
def get_handshake(request: Any, socket: Any, context: Any) -> dict[str, Any]:
    return handshake(request, socket)


@on_event("ack")
def ask(request: Any, socket: Any, context: Any) -> None:
    gevent.spawn(confirm, socket)
    socket.withhold_acknowledgement()  # the suite expects a timeout in the client


def confirm(socket: Socket) -> None:
    """Request an acknowledgement, which some clients of the suite never send."""
    with contextlib.suppress(CallTimeout, Disconnected):
        if socket.call("ack") == [5, {"test": True}]:
            socket.emit("got it")


@on_event("getAckDate")
def get_ack_date(request: Any, socket: Any, context: Any, data: Any) -> str:
    return now()


@on_event("getDate")
def get_date(request: Any, socket: Any, context: Any) -> None:
    socket.emit("takeDate", now())


@on_event("getDateObj")
def get_date_object(request: Any, socket: Any, context: Any) -> None:
    socket.emit("takeDateObj", {"date": now()})


@on_event("getUtf8")
def get_utf8(request: Any, socket: Any, context: Any) -> None:
    for text in TEXTS:
        socket.emit("takeUtf8", text)


@on_event("false")
def send_false(request: Any, socket: Any, context: Any) -> None:
    socket.emit("false", False)


@on_event("doge")
def doge(request: Any, socket: Any, context: Any) -> None:
    socket.emit("doge", DATA)


@on_event("getbin")
def get_bytes(request: Any, socket: Any, context: Any) -> None:
    socket.emit("takebin", DATA)


@on_event("buffa")
def take_bytes(request: Any, socket: Any, context: Any, data: Any) -> None:
    assert isinstance(data, bytes)
    socket.emit("buffack")


@on_event("jsonbuff")
def take_mixed(request: Any, socket: Any, context: Any, value: Any) -> None:
    assert isinstance(value.pop("message"), bytes)
    assert value == {"hello": "lol", "goodbye": "gotcha"}
    socket.emit("jsonbuff-ack")


@on_event("abuff1")
def take_first(request: Any, socket: Any, context: Any, data: Any) -> None:
    assert isinstance(data, bytes)
    context["first"] = True


@on_event("abuff2")
def take_second(request: Any, socket: Any, context: Any, data: Any) -> None:
    assert context["first"]
    socket.emit("abuff2-ack")


def make(listener: Any, config: EngineConfig, peers: PeerWorkers | None) -> EngineServer:
    application = web.application(socketio_urls, {}).wsgifunc()

    def delayed(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not sid_in(environ["QUERY_STRING"]):
            gevent.sleep(HANDSHAKE)
        answer: Iterable[bytes] = application(environ, start_response)
        return answer

    return SocketIOServer(
        listener,
        delayed,
        peers=peers,
        ping_interval=config.ping_interval,
        recovery_time=60,
        allowed_origins=list(config.allowed_origins or ()),
        namespaces=NAMESPACES,
        plugins=[],
        log=None,
    )


if __name__ == "__main__":
    start(make, CONFIG)
