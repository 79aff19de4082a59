"""A client that follows channels like the browser extension, and checks the order of messages."""

from __future__ import annotations

import json
from typing import Any

from .raw import WebSocket

__all__ = ["HistoryClient", "Position"]

#: Epoch and offset.
Position = tuple[str, int]


class HistoryClient:
    """A client with subscriptions with history, which continue after `reconnect`."""

    def __init__(self, port: int) -> None:
        self.socket = WebSocket(port)
        self.socket.connect()
        #: The limit of each subscription.
        self.limits: dict[str, int] = {}
        #: The last message of each channel.
        self.positions: dict[str, Position | None] = {}
        #: For each channel: position and event of each message; None for one not sent to it.
        self.received: dict[str, list[tuple[Position, list[Any] | None]]] = {}
        #: Events without a position, and those of other channels.
        self.others: list[list[Any]] = []
        #: Channels of which messages are missing, once for each report.
        self.gaps: list[str] = []
        #: Whether the server has started to send each channel on this connection.
        self.started: dict[str, bool] = {}
        #: Ids of received messages.
        self.ids: set[str] = set()
        #: Events as the page receives them, in their order.
        self.events: list[list[Any]] = []
        self._answers: list[Any] = []

    def call(self, event: str, *args: Any) -> Any:
        """Send an event, process packets until its acknowledgement, and return that."""
        self.socket.emit(event, *args, ack=7)
        while not self._answers:
            self.process_next()
        return self._answers.pop()

    def subscribe(self, channel: str, limit: int) -> bool:
        """Subscribe with history; return whether it is complete."""
        self.limits[channel] = limit
        self.positions[channel] = None
        return self._request(channel)

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe; no message of the channel may follow."""
        assert self.call("__unsubscribe__", channel) == {"ok": True}
        del self.limits[channel], self.positions[channel]
        self.started.pop(channel, None)

    def reconnect(self, port: int) -> None:
        """Lose the connection with everything that was not processed, and connect again."""
        self.socket.vanish()
        self.socket = WebSocket(port)
        self.socket.connect()
        self.started.clear()
        for channel in self.limits:
            self._request(channel)

    def sync(self) -> None:
        """Process everything that the server has sent."""
        self.call("__unsubscribe__", "barrier")

    def wait_for(self, channel: str, message: Any) -> None:
        """Process packets until the channel's last event is this message."""
        while not (
            self.received.get(channel) and self.received[channel][-1][1] == ["message", message]
        ):
            self.process_next()

    def process_next(self) -> None:
        """Process the next packet."""
        packet = self.socket.receive()
        assert isinstance(packet, str)
        if packet.startswith("437"):
            (answer,) = json.loads(packet[3:])
            self._answers.append(answer)
            return
        assert packet.startswith("42"), packet
        event, *args = json.loads(packet[2:])
        if event not in ("history_start", "history_message", "history_gap"):
            self.others.append([event, *args])
            self.events.append([event, *args])
            return
        channel = args[0]["channel"]
        assert channel in self.limits, "no event after unsubscribe"
        {
            "history_start": self._start,
            "history_message": self._message,
            "history_gap": self._gap,
        }[event](channel, *args)

    def _request(self, channel: str) -> bool:
        wanted: dict[str, Any] = {
            "channel": channel,
            "follow": True,
            "limit": self.limits[channel],
        }
        since = self.positions[channel]
        if since is not None:
            wanted["since"] = {"epoch": since[0], "offset": since[1]}
        assert self.call("history", wanted) == {"ok": True}
        assert self.call("__subscribe__", channel) == {"ok": True}
        while channel not in self.started:
            self.process_next()
        if since is not None and not self.started[channel]:
            self.gaps.append(channel)
        return self.started[channel]

    def _start(self, channel: str, start: dict[str, Any]) -> None:
        assert channel not in self.started, "one start for each subscription"
        since, self.positions[channel] = self.positions[channel], None
        if "epoch" in start:
            self.positions[channel] = (start["epoch"], start["offset"])
        if since is not None and start["recovered"]:
            assert self.positions[channel] == since, "it continues where it ended"
        self.started[channel] = start["recovered"]

    def _message(self, channel: str, info: dict[str, Any], event: list[Any] | None = None) -> None:
        assert channel in self.started, "the start comes first"
        if "offset" not in info:
            assert event is not None
            self.others.append(event)
        else:
            position = (info["epoch"], info["offset"])
            last = self.positions[channel]
            assert last is None or position == (last[0], last[1] + 1), "in order, each once"
            self.positions[channel] = position
            self.received.setdefault(channel, []).append((position, event))
        if event is not None and info["id"] not in self.ids:
            self.ids.add(info["id"])
            self.events.append(event)

    def _gap(self, channel: str, gap: dict[str, Any]) -> None:
        self.gaps.append(channel)
        self.positions[channel] = (gap["epoch"], gap["offset"]) if "epoch" in gap else None
