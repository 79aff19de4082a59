"""Clients of several servers that send to channels; for `scaling`.

One thread with epoll. Frames are prepared; received frames are counted, not decoded.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Client", "CrowdError", "cpu_of", "run", "wait_until_idle"]

#: Seconds without a byte after which a measurement fails.
TIMEOUT = 20.0

#: Messages of 64 bytes.
TEXT = "x" * 64

_ACK = b"437["
_COPY = b'42["message"'


class CrowdError(Exception):
    """A client or a server failed; the text names the cause."""


class Client:
    """A connected client.

    Args:
        port: Port of its server on the loopback address.
        process: Number of the server.
    """

    def __init__(self, port: int, process: int) -> None:
        self.process = process
        self.channel = ""
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % port
        )
        self._tail = b""
        self.receive_until(b"pingInterval")
        self.send("40")
        self.receive_until(b'{"sid":')

    def send(self, text: str) -> None:
        """Send a text frame."""
        self.socket.sendall(_frame(text))

    def subscribe(self, channel: str) -> None:
        """Subscribe to a channel, and wait for the acknowledgement."""
        self.channel = channel
        self.call("__subscribe__", channel)

    def call(self, *event: str) -> None:
        """Send an event, and wait for its acknowledgement."""
        self.send("427" + json.dumps(event))
        self.receive_until(_ACK)

    def receive_until(self, text: bytes) -> None:
        """Receive until a text has arrived."""
        received = self._tail
        self._tail = b""
        while text not in received:
            data = self.socket.recv(65_536)
            if not data:
                raise CrowdError("a server has closed a connection")
            received += data

    def receive(self) -> tuple[int, int]:
        """Return the numbers of acknowledgements and copies in the data that has arrived."""
        data = self._tail + self.socket.recv(262_144)
        if len(data) == len(self._tail):
            raise CrowdError("a server has closed a connection")
        # An incomplete frame is counted with the next data.
        acks = copies = start = 0
        while (end := _end_of_frame(data, start)) is not None:
            body = start + (4 if data[start + 1] == 126 else 2)
            if data.startswith(_COPY, body):
                copies += 1
            elif data.startswith(_ACK, body):
                acks += 1
            start = end
        self._tail = data[start:]
        return acks, copies


@dataclass
class Counts:
    """What has been received."""

    acks: int = 0
    copies: int = 0


def run(
    clients: Sequence[Client], senders: Iterable[Client], messages: int, outstanding: int
) -> None:
    """Let senders send messages in turn, and return when all copies have arrived.

    Args:
        clients: All clients. Each copy of a message reaches the other members of its channel.
        senders: They send in turn.
        messages: Number of messages.
        outstanding: Messages that wait for their acknowledgements at any time.
    """
    members: dict[str, int] = {}
    for client in clients:
        members[client.channel] = members.get(client.channel, 0) + 1
    frames = {
        client: _frame("427" + json.dumps(["room", client.channel, TEXT])) for client in senders
    }
    ready = deque(frames)
    poll = select.epoll()
    by_descriptor = {client.socket.fileno(): client for client in clients}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    received, expected = Counts(), Counts()
    sent = waiting = 0
    try:
        while received.acks < messages or received.copies < expected.copies:
            while ready and sent < messages and waiting < outstanding:
                client = ready.popleft()
                client.socket.sendall(frames[client])
                expected.copies += members[client.channel] - 1
                sent, waiting = sent + 1, waiting + 1
            events = poll.poll(TIMEOUT)
            if not events:
                raise CrowdError(
                    f"{received.acks} of {messages} messages were acknowledged, and "
                    f"{received.copies} of {expected.copies} copies arrived"
                )
            for descriptor, _ in events:
                client = by_descriptor[descriptor]
                acks, copies = client.receive()
                received.acks += acks
                received.copies += copies
                waiting -= acks
                ready.extend([client] * acks)
    finally:
        poll.close()


def cpu_of(pid: int) -> float:
    """Return the CPU time of all threads of a process, in microseconds."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    return total / 1000


def wait_until_idle(pids: Iterable[int]) -> None:
    """Wait until processes use no CPU time."""
    pids = list(pids)
    before = -1.0
    while (now := sum(map(cpu_of, pids))) > before + 500:
        before = now
        time.sleep(0.1)


def _end_of_frame(data: bytes, start: int) -> int | None:
    """Return where the frame of a server ends that begins at `start`; None if it is incomplete."""
    if len(data) < start + 4:
        return None
    size = data[start + 1]
    end = start + 2 + size
    if size == 126:
        end = start + 4 + int.from_bytes(data[start + 2 : start + 4], "big")
    return end if len(data) >= end else None


def _frame(text: str) -> bytes:
    """Return a masked text frame, with a mask of zeros."""
    data = text.encode()
    if len(data) < 126:
        head = bytes((0x81, 0x80 | len(data)))
    else:
        head = bytes((0x81, 0xFE)) + len(data).to_bytes(2, "big")
    return head + b"\0\0\0\0" + data
