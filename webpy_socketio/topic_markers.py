"""Topic markers: envelopes without an event, whose place on their topic is significant."""

from __future__ import annotations

from collections.abc import Collection

import gevent.event

from webpy_socketio.backplane.envelope import Envelope
from webpy_socketio.backplane.topics import Topic

__all__ = ["END", "START", "TopicMarkers"]

#: Markers of the new server of a session, and of the old one.
START, END = "start", "end"

#: Cuts whose markers are kept; each server receives also those of other servers. With more of them,
#: the oldest one that is not awaited is discarded.
MAX_CUTS = 1000


class TopicMarkers:
    """The markers that have arrived; for the hub's thread only."""

    def __init__(self) -> None:
        self._arrived: dict[tuple[str, str], set[Topic]] = {}
        self._waiting: dict[tuple[str, str], gevent.event.Event] = {}

    def receive(self, topic: Topic, envelope: Envelope) -> None:
        """Handle a marker of another server."""
        cut = envelope.cut
        if cut is None:
            return
        topics = self._arrived.get(cut)
        if topics is None:
            if len(self._arrived) >= MAX_CUTS:
                oldest = next((each for each in self._arrived if each not in self._waiting), None)
                if oldest is not None:
                    del self._arrived[oldest]
            topics = self._arrived[cut] = set()
        topics.add(topic)
        event = self._waiting.get(cut)
        if event is not None:
            event.set()

    def wait(self, cut: tuple[str, str], topics: Collection[Topic], timeout: float) -> bool:
        """Wait until the markers of a cut have arrived on all topics.

        Args:
            cut: Id of the cut, and `START` or `END`.
            topics: The topics.
            timeout: Longest wait, in seconds.

        Returns:
            Whether they have arrived.
        """
        wanted = set(topics)
        event = self._waiting[cut] = gevent.event.Event()
        try:
            with gevent.Timeout(timeout, False):
                while not wanted <= self._arrived.get(cut, set()):
                    event.clear()
                    event.wait()
                return True
            return False
        finally:
            self._waiting.pop(cut, None)
            self._arrived.pop(cut, None)
