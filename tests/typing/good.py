"""Typical handlers without errors of strict type checkers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from webpy_socketio import (
    HTTPServer,
    NoSocket,
    Refused,
    Runtime,
    Socket,
    SocketIOServer,
    broadcast,
    broadcast_channel,
    call_later,
    configure,
    emit,
    emit_to_servers,
    everyone,
    off,
    on_connect,
    on_connecting,
    on_disconnect,
    on_error,
    on_event,
    on_finish,
    on_message,
    on_subscribe,
    on_subscribing,
    on_unsubscribe,
    run_on_hub,
    send,
    signals,
    socketio_scripts,
    socketio_urls,
    to,
    to_sockets,
)
from webpy_socketio.testing import Client, TestServer

Environ = dict[str, Any]
Context = dict[str, Any]


@on_connecting
def may_connect(request: Environ, socket: Socket, context: Context) -> None:
    if socket.auth is None:
        raise Refused("who are you?")


@on_connect
def connected(request: Environ, socket: Socket, context: Context) -> None:
    context["name"] = request.get("HTTP_COOKIE")


@on_connect()
def connected_too(request: Environ, socket: Socket, context: Context) -> str:
    return socket.session.session_id


@on_message
def message(request: Environ, socket: Socket, context: Context, message: Any) -> list[int]:
    socket.send_and_broadcast({"text": message})
    return [1, 2]


@on_message(channel="^room-")
def to_room(request: Environ, socket: Socket, context: Context, message: dict[str, str]) -> None:
    socket.broadcast_channel(message["text"], "room-1")


@on_event("add")
def add(request: Environ, socket: Socket, context: Context, one: int, other: int = 1) -> int:
    return one + other


@on_event("all", channel=re.compile("^room-"))
def any_number(request: Environ, socket: Socket, context: Context, *args: str) -> tuple[str, ...]:
    return args


@on_event("none")
def none(request: Mapping[str, Any], socket: Socket, context: Context) -> None:
    answer: Any = socket.call("question", 1, timeout=2.5)
    socket.emit("answered", answer)


@on_subscribing(channel="^staff-")
def staff_only(request: Environ, socket: Socket, context: Context, channel: str) -> None:
    raise Refused("for staff only", data={"code": 403})


@on_subscribe
def subscribed(request: Environ, socket: Socket, context: Context, channel: str) -> None:
    changed: bool = socket.subscribe(f"{channel}-too")
    assert changed


@on_unsubscribe()
def unsubscribed(request: Environ, socket: Socket, context: Context, channel: str) -> None:
    channels: tuple[str, ...] = socket.channels
    assert channel in channels


@on_error
def failed(request: Environ, socket: Socket, context: Context, exception: BaseException) -> None:
    assert isinstance(exception, ValueError)


@on_disconnect(channel="^room-")
@on_finish
def gone(*args: Any) -> None:
    pass


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **keywords: Any) -> Any:
        return function(*args, **keywords)

    return wrapper


@on_message
@traced
def wrapped(request: Environ, socket: Socket, context: Context, message: Any) -> None:
    pass


class Room:
    def message(self, request: Environ, socket: Socket, context: Context, message: Any) -> None:
        pass


on_message(Room().message)


@signals.message.connect
def count(sender: Socket, event: str, **extra: Any) -> int:
    return len(event)


def use() -> None:
    # Decorators return the function itself.
    assert message({}, socket(), {}, "x").pop() == 2
    assert add({}, socket(), {}, 1, 2).bit_length() == 2
    assert to_room.__name__ == "to_room"
    assert count(socket(), "message").bit_length() == 3
    off(add)
    configure({"SOCKETIO_PORT": 8001})
    call_later(1.5, broadcast, {"text": "later"})
    number: int = run_on_hub(len, "text")
    try:
        broadcast(number)
        broadcast_channel(b"bytes", "room-1", namespace="/")
        emit("news", 1, 2, channel="room-1")
        send("id", None)
        votes: list[Any] = to("room-1").call("vote", timeout=5)
        names: list[str] = [info.id for info in everyone.local.sockets()]
        emit_to_servers("clear")
        loads: dict[str, Any] = emit_to_servers("load", timeout=2)
        assert votes or names or loads
        everyone.subscribe("room-1")
        to("room-1").to_sockets("id", *everyone.sockets()).send("private")
        to_sockets("id").emit("private", 1)
    except NoSocket as error:
        head: str = socketio_scripts() + str(error)
        assert head
    urls = ("/", "index", *socketio_urls)
    assert len(urls) == 4


def key(request: Mapping[str, Any], socket: Socket, context: Context) -> str:
    return str(request["REMOTE_ADDR"]) + socket.session_id


def serve(options: dict[str, Any]) -> None:
    server = SocketIOServer(
        ("", 8000),
        application,
        resource="rt",
        ping_interval=10,
        namespaces=["/", "/chat"],
        trusted_proxies=("10.0.0.0/8", "unix"),
        backplane=None,
        presence_key=key,
        history={"^room-": {"size": 100, "ttl": 3600}},
        rate_limit_key=lambda request, socket, context: socket.session_id,
        rate_limit_messages=(0.5, 10),
        rate_limit_packets=[20, 60],
        rate_limit_subscriptions=None,
        admin_mode="production",
        log=None,
        certfile="cert.pem",
        keyfile="key.pem",
    )
    SocketIOServer(None, application, **options)
    seconds: float = server.settings.ping_interval + 1.0
    port: int = server.settings.port
    HTTPServer(("", port), application, server.settings, log=None)
    client = TestServer(application, max_channels=5, timeout=seconds, runtime=Runtime()).connect()
    again: Client = client.browser.connect()
    Runtime.of(again.socket).broadcast("hello")


def application(environ: Environ, start_response: Any) -> list[bytes]:
    return []


def socket() -> Socket:
    raise NotImplementedError
