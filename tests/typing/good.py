"""Typical handlers without errors of strict type checkers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from webpy_socketio import (
    NoSocket,
    Refused,
    Socket,
    SocketIOServer,
    broadcast,
    broadcast_channel,
    call_later,
    configure,
    emit,
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
)

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
    raise Refused("for staff only")


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
    except NoSocket as error:
        head: str = socketio_scripts() + str(error)
        assert head
    urls = ("/", "index", *socketio_urls)
    SocketIOServer(("", 8000), application, resource="rt", ping_interval=10)
    assert len(urls) == 4


def application(environ: Environ, start_response: Any) -> list[bytes]:
    return []


def socket() -> Socket:
    raise NotImplementedError
