"""What the plugins metrics and rate_limit cost a message, measured inside one process; prints JSON.

Microseconds of CPU time from the event to the end of its handler; only the wire and JSON are left out. Not
a part of ``make bench``.
"""

# ruff: noqa: E402 - gevent patches before anything is imported

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

#: How often something is done for one timing; of so many timings in each of so many rounds the
#: shortest counts: the machine is shared, and whatever disturbs it only makes them longer.
TIMES, TIMINGS, ROUNDS = 500, 40, 5

METRICS = "webpy_socketio.plugins.metrics"
RATE_LIMIT = "webpy_socketio.plugins.rate_limit"

#: Limits that are not reached, and one that is at once.
PLENTY: dict[str, Any] = {
    "plugins": [RATE_LIMIT],
    "rate_limit_messages": (1_000_000, 1_000_000),
    "rate_limit_key_messages": (1_000_000, 1_000_000),
}
LITTLE = {**PLENTY, "rate_limit_messages": (0.001, 1), "rate_limit_refusals": None}


def _key(request: Any, socket: Any, context: Any) -> Any:
    return request["REMOTE_ADDR"]


SERVERS: dict[str, dict[str, Any]] = {
    "none": {"plugins": []},
    "metrics": {"plugins": [METRICS]},
    "rate_limit": PLENTY,
    "rate_limit, by a key too": {**PLENTY, "rate_limit_key": _key},
    "rate_limit, refused": LITTLE,
    "both": {**PLENTY, "plugins": [METRICS, RATE_LIMIT]},
}

arrived: AsyncResult = AsyncResult()


@on_connect
def _came(request: Any, socket: Any, context: Any) -> None:
    arrived.set(socket)


@on_message
def _handler(request: Any, socket: Any, context: Any, message: Any) -> None:
    pass


def main() -> None:
    """Measure, and print."""
    best = dict.fromkeys([*SERVERS, "a gate of one's own"], float("inf"))
    for _ in range(ROUNDS):
        for name, settings in SERVERS.items():
            best[name] = min(best[name], _measure(settings))
        on_receiving(_gate)
        best["a gate of one's own"] = min(best["a gate of one's own"], _measure({"plugins": []}))
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
    """Connect a client by long-polling, and return the server's end of it."""
    global arrived
    arrived = AsyncResult()

    def ask(query: str = "", body: bytes | None = None) -> bytes:
        address = f"{url}?EIO=4&transport=polling{query}"
        with urllib.request.urlopen(address, body) as answer:
            text: bytes = answer.read()
        return text

    sid = json.loads(ask()[1:])["sid"]
    ask(f"&sid={sid}", b"40")
    socket: Socket = arrived.get(timeout=10)
    return socket


if __name__ == "__main__":
    main()
