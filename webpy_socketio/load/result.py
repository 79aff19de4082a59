"""The result of a load test."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from webpy_socketio.load.histogram import Histogram

__all__ = ["ACKNOWLEDGEMENT", "PING", "Interval", "Result"]

#: What the latency is measured with.
ACKNOWLEDGEMENT, PING = "acknowledgement", "ping"


@dataclass
class Interval:
    """A part of the test, for plots over time."""

    #: Seconds since the first event was sent.
    begin: float
    sent: int = 0
    received: int = 0
    errors: int = 0
    latency: Histogram = field(default_factory=Histogram)


@dataclass
class Result:
    """Counts and durations; complete at any time, so that a test can be interrupted."""

    url: str
    #: Number of clients that were requested.
    clients: int
    #: Events per second and client.
    rate: float
    event: str
    #: Clients that have connected.
    connected: int = 0
    #: Seconds in which events were sent.
    seconds: float = 0.0
    is_interrupted: bool = False
    measured_with: str = ACKNOWLEDGEMENT
    sent: int = 0
    #: Events received from the server.
    received: int = 0
    latency: Histogram = field(default_factory=Histogram)
    #: Durations from the TCP connection to the Socket.IO connection.
    connecting: Histogram = field(default_factory=Histogram)
    #: How late events were sent: the delay that the load generator adds to latencies.
    lag: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    intervals: list[Interval] = field(default_factory=list)

    @property
    def send_rate(self) -> float:
        """Events sent per second by all clients."""
        return self.sent / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON-serializable values; durations in milliseconds."""
        return {
            "url": self.url,
            "clients": self.clients,
            "connected": self.connected,
            "rate": self.rate,
            "event": self.event,
            "seconds": round(self.seconds, 3),
            "interrupted": self.is_interrupted,
            "sent": self.sent,
            "sent_per_second": round(self.send_rate, 1),
            "received": self.received,
            "measured_with": self.measured_with,
            "latency_ms": self.latency.summary(),
            "connecting_ms": self.connecting.summary(),
            "generator_lag_ms": self.lag.summary(),
            "errors": dict(self.errors.most_common()),
            "intervals": [
                {
                    "begin": round(one.begin, 3),
                    "sent": one.sent,
                    "received": one.received,
                    "errors": one.errors,
                    "latency_ms": one.latency.summary(),
                }
                for one in self.intervals
            ],
        }
