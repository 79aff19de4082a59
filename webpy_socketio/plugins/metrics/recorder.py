"""Recorder: plain counters, cheap to increase and read when Prometheus scrapes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any

from webpy_socketio import Labels, Runtime, Socket

__all__ = ["BUCKETS", "Histogram", "Recorder"]

#: Upper bounds of the buckets in seconds. Handlers that only compute fall into the first ones,
#: handlers that query a database into the middle ones.
BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Histogram:
    """Distribution of durations."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        #: Number of durations in each bucket of `BUCKETS`, and above the last.
        self.counts = [0] * (len(BUCKETS) + 1)
        #: Sum of all durations.
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Add one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Recorder:
    """Counters by label, updated while installed."""

    def __init__(self, runtime: Runtime) -> None:
        self._signals = runtime.signals
        #: Accepted connections, by namespace.
        self.connections: Counter[str] = Counter()
        #: Ended connections, by reason.
        self.disconnects: Counter[str] = Counter()
        #: Received messages, by event and channel.
        self.messages: Counter[tuple[str, str]] = Counter()
        #: Size of these messages: characters of text, bytes of attachments.
        self.received = 0
        #: Sent events, counted for each recipient, by namespace.
        self.sent: Counter[str] = Counter()
        #: Size of these events in bytes, as WebSocket frames.
        self.sent_bytes = 0
        #: By channel; a disconnect ends all subscriptions of the socket.
        self.subscriptions: Counter[str] = Counter()
        self.unsubscriptions: Counter[str] = Counter()
        #: Lost connections, and those that resumed, by namespace.
        self.suspensions: Counter[str] = Counter()
        self.resumptions: Counter[str] = Counter()
        #: Rejections by gates, by stage.
        self.refused: Counter[str] = Counter(connecting=0, receiving=0, subscribing=0)
        #: Errors by origin, "client" or "handler", and class of the exception.
        self.errors: Counter[tuple[str, str]] = Counter()
        #: Durations of all receivers of a signal, by stage and event.
        self.durations: dict[tuple[str, str], Histogram] = {}
        #: Labels of events, channels and namespaces.
        self.labels = Labels(runtime)

    def install(self) -> None:
        """Connect to the signals."""
        self._signals.handled.connect(self._on_handled)
        self._signals.error.connect(self._on_error)
        self._signals.sent.connect(self._on_sent)

    def uninstall(self) -> None:
        """Disconnect from the signals; the counters keep their values."""
        self._signals.handled.disconnect(self._on_handled)
        self._signals.error.disconnect(self._on_error)
        self._signals.sent.disconnect(self._on_sent)

    def _on_handled(
        self, sender: Socket, stage: str, seconds: float, refused: str | None, **values: Any
    ) -> None:
        event = ""
        if stage == "message":
            event = self._count_message(sender, values)
        elif refused is not None:
            self.refused[stage] += 1
            if stage == "receiving":  # its handlers are not called
                self._count_message(sender, values)
        elif stage == "subscribe":
            self.subscriptions[self.labels.labels_of("", values["channel"])[1]] += 1
        elif stage == "unsubscribe":
            self.unsubscriptions[self.labels.labels_of("", values["channel"])[1]] += 1
        elif stage == "connect":
            self.connections[self.labels.label_of_namespace(values["namespace"])] += 1
        elif stage == "suspend":
            self.suspensions[self.labels.label_of_namespace(values["namespace"])] += 1
        elif stage == "resume":
            self.resumptions[self.labels.label_of_namespace(values["namespace"])] += 1
        elif stage == "disconnect":
            self.disconnects[values["reason"]] += 1
        histogram = self.durations.get((stage, event))
        if histogram is None:
            histogram = self.durations[stage, event] = Histogram()
        histogram.add(seconds)

    def _count_message(self, socket: Socket, values: dict[str, Any]) -> str:
        labels = self.labels.labels_of(values["event"], values["channel"])
        self.messages[labels] += 1
        self.received += socket.message_size
        return labels[0]

    def _on_sent(self, sender: str, sockets: list[Socket], size: int, **extra: Any) -> None:
        # Runs while sending, once for all recipients: must not inspect the message or the sockets.
        self.sent[self.labels.label_of_namespace(sender)] += len(sockets)
        self.sent_bytes += size * len(sockets)

    def _on_error(
        self, sender: Any, exception: BaseException, by_client: bool, **extra: Any
    ) -> None:
        labels = ("client" if by_client else "handler", type(exception).__name__)
        if labels not in self.errors and len(self.errors) >= Labels.MAX:
            labels = (labels[0], Labels.OTHER)
        self.errors[labels] += 1
