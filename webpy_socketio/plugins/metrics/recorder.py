"""What has happened so far: plain numbers, which cost little to raise and are read at a scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any

from webpy_socketio import Socket, signals
from webpy_socketio.plugins.metrics.labels import MAX_LABELS, OTHER, Labels

__all__ = ["BUCKETS", "Histogram", "Recorder"]

#: Upper bounds of the buckets, in seconds: what only computes is done within the first ones, what asks
#: a database within the middle ones.
BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Histogram:
    """How often something took how long."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        #: How many are within each bound of `BUCKETS` and not within a smaller one; then the rest.
        self.counts = [0] * (len(BUCKETS) + 1)
        #: All of it together.
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Recorder:
    """The numbers by their labels, from `install` on."""

    def __init__(self) -> None:
        #: Connections that were accepted, by namespace.
        self.connections: Counter[str] = Counter()
        #: Those that are over, by reason.
        self.disconnects: Counter[str] = Counter()
        #: Messages that came, by event and channel.
        self.messages: Counter[tuple[str, str]] = Counter()
        #: Their size: characters of text, bytes of attachments.
        self.received = 0
        #: Events of ours, one for each client that one went to, by namespace.
        self.sent: Counter[str] = Counter()
        #: Their size in bytes, as WebSockets have them.
        self.sent_bytes = 0
        #: By channel; what the end of a connection ends is an unsubscription too.
        self.subscriptions: Counter[str] = Counter()
        self.unsubscriptions: Counter[str] = Counter()
        #: What gates denied, by their names.
        self.refused: Counter[str] = Counter(connecting=0, receiving=0, subscribing=0)
        #: By whose fault it is, "client" or "handler", and the exception's class.
        self.errors: Counter[tuple[str, str]] = Counter()
        #: What the receivers of a signal took, by stage and event.
        self.durations: dict[tuple[str, str], Histogram] = {}
        self._labels = Labels()

    def install(self) -> None:
        """Begin."""
        signals.handled.connect(self._handled)
        signals.error.connect(self._error)
        signals.sent.connect(self._sent)

    def uninstall(self) -> None:
        """End; the numbers stay."""
        signals.handled.disconnect(self._handled)
        signals.error.disconnect(self._error)
        signals.sent.disconnect(self._sent)

    def _handled(
        self, sender: Socket, stage: str, seconds: float, refused: str | None, **own: Any
    ) -> None:
        event = ""
        if stage == "message":
            event = self._count_message(sender, own)
        elif refused is not None:
            self.refused[stage] += 1
            if stage == "receiving":  # its handlers never run
                self._count_message(sender, own)
        elif stage == "subscribe":
            self.subscriptions[self._labels.of("", own["channel"])[1]] += 1
        elif stage == "unsubscribe":
            self.unsubscriptions[self._labels.of("", own["channel"])[1]] += 1
        elif stage == "connect":
            self.connections[sender.namespace] += 1
        elif stage == "disconnect":
            self.disconnects[own["reason"]] += 1
        histogram = self.durations.get((stage, event))
        if histogram is None:
            histogram = self.durations[stage, event] = Histogram()
        histogram.add(seconds)

    def _count_message(self, socket: Socket, own: dict[str, Any]) -> str:
        labels = self._labels.of(own["event"], own["channel"])
        self.messages[labels] += 1
        self.received += socket.message_size
        return labels[0]

    def _sent(self, sender: str, sockets: list[Socket], size: int, **extra: Any) -> None:
        # In the middle of sending, once for all recipients: nothing is read, nobody is looked at.
        self.sent[sender] += len(sockets)
        self.sent_bytes += size * len(sockets)

    def _error(self, sender: Any, exception: BaseException, by_client: bool, **extra: Any) -> None:
        labels = ("client" if by_client else "handler", type(exception).__name__)
        if labels not in self.errors and len(self.errors) >= MAX_LABELS:
            labels = (labels[0], OTHER)
        self.errors[labels] += 1
