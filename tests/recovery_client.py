"""A client that resumes its connection as the stock client does, on any server."""

from __future__ import annotations

import json
from typing import Any

from .raw import Server, WebSocket

__all__ = ["RecoveringClient"]


class RecoveringClient:
    """A connected client, which knows its secret and its last offset."""

    def __init__(self, server: Server) -> None:
        self.offset: str | None = None
        self.raw = WebSocket(server.port)
        reply = self.raw.connect()
        self.id, self.pid = reply["sid"], reply["pid"]

    def resume(self, server: Server) -> bool:
        """Connect to a server, and return whether the connection was recovered."""
        self.raw = WebSocket(server.port)
        auth = {"pid": self.pid}
        if self.offset is not None:
            auth["offset"] = self.offset
        reply = self.raw.connect(json.dumps(auth))
        before = self.id, self.pid
        self.id, self.pid = reply["sid"], reply["pid"]
        return before == (self.id, self.pid)

    def event(self) -> list[Any]:
        """Return the next event without its offset."""
        *event, self.offset = self.raw.event()
        return event

    def messages(self, count: int) -> list[Any]:
        """Return the values of the next messages."""
        return [self.event()[1] for _ in range(count)]

    def subscribe(self, channel: str) -> None:
        """Subscribe to a channel."""
        assert self.raw.call("__subscribe__", channel) == [{"ok": True}]

    def barrier(self) -> None:
        """Check that nothing else has arrived."""
        self.raw.barrier()
