"""Labels of events and channels: names of handlers, never names chosen by clients."""

from __future__ import annotations

from typing import Any

from webpy_socketio import registered_handlers

__all__ = ["MAX_LABELS", "OTHER", "Labels"]

#: Label of all names without a handler.
OTHER = "other"

#: Maximum number of labels for events, and for patterns: an application may create handlers in a
#: loop.
MAX_LABELS = 100

#: Channels whose labels are cached. Clients choose the names, so the cache is bounded.
_CACHE_SIZE = 1024


class Labels:
    """Maps events and channels to labels.

    The label of an event is its name if a handler is registered for it. The label of a channel is
    the first matching pattern of a handler for any stage. A label remains when its handler is
    removed.
    """

    def __init__(self) -> None:
        self._handlers: tuple[Any, ...] = ()
        self._events = {"message"}
        self._patterns: dict[str, Any] = {}
        self._cache: dict[str, str] = {}

    def labels_of(self, event: str, channel: str | None) -> tuple[str, str]:
        """Return the labels of an event and of its channel; "" without a channel."""
        handlers = registered_handlers()
        if handlers is not self._handlers:
            self._handlers = handlers
            self._update()
        if event not in self._events:
            event = OTHER  # clients choose the names: not stored
        if channel is None:
            return event, ""
        label = self._cache.get(channel)
        if label is None:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            label = self._cache[channel] = self._of_channel(channel)
        return event, label

    def _update(self) -> None:
        self._cache.clear()
        for handler in self._handlers:
            if handler.event is not None and len(self._events) < MAX_LABELS:
                self._events.add(handler.event)
            pattern = handler.pattern
            if pattern is not None and len(self._patterns) < MAX_LABELS:
                self._patterns.setdefault(pattern.regex.pattern, pattern)

    def _of_channel(self, channel: str) -> str:
        for text, pattern in self._patterns.items():
            if pattern.match(channel):
                return text
        return OTHER
