"""Measure what connection state recovery adds to broadcasts and connections; prints JSON.

Two servers in one process, one of them with recovery. Their clients read nothing while a broadcast
is timed. The servers alternate, so that disturbances affect both: the median of the pairs counts.
The places of two equal servers in memory make a difference of up to 12 %, so each size is measured
with several sets of new clients, which connect to both servers alternately.
CPU time of the server's thread in microseconds, with the system calls that send; memory that Python
has allocated, in bytes.
"""

# ruff: noqa: E402 - gevent patches before other imports

from gevent import monkey

monkey.patch_all()

import contextlib
import gc
import json
import socket
import statistics
import sys
import time
import tracemalloc
from collections.abc import Iterator

import gevent
import web

from webpy_socketio import Runtime, SocketIOServer, socketio_urls

web.config.debug = False

#: Subscribers of the channels, sets of clients for each, and pairs of timings for each set.
SIZES, SETS, PAIRS = (5, 10, 100, 500), 8, 8

#: Recipients of one timing: several broadcasts for small channels.
RECIPIENTS = 2000

#: Messages that the log retains before it is measured: it discards one for each new one.
RETAINED = 3000

#: Connections whose memory is measured, after the first ones.
CONNECTIONS, FIRST = 1000, 100

REQUEST = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

#: Masked text frames of a client.
CONNECT = b"\x81\x82\0\0\0\x0040"


def main() -> None:
    """Print the measurements."""
    with _server(0) as off, _server(60) as on:
        figures = {}
        for size in SIZES:
            for name, figure in _broadcasts(off, on, size).items():
                figures[f"{name}_{size}"] = figure
        before, after = _memory(off), _memory(on)
        figures |= {"memory_off": before, "memory_on": after, "memory_added": after - before}
    sys.stdout.write(json.dumps(figures) + "\n")


class _Server:
    """A server and its clients."""

    def __init__(self, recovery_time: float) -> None:
        self.runtime = Runtime()
        self.server = SocketIOServer(
            ("127.0.0.1", 0),
            web.application(socketio_urls, {}).wsgifunc(),
            log=None,
            plugins=[],
            runtime=self.runtime,
            recovery_time=recovery_time,
            recovery_messages=RETAINED,
            ping_interval=3600,  # the clients answer no pings
            max_sessions_per_address=None,
        )
        self.server.start()
        #: Number of broadcasts.
        self.sent = 0
        self._clients: list[socket.socket] = []

    def close(self) -> None:
        self.disconnect()
        self.server.stop()

    def connect(self, count: int) -> None:
        known = len(self.runtime.sockets())
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", self.server.server_port))
            client.sendall(REQUEST + CONNECT)
            client.setblocking(False)
            self._clients.append(client)
        while len(self.runtime.sockets()) < known + count:
            gevent.sleep(0)

    def subscribe(self, channel: str) -> None:
        for each in self.runtime.sockets():
            each.subscribe(channel)

    def disconnect(self) -> None:
        """End all connections; a client that only closes its own would remain suspended."""
        for each in self.runtime.sockets():
            each.disconnect(close=True)
        for client in self._clients:
            client.close()
        self._clients.clear()
        while self.runtime.sockets():
            gevent.sleep(0.001)

    def read(self) -> None:
        """Discard what the clients have received."""
        for client in self._clients:
            with contextlib.suppress(BlockingIOError):
                while client.recv(1 << 20):
                    pass

    def broadcast(self, channel: str, count: int) -> float:
        """Return the CPU time of one of several broadcasts in seconds."""
        self.sent += count
        broadcast_channel, message = self.runtime.broadcast_channel, "x" * 64
        began = time.thread_time()
        for _ in range(count):
            broadcast_channel(message, channel)
            gevent.sleep(0)  # the flush runs before this greenlet
        return (time.thread_time() - began) / count


@contextlib.contextmanager
def _server(recovery_time: float) -> Iterator[_Server]:
    server = _Server(recovery_time)
    try:
        yield server
    finally:
        server.close()


def _broadcasts(off: _Server, on: _Server, size: int) -> dict[str, float]:
    """Time broadcasts with and without recovery."""
    channel, count = f"members-{size}", max(1, RECIPIENTS // size)
    timings: dict[_Server, list[float]] = {off: [], on: []}
    for number in range(SETS):
        order = (off, on) if number % 2 else (on, off)
        for _ in range(size):
            for server in order:
                server.connect(1)
        for server in order:
            server.subscribe(channel)
            server.read()
            server.broadcast(channel, count)  # fills caches
            server.read()
            while server.sent <= RETAINED:
                server.broadcast(channel, count)
                server.read()
        for pair in range(PAIRS):
            for server in order if pair % 2 else reversed(order):
                timings[server].append(server.broadcast(channel, count))
                server.read()
        for server in order:
            server.disconnect()
    pairs = zip(timings[off], timings[on], strict=True)
    return {
        "off": statistics.median(timings[off]) * 1e6,
        "on": statistics.median(timings[on]) * 1e6,
        "ratio": statistics.median(after / before for before, after in pairs),
    }


def _memory(server: _Server) -> float:
    """Return the bytes that Python allocates for a connection that is in one channel."""
    server.connect(FIRST)
    tracemalloc.start()
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    server.connect(CONNECTIONS)
    server.subscribe("room")
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / CONNECTIONS


if __name__ == "__main__":
    main()
