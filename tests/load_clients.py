"""Lightweight Socket.IO clients for load tests: a socket and a greenlet each.

They implement the required subset of the protocols. For clients that violate the protocols see
`raw`. `CountedServer` is a server process that reports its resources.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import struct
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import gevent
import gevent.event
import greenlet
from gevent import socket
from gevent.lock import RLock
from gevent.pool import Pool

from .servers import ServerProcess, application_source

__all__ = [
    "HELD",
    "CountedServer",
    "Counts",
    "Gone",
    "Polling",
    "Start",
    "WebSocket",
    "close_all",
    "count_descriptors",
    "counts",
    "frame",
    "raise_descriptor_limit",
    "running",
    "scaled",
    "together",
]

T = TypeVar("T")

PATH = "/socket.io/?EIO=4"
SEPARATOR = b"\x1e"

#: Maximum of concurrently opened connections, because a server's backlog is limited.
_AT_ONCE = 100


def scaled(full: int, part: int) -> int:
    """Return the full size of a load in ``make torture`` (``FULL_LOAD=1``), otherwise a part."""
    return full if "FULL_LOAD" in os.environ else part


def together(function: Callable[[int], T], count: int) -> list[T]:
    """Call ``function(number)`` in `count` greenlets; return the results."""
    results: list[T] = Pool(_AT_ONCE).map(function, range(count))
    return results


def close_all() -> None:
    """Close all open connections, at the end of a test."""
    while _open:
        _open.pop().close()


class Gone(Exception):
    """The server closed the connection; with the WebSocket's close code, if there is one."""


