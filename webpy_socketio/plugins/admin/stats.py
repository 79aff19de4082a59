"""Numbers: who is there, and what was counted since the last time."""

from __future__ import annotations

import json
import os
import socket as socket_module
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from webpy_socketio import Socket

__all__ = ["EventStats"]


class EventStats:
    """What the UI is told every two seconds as "server_stats"."""

    def __init__(self, namespaces: Sequence[str]) -> None:
        self._names = namespaces
        self._began = time.monotonic()
        self._counts: Counter[tuple[str, str | None]] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, kind: str, count: int = 1, detail: str | None = None) -> None:
        """Count something, under the reference's name for it."""
        self._counts[kind, detail] += count

    def received(self, event: str, args: list[Any]) -> None:
        """Count an event of a client; in about how many bytes it came, as the engine counts none."""
        text = json.dumps(
            [event, *args], ensure_ascii=False, default=lambda value: "x" * len(value)
        )
        self.add("packetsIn")
        self.add("bytesIn", len(text))

    def clear(self) -> None:
        """Begin to count anew."""
        self._counts.clear()

    def describe(self, sockets: Iterable[Socket]) -> dict[str, Any]:
        """The message, with what was counted and who is there now; a microsecond a socket."""
        spaces: Counter[str] = Counter(dict.fromkeys(self._names, 0))
        clients: dict[int, str] = {}
        for socket in sockets:
            spaces[socket.namespace] += 1
            clients[id(socket.request)] = socket.transport
        host = socket_module.gethostname()
        moment = time.time_ns() // 1_000_000_000 * 1000
        return {
            "serverId": f"{host}#{os.getpid()}",
            "hostname": host,
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._began, 3),
            "clientsCount": len(clients),
            "pollingClientsCount": sum(kind == "polling" for kind in clients.values()),
            "aggregatedEvents": [
                {"timestamp": moment, "type": kind, "subType": detail, "count": count}
                for (kind, detail), count in self._counts.items()
            ],
            "namespaces": [{"name": name, "socketsCount": count} for name, count in spaces.items()],
        }
