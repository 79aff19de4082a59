"""Mistakes that strict type checkers report, on exactly the lines marked ``# wrong``."""

from __future__ import annotations

from typing import Any

from webpy_socketio import (
    HTTPServer,
    Socket,
    SocketIOServer,
    broadcast_channel,
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
    send,
    signals,
)
from webpy_socketio.testing import TestServer

Environ = dict[str, Any]
Context = dict[str, Any]


@on_connect  # wrong
def without_context(request: Environ, socket: Socket) -> None:
    pass


@on_connect  # wrong
def one_too_many(request: Environ, socket: Socket, context: Context, message: Any) -> None:
    pass


@on_message  # wrong
def without_message(request: Environ, socket: Socket, context: Context) -> None:
    pass


@on_message(channel="^room-")  # wrong
def swapped(socket: Socket, request: Environ, context: Context, message: Any) -> None:
    pass


@on_message("^room-")  # wrong
def by_position(request: Environ, socket: Socket, context: Context, message: Any) -> None:
    pass


@on_message(channel=5)  # wrong
def no_pattern(request: Environ, socket: Socket, context: Context, message: Any) -> None:
    pass


@on_connect(channel="^room-")  # wrong
def bound(request: Environ, socket: Socket, context: Context) -> None:
    pass


@on_event  # wrong
def no_name(request: Environ, socket: Socket, context: Context) -> None:
    pass


@on_event("add")  # wrong
def no_first_three(one: int, other: int) -> int:
    return one + other


@on_subscribe  # wrong
def of_bytes(request: Environ, socket: Socket, context: Context, channel: bytes) -> None:
    pass


@on_error  # wrong
def of_another_kind(request: Environ, socket: Socket, context: Context, exception: str) -> None:
    pass


@on_connecting  # wrong
def returns_no(request: Environ, socket: Socket, context: Context) -> bool:
    return False


@on_subscribing(channel="^staff-")  # wrong
def returns_no_too(request: Environ, socket: Socket, context: Context, channel: str) -> bool:
    return False


@on_message
def answers(request: Environ, socket: Socket, context: Context, message: Any) -> int:
    socket.send()  # wrong
    socket.subscribe(5)  # wrong
    socket.no_such_method()  # wrong
    socket.call("x", timeout="long")  # wrong
    return 1


@signals.message.connect
def receives(sender: Socket, **extra: Any) -> int:
    return 1


@on_connect
def keeps_type(request: Environ, socket: Socket, context: Context) -> int:
    return 1


@on_finish(channel="x")
@on_disconnect
def keeps_type_bound(request: Environ, socket: Socket, context: Context) -> int:
    return 1


@on_unsubscribe(channel="x")
@on_subscribe
def keeps_type_of_channel(request: Environ, socket: Socket, context: Context, channel: str) -> int:
    return 1


@on_error
def keeps_type_of_error(
    request: Environ, socket: Socket, context: Context, exception: BaseException
) -> int:
    return 1


@on_event("x")
def keeps_type_of_event(request: Environ, socket: Socket, context: Context, more: int = 1) -> int:
    return more


def use(socket: Socket) -> None:
    answers({}, socket, {}, "x").upper()  # wrong
    keeps_type({}, socket, {}).upper()  # wrong
    keeps_type_bound({}, socket, {}).upper()  # wrong
    keeps_type_of_channel({}, socket, {}, "x").upper()  # wrong
    keeps_type_of_error({}, socket, {}, ValueError()).upper()  # wrong
    keeps_type_of_event({}, socket, {}, more="x")  # wrong
    receives(socket).upper()  # wrong
    broadcast_channel("x")  # wrong
    send(5, "x")  # wrong


def serve(application: Any) -> None:
    server = SocketIOServer(
        ("", 8000),
        application,
        ping_interval="10",  # wrong
        plugins="my.plugin",  # wrong
        rate_limit_messages=(20, 60, 1),  # wrong
        presence_key=lambda socket: "key",  # wrong
        admin_mode="test",  # wrong
        keyfile=5,  # wrong
    )
    SocketIOServer(("", 8000), application, ping_intervall=10)  # wrong
    SocketIOServer(("", 8000), application, SOCKETIO_PORT=10)  # wrong
    server.settings.ping_intervall.hex()  # wrong
    server.settings.ping_interval = 10  # wrong
    server.settings.backplane.upper()  # wrong
    HTTPServer(("", 9000), application, server.settings, ping_interval=10)  # wrong
    TestServer(application, max_channels="many")  # wrong
    TestServer(application, certfile="cert.pem")  # wrong
