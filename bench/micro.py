"""Measure signals, bound handlers and sends to rooms in one process; prints microseconds as JSON.

A real server has one real client. Signals are sent as the server sends them, without the network.
The other members of a room are sockets whose bytes are discarded.
"""

# ruff: noqa: E402 - gevent patches before other imports

from gevent import monkey

monkey.patch_all()

import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import gevent
import web
from gevent.event import AsyncResult

from webpy_socketio import (
    Socket,
    SocketIOServer,
    default_runtime,
    off,
    on_connect,
    on_message,
    signals,
    socketio_urls,
)
from webpy_socketio.engine.io.outbox import Flusher, Outbox

web.config.debug = False

#: Repetitions per timing, and timings of which the median is taken.
TIMES, TIMINGS = 5000, 9

#: Channels of the socket, each with a bound handler.
CHANNELS = [f"room-{number}" for number in range(100)]

#: Members of the rooms.
ROOMS = (10, 100, 500)

arrived = AsyncResult()


@on_connect
def _came(request: Any, socket: Any, context: Any) -> None:
    arrived.set(socket)


def main() -> None:
    """Print the measurements."""
    application = web.application(socketio_urls, globals())
    server = SocketIOServer(("127.0.0.1", 0), application.wsgifunc(), log=None)
    server.start()
    try:
        socket = _connect(f"http://127.0.0.1:{server.server_port}/socket.io/")
        figures = {"emit": _emit(socket), **_handlers(socket), **_rooms(socket)}
    finally:
        server.stop()
    sys.stdout.write(json.dumps(figures) + "\n")


def _connect(url: str) -> Socket:
    """Connect a client over long-polling, and return the server's socket."""

    def request(query: str = "", body: bytes | None = None) -> bytes:
        address = f"{url}?EIO=4&transport=polling{query}"
        with urllib.request.urlopen(address, body) as answer:
            text: bytes = answer.read()
        return text

    sid = json.loads(request()[1:])["sid"]
    request(f"&sid={sid}", b"40")
    socket: Socket = arrived.get(timeout=10)
    return socket


def _emit(socket: Socket) -> float:
    """Time a signal with three receivers."""
    off(_came)
    receivers = [_receiver() for _ in range(3)]
    for receiver in receivers:
        signals.connect.connect(receiver)
    return _microseconds(lambda: default_runtime.signals.emit(signals.connect, socket, auth=None))


def _handlers(socket: Socket) -> dict[str, float]:
    """Time messages of a socket in all channels, with a handler bound to each."""
    for channel in CHANNELS:
        on_message(channel=f"^{channel}$")(_handler(channel))
        socket.subscribe(channel)

    def message(channel: str | None) -> Callable[[], object]:
        return lambda: default_runtime.signals.emit(
            signals.message, socket, message="hi", event="message", args=["hi"], channel=channel
        )

    return {"addressed": _microseconds(message(CHANNELS[50])), "all": _microseconds(message(None))}


def _rooms(socket: Socket) -> dict[str, float]:
    """Time both ways to send to the other members of a room, alternately, with the flush."""
    figures = {}
    for size in ROOMS:
        room = f"members-{size}"
        socket.subscribe(room)
        members = default_runtime.registry.namespace("/").channels
        for _ in range(size - 1):
            member = _Member(socket.outbox.flusher)
            members.add(member, room, member.outbox)  # type: ignore[arg-type]

        def send(function: Callable[[], object]) -> Callable[[], object]:
            def send_and_flush() -> None:
                function()
                gevent.sleep(0)  # the flush runs before this greenlet

            return send_and_flush

        # As default arguments: each lambda is called before the next iteration.
        both = (
            send(lambda room=room: socket.broadcast_channel("hi", room)),  # type: ignore[misc]
            send(lambda room=room: socket.to(room).emit("message", "hi")),  # type: ignore[misc]
        )
        pairs = [[_time(function) for function in both] for _ in range(TIMINGS)]
        plain, target = map(statistics.median, zip(*pairs, strict=True))
        figures[f"broadcast_channel_{size}"] = plain
        figures[f"to_emit_{size}"] = target
        figures[f"to_emit_ratio_{size}"] = statistics.median(each[1] / each[0] for each in pairs)
    return figures


class _Member:
    """A socket with an outbox whose transport accepts and discards all bytes."""

    def __init__(self, flusher: Flusher) -> None:
        self.outbox = Outbox(flusher, 1 << 20, 1000, lambda: None)
        self.outbox.use(self)

    #: Returns the number of accepted bytes: all of them.
    try_send = staticmethod(len)

    def unsent(self) -> int:
        return 0

    def flush(self) -> None:
        pass


def _receiver() -> Callable[..., None]:
    def receiver(sender: Any, **extra: Any) -> None:
        pass

    return receiver


def _handler(channel: str) -> Callable[..., None]:
    def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
        pass

    handler.__qualname__ = f"handler_of_{channel}"  # handlers of the same name replace each other
    return handler


def _microseconds(function: Callable[[], object]) -> float:
    """Return the median CPU time of one call, including the loop."""
    return statistics.median(_time(function) for _ in range(TIMINGS))


def _time(function: Callable[[], object]) -> float:
    began = time.thread_time()
    for _ in range(TIMES):
        function()
    return (time.thread_time() - began) / TIMES * 1e6


if __name__ == "__main__":
    main()