class _Wire:
    """A TCP connection with buffered reads."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        # Pongs must not interrupt a message that is written in several pieces.
        self._writing = RLock()
        _open.add(self)

    def write(self, data: bytes) -> None:
        with self._writing:
            try:
                self._sock.sendall(data)
            except OSError as error:
                raise Gone from error

    def read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def read_until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            self._fill()
        return self.read(at + len(end))

    def request(self, method: str, query: str, *headers: str, body: bytes = b"") -> None:
        lines = [f"{method} {PATH}&{query} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers]
        if method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        self.write("\r\n".join([*lines, "", ""]).encode() + body)

    def response(self) -> tuple[int, bytes]:
        head = self.read_until(b"\r\n\r\n").lower()
        status = int(head.split()[1])
        _, found, rest = head.partition(b"content-length:")
        return status, self.read(int(rest.split()[0])) if found else b""

    def close(self, reset: bool = False) -> None:
        if reset:
            with contextlib.suppress(OSError):  # it is closed
                linger = struct.pack("ii", 1, 0)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._sock.close()
        _open.discard(self)

    def _fill(self) -> None:
        try:
            data = self._sock.recv(262_144)
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self._buffer += data


_open: set[_Wire] = set()


class _Client:
    """The common part of both transports."""

    def __init__(self) -> None:
        #: The public Socket.IO ID.
        self.id = ""
        #: Received events, as lists of name and arguments. Tests may replace the callback `heard`.
        self.events: list[list[Any]] = []
        self.heard: Callable[[list[Any]], None] = self.events.append
        #: Number of received pings, and whether they are answered.
        self.pings = 0
        self.answering = True
        #: Set at the end of the connection, to the WebSocket close code or the last packet.
        self.closed = gevent.event.AsyncResult()
        self._connected = gevent.event.AsyncResult()
        self._answers: dict[int, gevent.event.AsyncResult] = {}
        self._reader: Any = None

    def send(self, packet: str) -> None:
        raise NotImplementedError

    def emit(self, event: str, *args: Any) -> None:
        self.send("42" + json.dumps([event, *args]))

    def call(self, event: str, *args: Any) -> Any:
        """Emit an event and return its acknowledgement; raises `Gone`."""
        number = len(self._answers)
        self._answers[number] = gevent.event.AsyncResult()
        self.send(f"42{number}" + json.dumps([event, *args]))
        return self._answers[number].get()

    def subscribe(self, channel: str) -> None:
        assert self.call("__subscribe__", channel) == [{"ok": True}]

    def stop_reading(self) -> None:
        """Stop reading, and thus answering pings, without closing the connection."""
        self._reader.kill()

    def _start(self) -> None:
        self._reader = gevent.spawn(self._read)
        self.send("40")
        self.id = self._connected.get()["sid"]

    def _read(self) -> None:
        raise NotImplementedError

    def _over(self, last: Any) -> None:
        self.closed.set(last)
        for waiting in (self._connected, *self._answers.values()):
            if not waiting.ready():
                waiting.set_exception(Gone(last))

    def _take(self, packet: str) -> None:
        if packet == "2":
            self.pings += 1
            if self.answering:
                self.send("3")
        elif packet.startswith("42"):
            self.heard(json.loads(packet[packet.index("[") :]))
        elif packet.startswith("43"):
            at = packet.index("[")
            self._answers[int(packet[2:at])].set(json.loads(packet[at:]))
        elif packet.startswith("40"):
            self._connected.set(json.loads(packet[2:]))


class WebSocket(_Client):
    """A connected WebSocket client; with a `sid`, an upgrade of that session."""

    def __init__(self, port: int, sid: str = "") -> None:
        super().__init__()
        self.wire = _Wire(port)
        self.wire.request(
            "GET",
            "transport=websocket" + (f"&sid={sid}" if sid else ""),
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
        )
        status, _ = self.wire.response()
        if status != 101:
            self.wire.close()
            raise Gone(status)
        if not sid:
            self._start()

    def send(self, packet: str) -> None:
        self.wire.write(frame(packet.encode()))

    def probe(self) -> None:
        """The first half of an upgrade."""
        self.send("2probe")
        assert self._frame() == (1, b"3probe")

    def take_over(self, polling: Polling) -> None:
        """The second half: events of `polling` arrive here from now on."""
        self.id, self.events, self.heard = polling.id, polling.events, polling.heard
        self._answers = polling._answers
        self._reader = gevent.spawn(self._read)

    def goodbye(self) -> None:
        """Close with a close frame."""
        self.wire.write(frame(struct.pack("!H", 1000), 8))

    def _read(self) -> None:
        code = None
        try:
            while True:
                opcode, data = self._frame()
                if opcode == 8:
                    code = int.from_bytes(data[:2], "big")
                    break
                self._take(data.decode())
        except Gone:
            pass
        self.wire.close()
        self._over(code)

    def _frame(self) -> tuple[int, bytes]:
        opcode, length = self.wire.read(2)
        if length == 126:
            length = int.from_bytes(self.wire.read(2), "big")
        elif length == 127:
            length = int.from_bytes(self.wire.read(8), "big")
        return opcode & 15, self.wire.read(length)


def frame(data: bytes, opcode: int = 1) -> bytes:
    """Return a client's frame, with a mask of zero, which leaves the payload unchanged."""
    if len(data) < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | len(data))
    else:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, len(data))
    return head + bytes(4) + data


