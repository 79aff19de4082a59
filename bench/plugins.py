"""Measure the cost of the plugins metrics and rate_limit per message; prints JSON.

Microseconds of CPU time in one process from the event to the end of its handler, without the
network and JSON. Not part of ``make bench``.
"""

# ruff: noqa: E402 - gevent patches before other imports

from gevent import monkey

monkey.patch_all()

import json
import sys
import time
import urllib.request
from typing import Any

import web
from gevent.event import AsyncResult

from webpy_socketio import Socket, SocketIOServer, on_connect, on_message, socketio_urls
from webpy_socketio.events import off, on_receiving

web.config.debug = False

#: Repetitions per timing, timings per round, and rounds. The minimum counts: the machine is shared,
#: and disturbances only make timings longer.
TIMES, TIMINGS, ROUNDS = 500, 40, 5

METRICS = "webpy_socketio.plugins.metrics"
RATE_LIMIT = "webpy_socketio.plugins.rate_limit"

#: Limits that are never reached, and one that is reached at once.
HIGH_LIMITS: dict[str, Any] = {
    "plugins": [RATE_LIMIT],
    "rate_limit_messages": (1_000_000, 1_000_000),
    "rate_limit_key_messages": (1_000_000, 1_000_000),
}
LOW_LIMIT = {**HIGH_LIMITS, "rate_limit_messages": (0.001, 1), "rate_limit_refusals": None}


def _key(request: Any, socket: Any, context: Any) -> Any:
    return request["REMOTE_ADDR"]


SERVERS: dict[str, dict[str, Any]] = {
    "none": {"plugins": []},
    "metrics": {"plugins": [METRICS]},
    "rate_limit": HIGH_LIMITS,
    "rate_limit, by a key too": {**HIGH_LIMITS, "rate_limit_key": _key},
    "rate_limit, rejected": LOW_LIMIT,
    "both": {**HIGH_LIMITS, "plugins": [METRICS, RATE_LIMIT]},
}

arrived: AsyncResult = AsyncResult()


@on_connect
def _came(request: Any, socket: Any, context: Any) -> None:
    arrived.set(socket)


@on_message
def _handler(request: Any, socket: Any, context: Any, message: Any) -> None:
    pass


def main() -> None:
    """Print the measurements."""
    best = dict.fromkeys([*SERVERS, "a custom gate"], float("inf"))
    for _ in range(ROUNDS):
        for name, settings in SERVERS.items():
            best[name] = min(best[name], _measure(settings))
        on_receiving(_gate)
        best["a custom gate"] = min(best["a custom gate"], _measure({"plugins": []}))
        off(_gate)
    sys.stdout.write(json.dumps({name: round(figure, 2) for name, figure in best.items()}) + "\n")


def _gate(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
    pass


def _measure(settings: dict[str, Any]) -> float:
    application = web.application(socketio_urls, globals())
    server = SocketIOServer(("127.0.0.1", 0), application.wsgifunc(), log=None, **settings)
    server.start()
    try:
        socket = _connect(f"http://127.0.0.1:{server.server_port}/socket.io/")
        event, connection = server._dispatcher.event, socket._connection
        best = float("inf")
        for _ in range(TIMINGS):
            began = time.thread_time()
            for _ in range(TIMES):
                event(connection, "message", ["hi"], None)
            best = min(best, (time.thread_time() - began) / TIMES * 1e6)
        return best
    finally:
        server.stop()


def _connect(url: str) -> Socket:
    """Connect a client over long-polling, and return the server's socket."""
    global arrived
    arrived = AsyncResult()

    def request(query: str = "", body: bytes | None = None) -> bytes:
        address = f"{url}?EIO=4&transport=polling{query}"
        with urllib.request.urlopen(address, body) as answer:
            text: bytes = answer.read()
        return text

    sid = json.loads(request()[1:])["sid"]
    request(f"&sid={sid}", b"40")
    socket: Socket = arrived.get(timeout=10)
    return socket


if __name__ == "__main__":
    main()
