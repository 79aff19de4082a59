"""webpy_socketio in a typical program: ``ours.py [port [handlers [redis]]]``.

A web.py application with `socketio_urls`, decorated handlers, one of them bound to a channel, and
the default plugins. The message log is on; its INFO records are discarded by default.
"""

# ruff: noqa: D103, E402 - handlers need no docstring; gevent patches before other imports

from gevent import monkey

monkey.patch_all()

import gc
import itertools
import os
import sys
from typing import Any

import gevent
import web

from webpy_socketio import (
    SocketIOServer,
    broadcast_channel,
    on_connect,
    on_disconnect,
    on_event,
    on_message,
    socketio_urls,
    to,
)

web.config.debug = False  # no reloader

connected = 0


@on_connect
def came(request: Any, socket: Any, context: Any) -> None:
    global connected
    connected += 1


@on_disconnect
def went(request: Any, socket: Any, context: Any) -> None:
    global connected
    connected -= 1


@on_message(channel="^bench")
def echo(request: Any, socket: Any, context: Any, message: Any) -> Any:
    return message


@on_event("room")
def room(request: Any, socket: Any, context: Any, channel: str, message: Any) -> None:
    socket.broadcast_channel(message, channel)


@on_event("go")
def go(request: Any, socket: Any, context: Any, order: dict[str, Any]) -> None:
    messages = itertools.cycle(order.get("messages") or ["x" * order["size"]])
    for _ in range(order["count"] // order["per_turn"]):
        for _ in range(order["per_turn"]):
            if "channel" in order:  # it may have no subscribers
                to(order["channel"]).send(next(messages))
            else:
                broadcast_channel(next(messages), "bench")
        gevent.sleep(0)


@on_event("count")
def count(request: Any, socket: Any, context: Any, nothing: Any) -> int:
    return connected


@on_event("collect")
def collect(request: Any, socket: Any, context: Any, nothing: Any) -> None:
    gc.collect()


def bind(number: int) -> None:
    """Add a handler that is bound to a channel without subscribers."""

    def idle(request: Any, socket: Any, context: Any, message: Any) -> None:
        pass

    idle.__qualname__ = f"idle_{number}"  # handlers of the same name replace each other
    on_message(channel=f"^room-{number}$")(idle)


class index:  # noqa: N801 - the naming style of web.py
    """A page of an ordinary application."""

    def GET(self) -> str:  # noqa: N802
        return "hello"


urls = ("/", "index", *socketio_urls)
application = web.application(urls, globals())


def main(port: str = "0", handlers: str = "1", redis: str | None = None) -> None:
    for number in range(int(handlers) - 1):
        bind(number)
    # The default of 20,000 sessions would reject the last clients of the largest workload.
    server = SocketIOServer(
        ("127.0.0.1", int(port)),
        application.wsgifunc(),
        log=None,
        max_sessions=50_000,
        backplane=redis,
        compression="BENCH_COMPRESSION" in os.environ,
        recovery_time=float(os.environ.get("BENCH_RECOVERY", 0)),
    )
    server.start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