class Polling(_Client):
    """A long-polling client: GETs on one connection, POSTs on another."""

    def __init__(self, port: int, connect: bool = True) -> None:
        super().__init__()
        self.port = port
        self.wire = _Wire(port)
        self._posts: _Wire | None = None
        # One POST at a time.
        self._posting = RLock()
        self._leaving = False
        self._successor: WebSocket | None = None
        self.wire.request("GET", "transport=polling")
        #: Headers of the handshake's response.
        self.status, body = self.wire.response()
        if connect and self.status != 200:
            self.wire.close()
            raise Gone(self.status)
        #: The secret session ID of Engine.IO.
        self.sid: str = json.loads(body[1:])["sid"] if self.status == 200 else ""
        if connect:
            self._start()

    @property
    def query(self) -> str:
        return f"transport=polling&sid={self.sid}"

    def send(self, packet: str) -> None:
        with self._posting:
            if self._successor is not None:
                self._successor.send(packet)
                return
            posts = self._post_wire()
            posts.request("POST", self.query, body=packet.encode())
            if posts.response() != (200, b"ok"):
                raise Gone
        gevent.sleep(0)  # let waiting senders, such as a pong, continue

    def post_half(self) -> None:
        """Send only the first half of a POST."""
        with self._posting:
            self._post_wire().write(
                f"POST {PATH}&{self.query} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
                'Content-Length: 100\r\n\r\n42["publish",'.encode()
            )

    def upgrade(self) -> WebSocket:
        """Upgrade to a WebSocket, and return it; later sends are forwarded to it."""
        websocket = WebSocket(self.port, self.sid)
        websocket.probe()
        self._leaving = True  # once the pending GET is answered
        self._reader.join()
        with self._posting:
            websocket.send("5")
            websocket.take_over(self)
            self._successor = websocket
        self.vanish()
        return websocket

    def _post_wire(self) -> _Wire:
        if self._posts is None:
            self._posts = _Wire(self.port)
        return self._posts

    def vanish(self, reset: bool = False) -> None:
        """Close both connections without a disconnect packet."""
        for wire in (self.wire, self._posts):
            if wire is not None:
                wire.close(reset)

    def _read(self) -> None:
        last = None
        try:
            while True:
                self.wire.request("GET", self.query)
                status, body = self.wire.response()
                if status != 200:
                    break
                for packet in body.decode().split("\x1e"):
                    last = packet
                    self._take(packet)
                if last == "1":
                    with self._posting:  # wait for the answer to a disconnect of this client
                        break
                if self._leaving:
                    return
        except Gone:
            pass
        self.vanish()
        self._over(last)


# -- the server

Counts = dict[str, Any]

#: Counts that must return to their initial values once all clients have disconnected.
HELD = ("sessions", "sockets", "channels", "greenlets", "watchers", "descriptors")


def counts(server: Any) -> Counts:
    """Return the resources of the process, with memory in bytes."""
    from webpy_socketio.runtime import default_runtime

    gc.collect()
    # A bounded number of idle greenlets is kept on purpose.
    workers = len(server._socketio.workers._idle)
    alive = sum(isinstance(one, greenlet.greenlet) and not one.dead for one in gc.get_objects())
    spaces = default_runtime.registry.namespaces()
    sessions = list(server.engine.sessions.values())
    inboxes = [
        connection.inbox
        for session in sessions
        if session.open
        for connection in session.receiver._connections.values()
    ]
    return {
        "sessions": len(sessions),
        "sockets": sum(len(space.sockets) for space in spaces),
        "channels": sum(len(space.channels) + len(space.channels._held) for space in spaces),
        "greenlets": alive - workers,
        "watchers": gevent.get_hub().loop.activecnt,
        "descriptors": count_descriptors(),
        "upgrading": sum(session.upgrading is not None for session in sessions),
        "waiting": sum(getattr(session.transport, "waiting", False) for session in sessions),
        "queued": max(map(len, inboxes), default=0),
        "outbox": max((session.outbox.size for session in sessions), default=0),
        "memory": _memory(),
    }


def count_descriptors() -> int:
    """Return the number of open files, without the io_uring that the native core keeps open."""
    count = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor that reads the folder
            count += "io_uring" not in str(path.readlink())
    return count


def _memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def raise_descriptor_limit(count: int) -> bool:
    """Raise the descriptor limit of this process and its children; return False if denied."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        return False
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    return True


BODY = """
import atexit, collections, json, logging, signal
import gevent.event
from tests.load_clients import counts
from webpy_socketio import signals

# Clients violate the protocol on purpose; the log messages are tested elsewhere.
logging.getLogger("webpy_socketio.engine.io.throttled_log").disabled = True

OPTIONS = json.loads(os.environ["OPTIONS"])
urls = ("/counts", "Counts", "/endings", "Endings")

endings = collections.deque(maxlen=10_000)
told = {"connects": 0, "reasons": collections.Counter(), "finishes": 0, "handled": 0}
atexit.register(lambda: say("TOLD", json.dumps(told)))

#: Handlers wait for it; SIGUSR1 opens it.
gate = gevent.event.Event()
gevent.signal_handler(signal.SIGUSR1, gate.set)


class Counts:
    def GET(self):
        return json.dumps({**counts(server), **told})


class Endings:
    def GET(self):
        return json.dumps(list(endings))


@on_connect
def connected(request, socket, context):
    told["connects"] += 1


