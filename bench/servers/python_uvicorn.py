"""python-socketio on uvicorn and uvloop: ``python_uvicorn.py [port [handlers [redis]]]``."""

# ruff: noqa: D103 - handlers need no docstring

import asyncio
import gc
import socket
import sys
from typing import Any

import socketio  # type: ignore[import-not-found,import-untyped,unused-ignore]
import uvicorn  # type: ignore[import-not-found,unused-ignore]

port, handlers, redis = [*sys.argv[1:], *("0", "1", "")[len(sys.argv) - 1 :]]
manager = socketio.AsyncRedisManager(redis) if redis else None
server = socketio.AsyncServer(async_mode="asgi", client_manager=manager)
connected = 0


async def came(sid: str, environ: Any) -> None:
    global connected
    connected += 1


async def went(sid: str, reason: str) -> None:
    global connected
    connected -= 1


async def subscribe(sid: str, channel: str) -> dict[str, bool]:
    await server.enter_room(sid, channel)
    return {"ok": True}


async def unsubscribe(sid: str, channel: str) -> dict[str, bool]:
    await server.leave_room(sid, channel)
    return {"ok": True}


async def echo(sid: str, message: Any) -> Any:
    return message


async def room(sid: str, channel: str, message: Any) -> None:
    await server.emit("message", message, room=channel, skip_sid=sid)


async def go(sid: str, order: dict[str, int]) -> None:
    text = "x" * order["size"]
    for _ in range(order["count"] // order["per_turn"]):
        for _ in range(order["per_turn"]):
            await server.emit("message", text, room="bench")
        await asyncio.sleep(0)


async def count(sid: str, nothing: Any) -> int:
    return connected


async def collect(sid: str, nothing: Any) -> None:
    gc.collect()


async def idle(sid: str, message: Any) -> None:
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
    with socket.create_server(("127.0.0.1", int(port)), backlog=2048) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        config = uvicorn.Config(socketio.ASGIApp(server), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
