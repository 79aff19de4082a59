"""Measure compressed broadcasts of this package and of Node: bytes on the wire, and CPU time.

JSON messages of 10 KB to 100 WebSocket clients that offer permessage-deflate, as browsers do, one
broadcast per event-loop iteration. The servers alternate. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import select
import socket
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from environment import BUILD
from measurement import Figures, MeasurementError, pick_cores, pinned, running_server
from server_list import ReadyServer, prepare

CLIENTS = 100
ROUNDS = 7

#: Messages sent in rotation: with context, a repeated message would cost no bytes.
MESSAGES = 20

#: Seconds that the server may take for the broadcasts of a round.
TIMEOUT = 60

#: Title, server and value of ``BENCH_COMPRESSION``; None without compression.
VARIANTS = (
    ("ours", "ours", None),
    ("ours, compressed", "ours", "true"),
    ("Node", "node", None),
    ("Node, compressed", "node", "true"),
    (
        "Node, compressed, no context",
        "node",
        '{"threshold": 1024, "serverNoContextTakeover": true}',
    ),
)

_WORDS = (  # noqa: SIM905 - a list of words is longer
    "the of and a to in is you that it he was for on are as with his they at be this have from or "
    "one had by word but not what all were we when your can said there use an each which she do"
).split()


def make_message(size: int, seed: int) -> list[dict[str, object]]:
    """Return a list of chat entries whose JSON has at least `size` bytes."""
    source = random.Random(seed)
    messages: list[dict[str, object]] = []
    while len(_encode(messages)) < size:
        messages.append(
            {
                "id": source.randrange(10**9),
                "author": source.choice(["Anna", "Bert", "Carla", "Dimitri", "Elif", "Femi"]),
                "text": " ".join(source.choices(_WORDS, k=20)),
                "time": 1_700_000_000 + source.randrange(10**6),
            }
        )
    return messages


def _encode(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


class Client:
    """A WebSocket that counts bytes and frames without decompressing them."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.sendall(
            f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n".encode()
        )
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            self._data += self.sock.recv(65_536)
        self._data = self._data.partition(b"\r\n\r\n")[2]
        #: Bytes and frames received since `reset`, and the last frame: its first byte and data.
        self.bytes = self.frames = 0
        self.last = (0, b"")
        #: All frames, if set to a list.
        self.kept: list[tuple[int, bytes]] | None = None
        self._decompressor = zlib.decompressobj(-15)  # Node compresses short messages too
        self._wait("0")
        self.send("40")
        self._wait("40")
        self.send('420["__subscribe__","bench"]')
        self._wait("430")

    def send(self, text: str) -> None:
        """Send a text message."""
        data = text.encode()
        size = len(data)
        head = bytes([0x81, 0x80 | size]) if size < 126 else struct.pack("!BBQ", 0x81, 0xFF, size)
        self.sock.sendall(head + bytes(4) + data)

    def reset(self) -> None:
        """Set the counters to 0."""
        self.bytes = self.frames = 0

    def read(self) -> None:
        """Read what has arrived."""
        data = self.sock.recv(1_048_576)
        if not data:
            raise MeasurementError("the server has closed a connection")
        self.bytes += len(data)
        self._data += data
        while self._take():
            self.frames += 1

    def decompress(self, first: int, data: bytes) -> bytes:
        """Return the data of a frame; all frames must be passed in order."""
        return self._decompressor.decompress(data + b"\0\0\xff\xff") if first & 0x40 else data

    def _take(self) -> bool:
        data = self._data
        if len(data) < 2:
            return False
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        if len(data) < start + size:
            return False
        self.last = data[0], data[start : start + size]
        if self.kept is not None:
            self.kept.append(self.last)
        self._data = data[start + size :]
        return True

    def _wait(self, beginning: str) -> None:
        while not self._take():
            self._data += self.sock.recv(65_536)
        if not self.decompress(*self.last).startswith(beginning.encode()):
            raise MeasurementError(f"expected {beginning}, received {self.last[1][:100]!r}")


