"""python-socketio on gevent-websocket: ``python_gevent.py [port [handlers [redis]]]``."""

# ruff: noqa: D103, E402 - handlers need no docstring; gevent patches before other imports

from gevent import monkey

monkey.patch_all()

import gc
import sys
from typing import Any

import gevent
import socketio  # type: ignore[import-not-found,import-untyped,unused-ignore]
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import (  # type: ignore[import-not-found,unused-ignore]
    WebSocketHandler,
)

port, handlers, redis = [*sys.argv[1:], *("0", "1", "")[len(sys.argv) - 1 :]]
manager = socketio.RedisManager(redis) if redis else None
server = socketio.Server(async_mode="gevent", client_manager=manager)
connected = 0


def came(sid: str, environ: Any) -> None:
    global connected
    connected += 1


def went(sid: str, reason: str) -> None:
    global connected
    connected -= 1


def subscribe(sid: str, channel: str) -> dict[str, bool]:
    server.enter_room(sid, channel)
    return {"ok": True}


def unsubscribe(sid: str, channel: str) -> dict[str, bool]:
    server.leave_room(sid, channel)
    return {"ok": True}


def echo(sid: str, message: Any) -> Any:
    return message


def room(sid: str, channel: str, message: Any) -> None:
    server.emit("message", message, room=channel, skip_sid=sid)


def go(sid: str, order: dict[str, int]) -> None:
    text = "x" * order["size"]
    for _ in range(order["count"] // order["per_turn"]):
        for _ in range(order["per_turn"]):
            server.emit("message", text, room="bench")
        gevent.sleep(0)


def count(sid: str, nothing: Any) -> int:
    return connected


def collect(sid: str, nothing: Any) -> None:
    gc.collect()


def idle(sid: str, message: Any) -> None:
    pass


def main() -> None:
    server.on("connect", came)
    server.on("disconnect", went)
    server.on("__subscribe__", subscribe)
    server.on("__unsubscribe__", unsubscribe)
    server.on("message", echo)
    for handler in (room, go, count, collect):
        server.on(handler.__name__, handler)
    for number in range(int(handlers) - 1):
        server.on(f"idle-{number}", idle)
    listener = WSGIServer(
        ("127.0.0.1", int(port)), socketio.WSGIApp(server), handler_class=WebSocketHandler, log=None
    )
    listener.start()
    sys.stdout.write(f"{listener.server_port}\n")
    sys.stdout.flush()
    listener.serve_forever()


if __name__ == "__main__":
    main()