@signals.disconnect.connect
def disconnected(sender, reason, **extra):
    told["reasons"][reason] += 1
    endings.append(["disconnect", sender.session_id, reason])


@signals.finish.connect
def finished(sender, context, reason, **extra):
    if "gated" in context:
        say("WAITING")
        gate.wait()
    told["finishes"] += 1
    endings.append(["finish", sender.session_id, reason])


@on_event("gated")
def gated(request, socket, context):
    context["gated"] = True
    return True


@on_event("publish")
def publish(request, socket, context, first, count, size):
    for number in range(first, first + count):
        broadcast(f"{number} ".ljust(size, "x"))
    return True


@on_event("slow")
def slow(request, socket, context, number, *more):
    gate.wait()
    assert number == told["handled"], (number, told)
    told["handled"] += 1
    return number


@on_message(channel="")
def message(request, socket, context, message):
    socket.broadcast_channel(message)
    return True


@on_event("kick")
def kick(request, socket, context):
    socket.disconnect()


@on_event("echo")
def echo(request, socket, context, *args):
    return args


@on_event("back")
def back(request, socket, context, message):
    socket.send(message)


@on_event("number")
def number(request, socket, context, number):
    context.setdefault("numbers", []).append(number)
    socket.send(number)


@on_event("numbers")
def numbers(request, socket, context):
    return context["numbers"]
"""


class CountedServer(ServerProcess):
    """A server whose ``/counts`` returns `counts` and the number of calls of its handlers.

    Its events: ``echo``; ``back``: returns a message as an event; ``number``: the same, and stores
    it for ``numbers``, which returns them; ``publish`` first, count, size: broadcasts numbered
    messages; ``slow``: waits for `open_gate`; ``gated``: ``finish`` waits for it; ``kick``:
    disconnects the client.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        options.setdefault("plugins", [])
        options.setdefault("log", None)
        # Thousands of clients may block a small machine for a second.
        options.setdefault("block_warning", None)
        super().__init__(
            application_source(BODY),
            folder,
            {
                "OPTIONS": json.dumps(options),
                "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
            },
        )

    def counts(self) -> Counts:
        """Return the current counts."""
        with urllib.request.urlopen(f"{self.url}/counts") as answer:
            found: Counts = json.load(answer)
            return found

    def endings(self) -> list[list[str]]:
        """Return ``[stage, session id, reason]`` of each disconnect and finish, in order."""
        with urllib.request.urlopen(f"{self.url}/endings") as answer:
            found: list[list[str]] = json.load(answer)
            return found

    def warm_up(self) -> Counts:
        """Run first clients, so that one-time allocations are made; return the counts."""
        for client in (WebSocket(self.port), Polling(self.port)):
            client.send("1")
            client.closed.wait()
        return self.eventually(
            lambda counts: counts["finishes"] == 2 and not counts["sessions"] + counts["sockets"]
        )

    def eventually(self, condition: Callable[[Counts], Any]) -> Counts:
        """Wait until `condition` holds for the counts; the test's timeout is the limit."""
        while not condition(found := self.counts()):
            gevent.sleep(0.05)
        return found

    def settle(self, before: Counts) -> Counts:
        """Wait until the counts are not above `before`."""
        left: Counts = {}

        def settled(now: Counts) -> bool:
            left.clear()
            left.update({name: now[name] - before[name] for name in HELD})
            return not any(number > 0 for number in left.values())

        try:
            return self.eventually(settled)
        except AssertionError as error:
            raise AssertionError(f"more than before: {left}; stderr:\n{self.errors}") from error

    def open_gate(self) -> None:
        """Let waiting handlers continue."""
        self.process.popen.send_signal(signal.SIGUSR1)

    def end(self) -> Counts:
        """Stop the server, and return the counts of its whole lifetime."""
        self.stop()
        told: Counts = json.loads(self.wait_for("TOLD "))
        return told


#: Starts a server with these settings.
Start = Callable[..., CountedServer]


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[CountedServer]:
    """Run a server with these settings; it must print nothing."""
    server = CountedServer(folder, **options)
    try:
        yield server
    finally:
        server.close()
    assert server.errors == "", server.errors