def measure(server: ReadyServer, compression: str | None, size: int, count: int) -> Figures:
    """Return the bytes per client and broadcast, and the server's CPU time per broadcast."""
    server_core, load_core = pick_cores()
    command = [*server.command, "0"]
    if compression is not None:
        command = ["env", f"BENCH_COMPRESSION={compression}", *command]
    with (
        running_server(command, {server_core}) as (port, pid),
        pinned({load_core}),
    ):
        clients = [Client(port) for _ in range(CLIENTS)]
        messages = [make_message(size, number) for number in range(MESSAGES)]
        clients[-1].kept = []
        try:
            _broadcast(clients, messages, count // 5)  # warms up
            used, began = _cpu_time(pid), time.perf_counter()
            _broadcast(clients, messages, count)
            used, wall = _cpu_time(pid) - used, time.perf_counter() - began
            _check(clients[-1], messages)
        finally:
            for client in clients:
                client.sock.close()
    received = sum(client.bytes for client in clients)
    return {
        "bytes": received / CLIENTS / count,
        "cpu": used / count * 1e6,
        "wall": wall / count * 1e6,
    }


def _broadcast(clients: list[Client], messages: Sequence[object], count: int) -> None:
    """Have the server send `count` broadcasts, and wait until all clients have all of them."""
    for client in clients:
        client.reset()
    order = {"count": count, "per_turn": 1, "messages": messages}
    text = _encode(["go", order])
    clients[0].send(f"421{text}")
    by_file = {client.sock.fileno(): client for client in clients}
    missing = set(by_file)
    poll = select.epoll()
    for file in by_file:
        poll.register(file, select.EPOLLIN)
    deadline = time.monotonic() + TIMEOUT
    while missing:
        if time.monotonic() > deadline:
            raise MeasurementError(f"not finished within {TIMEOUT} s")
        for file, _ in poll.poll(1):
            client = by_file[file]
            client.read()
            acknowledged = client is clients[0]  # one frame more
            if client.frames >= count + acknowledged:
                missing.discard(file)
    poll.close()


def _check(client: Client, messages: Sequence[object]) -> None:
    """Check that the client has received the messages."""
    for frame in client.kept or []:
        event = json.loads(client.decompress(*frame)[2:])
        if event[0] == "message" and event[1] not in messages:
            raise MeasurementError("a client has received another message")


def _cpu_time(pid: int) -> float:
    """Return the CPU seconds of all threads of a process."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--size", type=int, default=10_000, help="bytes of the message")
    parser.add_argument("--count", type=int, default=50, help="broadcasts of a round")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    ready, missing = prepare(["ours", "node"])
    for name, cause in missing.items():
        sys.stderr.write(f"{name} is not measured: {cause}\n")
    found: dict[str, list[Figures]] = {title: [] for title, name, _ in VARIANTS if name in ready}
    for _ in range(options.rounds):
        for title, name, compression in VARIANTS:
            if name in ready:
                found[title].append(measure(ready[name], compression, options.size, options.count))
    sizes = [len(_encode(make_message(options.size, number))) for number in range(MESSAGES)]
    sys.stdout.write(
        f"Broadcasts of {statistics.mean(sizes):,.0f} bytes to {CLIENTS} clients: "
        f"median of {options.rounds} rounds (minimum to maximum).\n"
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        + "; ".join(server.versions for server in ready.values())
        + "\n\n"
        f"{'':30}{'bytes per client':>18}{'CPU, ms':>26}{'elapsed, ms':>26}\n"
    )
    for title, rounds in found.items():
        cells = [f"{statistics.median(figures['bytes'] for figures in rounds):>18,.0f}"]
        for name in ("cpu", "wall"):
            values = [figures[name] / 1000 for figures in rounds]
            text = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            cells.append(f"{text:>26}")
        sys.stdout.write(f"{title:30}{''.join(cells)}\n")


if __name__ == "__main__":
    main()
