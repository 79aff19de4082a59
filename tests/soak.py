"""Soak test with random clients: ``python tests/soak.py --seconds 3600``.

Clients of a server connect, subscribe, publish, upgrade and disconnect at random, in rounds. After
each round, all counts of the server must return to their initial values. At the end, memory must
be as after the second of at least four rounds. In an hour this detects a leak of some hundred bytes
a visit; in 30 seconds only one of some ten thousand, as allocators keep more. ``--seed`` repeats
the choices, but not their timing. The exit status is 0 on success.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gevent

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.load_clients import (
    HELD,
    CountedServer,
    Counts,
    Gone,
    Polling,
    WebSocket,
    close_all,
    frame,
)

#: Concurrent clients, and channels.
VISITORS = 100
CHANNELS = 20

#: Rounds of the shortest run.
MIN_ROUNDS = 4

#: Bytes by which memory may grow between the second and the last round.
GROWTH = 16 * 1024 * 1024

#: Seconds within which all resources must be released: the longest timeouts on a slow machine.
TIMEOUT = 60.0

OPTIONS = {
    "ping_interval": 1.0,
    "plugins": ["webpy_socketio.plugins.presence"],
    "presence_grace": 1.0,
}


#: Settings for which the option ``--timeout`` is used.
TIMEOUTS = (
    *("ping_timeout", "upgrade_timeout", "connect_timeout", "write_timeout"),
    *("header_timeout", "body_timeout"),
)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


# -- ways to disconnect


def mute(client: WebSocket | Polling) -> None:
    """Stop answering pings, as after a silent network failure."""
    client.answering = False


def kicked(client: WebSocket | Polling) -> None:
    client.emit("kick")


def packet(data: str) -> Callable[[WebSocket | Polling], None]:
    return lambda client: client.send(data)


def send_bytes(data: bytes, reset: bool) -> Callable[[WebSocket], None]:
    def end(client: WebSocket) -> None:
        if data:
            client.wire.write(data)
        client.wire.close(reset)

    return end


def vanish(reset: bool) -> Callable[[Polling], None]:
    return lambda client: client.vanish(reset)


def half_a_post(reset: bool) -> Callable[[Polling], None]:
    def end(client: Polling) -> None:
        client.post_half()
        client.vanish(reset)

    return end


def half_an_upgrade(probe: bool, reset: bool) -> Callable[[Polling], None]:
    def end(client: Polling) -> None:
        candidate = WebSocket(client.port, client.sid)
        if probe:
            candidate.probe()
        candidate.wire.close(reset)
        client.vanish(reset)

    return end


HALF_A_FRAME = frame(b'42["echo","half"]')[:9]

WEBSOCKET_ENDS: list[Callable[[WebSocket], None]] = [
    WebSocket.goodbye,
    mute,
    kicked,
    packet("1"),  # Engine.IO's close
    packet("41"),  # Socket.IO's disconnect
    packet("42{}"),  # an invalid packet
    *[send_bytes(data, reset) for data in (b"", HALF_A_FRAME) for reset in (False, True)],
    send_bytes(b"\xff" * 10, False),
]

POLLING_ENDS: list[Callable[[Polling], None]] = [
    mute,
    kicked,
    packet("1"),
    packet("41"),
    *[end(reset) for end in (vanish, half_a_post) for reset in (False, True)],
    *[half_an_upgrade(probe, reset) for probe in (False, True) for reset in (False, True)],
]


class Visitor:
    """One client, from its connection to its end."""

    def __init__(self, port: int, dice: random.Random) -> None:
        self._port = port
        self._dice = dice

    def live(self) -> None:
        dice = self._dice
        if dice.random() < 0.05:  # a handshake only
            Polling(self._port, connect=False).vanish()
            return
        transport = WebSocket if dice.random() < 0.6 else Polling
        client = transport(self._port)
        client.heard = lambda event: None
        for _ in range(dice.randrange(6)):
            self._act(client)
        if isinstance(client, Polling) and dice.random() < 0.4:
            client = client.upgrade()
            self._act(client)
        with contextlib.suppress(Gone):  # the connection may end before a POST is answered
            if isinstance(client, WebSocket):
                dice.choice(WEBSOCKET_ENDS)(client)
            else:
                dice.choice(POLLING_ENDS)(client)
        client.closed.wait()

    def _act(self, client: WebSocket | Polling) -> None:
        dice = self._dice
        channel = f"room-{dice.randrange(CHANNELS)}"
        deed = dice.randrange(5)
        if deed == 0:
            client.call("echo", "x" * dice.randrange(2000))
        elif deed == 1:
            client.call("__unsubscribe__", channel)
        elif deed == 2:
            gevent.sleep(dice.random())
        else:
            client.subscribe(channel)
            client.call("__channel__", channel, {"text": "hello"})


class Soak:
    """The server and its clients."""

    def __init__(self, server: CountedServer, dice: random.Random) -> None:
        self._server = server
        self._dice = dice
        self.visits = 0

    def round(self, seconds: float) -> None:
        """Run clients for this time, and wait until all have disconnected."""
        end = time.monotonic() + seconds
        visitors = [gevent.spawn(self._visit, end) for _ in range(VISITORS)]
        with gevent.Timeout(seconds + TIMEOUT, AssertionError("visitors who would not go")):
            gevent.joinall(visitors, raise_error=True)
        close_all()

    def settle(self, before: Counts) -> Counts:
        """Wait until the counts are not above `before`."""
        with gevent.Timeout(TIMEOUT, AssertionError("something is left behind")):
            return self._server.settle(before)

    def _visit(self, end: float) -> None:
        while time.monotonic() < end:
            self.visits += 1
            try:
                Visitor(self._server.port, random.Random(self._dice.random())).live()
            except Gone as gone:
                told = f"sent away, {gone}: {self._server.counts()}\n{self._server.errors}"
                raise AssertionError(told) from gone


def soak(seconds: float, round_seconds: float, timeout: float, seed: int, folder: Path) -> None:
    """Run the soak test; raises AssertionError if resources are not released."""
    # The idle timeout is longer than a client's pause between two POSTs, which would otherwise
    # need a retry.
    timeouts = {**dict.fromkeys(TIMEOUTS, timeout), "idle_timeout": 1.5 * timeout}
    server = CountedServer(folder, **OPTIONS, **timeouts)
    try:
        end = time.monotonic() + seconds
        soak = Soak(server, random.Random(seed))
        soak.round(1.0)  # one-time allocations happen here
        before = server.eventually(lambda counts: not counts["sessions"] + counts["sockets"])
        memory: list[int] = []
        round_seconds = min(round_seconds, seconds / MIN_ROUNDS)
        while time.monotonic() < end or len(memory) < MIN_ROUNDS:
            soak.round(round_seconds)
            counts = soak.settle(before)
            memory.append(counts["memory"])
            held = ", ".join(f"{counts[name]} {name}" for name in HELD)
            say(f"{soak.visits} visits; {held}, {memory[-1] >> 20} MB")
        assert counts["sessions"] == counts["sockets"] == counts["channels"] == 0
        assert counts["connects"] == counts["finishes"] == sum(counts["reasons"].values())
        assert memory[-1] - memory[1] < GROWTH, f"memory, round by round: {memory}"
        server.stop()
        assert "Traceback" not in server.errors, server.errors
        say("reasons:", counts["reasons"])
    finally:
        close_all()
        server.process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--round", type=float, default=10, help="seconds of a round")
    # Some clients stop responding on purpose. A long timeout keeps pauses of a busy machine from
    # ending other clients.
    parser.add_argument("--timeout", type=float, default=8, help="seconds until clients are lost")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    say("seed", options.seed)
    with tempfile.TemporaryDirectory() as folder:
        soak(options.seconds, options.round, options.timeout, options.seed, Path(folder))
    say("nothing is left behind")


if __name__ == "__main__":
    main()
