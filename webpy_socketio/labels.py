"""Labels of events, channels and namespaces for metrics and traces."""

from __future__ import annotations

from typing import Any, ClassVar

from webpy_socketio.runtime import Runtime

__all__ = ["Labels"]

#: Label of all names without a handler, and of all namespaces that match a pattern.
OTHER = "other"

#: Maximum number of labels for events, and for patterns: an application may create handlers in a
#: loop.
MAX_LABELS = 100

#: Channels whose labels are cached. Clients choose the names, so the cache is bounded.
_CACHE_SIZE = 1024


class Labels:
    """Maps events, channels and namespaces to labels, which are never names chosen by clients.

    Metrics and traces with names that clients choose would need unlimited storage.

    The label of an event is its name if a handler is registered for it. The label of a channel is
    the first matching pattern of a handler for any stage. A label remains when its handler is
    removed. The label of a namespace is its name if ``SOCKETIO_NAMESPACES`` lists it. All other
    names have the label ``"other"``.

    Args:
        runtime: Runtime of the server.

    Example:
        >>> Labels(runtime).labels_of("say", "room-7")
        ('say', '^room-')
    """

    #: Label of all names without a handler.
    OTHER: ClassVar[str] = OTHER

    #: Maximum number of labels for events, and for patterns.
    MAX: ClassVar[int] = MAX_LABELS

    def __init__(self, runtime: Runtime) -> None:
        self._listed_namespaces = runtime.listed_namespaces
        self._registered_handlers = runtime.events.registered_handlers
        self._handlers: tuple[Any, ...] = ()
        self._events = {"message"}
        self._patterns: dict[str, Any] = {}
        self._cache: dict[str, str] = {}

    def labels_of(self, event: str, channel: str | None) -> tuple[str, str]:
        """Return the labels of an event and of its channel.

        Args:
            event: Name of the event.
            channel: Name of the channel, or None.

        Returns:
            The label of the event, and that of the channel, which is empty without a channel.
        """
        handlers = self._registered_handlers()
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

    def label_of_namespace(self, name: str) -> str:
        """Return the label of a namespace: its name, or ``"other"`` if it matches a pattern.

        Args:
            name: Name of the namespace.
        """
        return name if name in self._listed_namespaces() else OTHER

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
