"""Which names become labels: those of handlers, never those that clients make up."""

from __future__ import annotations

from typing import Any

from webpy_socketio import registered_handlers

__all__ = ["MAX_LABELS", "OTHER", "Labels"]

#: What stands for all names that are nobody's.
OTHER = "other"

#: Events that have a label of their own, and patterns: handlers may be made in a loop, too.
MAX_LABELS = 100

#: Channels of which the labels are remembered. Clients choose the names, so not all.
_REMEMBERED = 1024


class Labels:
    """What events and channels are called in metrics.

    An event by its name, if a handler waits for it. A channel by the first pattern of a handler, of
    whichever stage, that it matches. What had a label once keeps it, though its handler may go.
    """

    def __init__(self) -> None:
        self._handlers: tuple[Any, ...] = ()
        self._events = {"message"}
        self._patterns: dict[str, Any] = {}
        self._remembered: dict[str, str] = {}

    def of(self, event: str, channel: str | None) -> tuple[str, str]:
        """The labels of an event and of the channel it is addressed to; of no channel that is ""."""
        handlers = registered_handlers()
        if handlers is not self._handlers:
            self._handlers = handlers
            self._learn()
        if event not in self._events:
            event = OTHER  # clients choose the names: none of theirs is kept
        if channel is None:
            return event, ""
        label = self._remembered.get(channel)
        if label is None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            label = self._remembered[channel] = self._of_channel(channel)
        return event, label

    def _learn(self) -> None:
        self._remembered.clear()
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
