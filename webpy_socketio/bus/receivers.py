"""Resolve the receivers of a signal for one event, in the order of connection.

blinker stores the receivers. This module keeps their order and caches the receivers of each kind of
event: handlers for other channels, however many, do not slow a message down.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeVar

from blinker import Signal

from webpy_socketio.exceptions import Refused

__all__ = ["FilteredReceiver", "OrderedSignal", "ResolvedReceivers", "Sender", "deny"]

F = TypeVar("F", bound=Callable[..., Any])

#: Maximum number of channels with cached receivers. Clients choose the names, so the cache is
#: limited.
MAX_CHANNELS = 1024


class FilteredReceiver:
    """A receiver that accepts only some events: a decorated handler."""

    __slots__ = ()

    #: Name of the accepted event; None accepts all events.
    event: str | None

    @property
    def is_bound(self) -> bool:
        """Whether the receiver depends on the channel, not only on the event."""
        raise NotImplementedError

    def accepts_event(self, event: str | None) -> bool:
        """Return whether the receiver accepts events of this name."""
        raise NotImplementedError

    @property
    def is_gate(self) -> bool:
        """Whether the receiver belongs to a gate, which rejects when its pattern times out."""
        raise NotImplementedError

    def matches(self, sender: Any, channel: str | None) -> bool | None:
        """Return whether the receiver accepts events of a channel, or of any channel of `sender`.

        None if the pattern exceeded its time limit.
        """
        raise NotImplementedError

    def call(self, sender: Any, keywords: dict[str, Any]) -> Any:
        """Handle an event without checking the filter."""
        raise NotImplementedError


#: Receivers in their order, each with its `FilteredReceiver.call`, or None.
ResolvedReceivers = tuple[
    tuple[Callable[..., Any], Callable[[Any, dict[str, Any]], Any] | None], ...
]


class _Candidates(NamedTuple):
    """The receivers of an event, and whether some of them depend on the channel."""

    #: Name of the event if a receiver accepts it by name; otherwise `_OTHER`.
    key: object
    resolved: ResolvedReceivers
    is_bound: bool


#: Key of all events that no receiver accepts by name. Clients choose those names, so they are not
#: cached.
_OTHER = object()


class Sender(Protocol):
    """The sender of a signal; here a socket."""

    #: Cache of `OrderedSignal.resolve`; cleared when the channels of the sender change.
    receiver_cache: dict[Any, tuple[int, ResolvedReceivers]] | None


class _OrderedSet(dict[Any, int]):
    """A set for blinker that keeps the order of its members (``Signal.set_class``)."""

    #: Whether new members are inserted at the front; see `OrderedSignal.connect`.
    front = False
    _clock = itertools.count()

    def add(self, item: Any) -> None:
        if item in self:
            return
        number = next(self._clock)
        if not _OrderedSet.front:
            self[item] = number
            return
        others = dict(self)
        self.clear()
        self[item] = -number
        self.update(others)

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def copy(self) -> _OrderedSet:
        return _OrderedSet(self)

    def __or__(self, other: Any) -> Any:
        merged = {**self, **other}
        return _OrderedSet(sorted(merged.items(), key=lambda member: member[1]))


class OrderedSignal(Signal):
    """A signal whose receivers run in the order they were connected."""

    set_class = _OrderedSet  # type: ignore[assignment]

    def __init__(self, doc: str) -> None:
        super().__init__(doc)
        # Cache by event; cleared at every change. Keys are the names that receivers accept, None
        # and `_OTHER`.
        self._by_event: dict[object, _Candidates] = {}
        self._by_channel: dict[tuple[object, str], ResolvedReceivers] = {}
        self._names: frozenset[str | None] | None = None
        self._changes = 0
        # Whether a receiver is weakly referenced or limited to one sender: disables the caches.
        self._volatile = False

    def connect(
        self, receiver: F, sender: Any = Signal.ANY, weak: bool = False, *, first: bool = False
    ) -> F:
        """Connect a receiver.

        Unlike in blinker, receivers are strongly referenced by default. When the reloader of web.py
        imports the main script a second time, the re-imported receiver replaces the first one.

        Args:
            receiver: The function.
            sender: Receive signals of this sender only. Default: of all senders.
            weak: Reference the receiver weakly.
            first: Run before all receivers that are connected already, such as a cheap gate
                before one
                that queries a database. A receiver that is connected already keeps its position.

        Returns:
            The receiver, so that the method can be used as a decorator.
        """
        if hasattr(receiver, "__code__"):
            for existing in list(self.receivers_for(Signal.ANY)):
                if _is_reimport(existing, receiver):
                    self.disconnect(existing)
        if weak or sender is not Signal.ANY:
            self._volatile = True
        _OrderedSet.front = first  # blinker passes no arguments to its sets
        try:
            connected = super().connect(receiver, sender, weak)
        finally:
            _OrderedSet.front = False
        self._clear_caches()
        return connected

    def disconnect(self, receiver: Callable[..., Any], sender: Any = Signal.ANY) -> None:
        """Disconnect a receiver; it may still receive an event that is being dispatched."""
        super().disconnect(receiver, sender)
        self._clear_caches()

    def resolve(self, sender: Any, event: str | None, channel: str | None) -> ResolvedReceivers:
        """Return the receivers of an event."""
        if self.is_muted or not self.receivers:
            return ()
        if self._volatile:
            return _filter_by_channel(
                _filter_by_event(self.receivers_for(sender), event), sender, channel
            )
        if channel is not None:
            return self._resolve_by_channel(sender, event, channel)
        candidates = self._resolve_by_event(event)
        return (
            self._resolve_by_sender(sender, candidates)
            if candidates.is_bound
            else candidates.resolved
        )

    def _resolve_by_event(self, event: str | None) -> _Candidates:
        candidates = self._by_event.get(event)
        if candidates is None:
            self.event_resolved(event)
            key = event if event is None or self._has_receiver_for(event) else _OTHER
            candidates = self._by_event.get(key)
            if candidates is None:
                resolved = _filter_by_event(self.receivers_for(Signal.ANY), event)
                is_bound = any(
                    isinstance(receiver, FilteredReceiver) and receiver.is_bound
                    for receiver, _ in resolved
                )
                candidates = self._by_event[key] = _Candidates(key, resolved, is_bound)
        return candidates

    def _has_receiver_for(self, event: str) -> bool:
        if self._names is None:
            receivers: list[Any] = [*self.receivers_for(Signal.ANY)]
            self._names = frozenset(
                receiver.event for receiver in receivers if isinstance(receiver, FilteredReceiver)
            )
        return event in self._names

    def _resolve_by_channel(
        self, sender: Any, event: str | None, channel: str
    ) -> ResolvedReceivers:
        resolved = self._by_channel.get((event, channel))
        if resolved is None:
            candidates = self._resolve_by_event(event)
            resolved = self._by_channel.get((candidates.key, channel))
            if resolved is None:
                resolved = _filter_by_channel(candidates.resolved, sender, channel)
                if len(self._by_channel) >= MAX_CHANNELS:
                    self._by_channel.clear()
                self._by_channel[candidates.key, channel] = resolved
        return resolved

    def _resolve_by_sender(self, sender: Sender, candidates: _Candidates) -> ResolvedReceivers:
        if sender.receiver_cache is None:
            sender.receiver_cache = {}
        key = (self, candidates.key)
        changes, resolved = sender.receiver_cache.get(key, (None, ()))
        if changes != self._changes:
            resolved = _filter_by_channel(candidates.resolved, sender, None)
            sender.receiver_cache[key] = self._changes, resolved
        return resolved

    def event_resolved(self, event: str | None) -> None:
        """Handle an event that is not cached or has no receivers; a hook for subclasses."""

    def _clear_caches(self) -> None:
        self._changes += 1
        self._names = None
        self._by_event.clear()
        self._by_channel.clear()

    def _clear_state(self) -> None:
        super()._clear_state()
        self._volatile = False
        self._clear_caches()


def _filter_by_event(
    receivers: Iterable[Callable[..., Any]], event: str | None
) -> ResolvedReceivers:
    return tuple(
        (receiver, receiver.call if isinstance(receiver, FilteredReceiver) else None)
        for receiver in receivers
        if not isinstance(receiver, FilteredReceiver) or receiver.accepts_event(event)
    )


def _filter_by_channel(
    resolved: ResolvedReceivers, sender: Any, channel: str | None
) -> ResolvedReceivers:
    filtered: list[Any] = []
    for pair in resolved:
        receiver = pair[0]
        found = (
            receiver.matches(sender, channel) if isinstance(receiver, FilteredReceiver) else True
        )
        if found:
            filtered.append(pair)
        elif found is None and receiver.is_gate:
            filtered.append((receiver, deny))
    return tuple(filtered)


def deny(sender: Any, keywords: dict[str, Any]) -> None:
    """Reject, in place of a gate whose pattern exceeded its time limit."""
    raise Refused("not allowed")


def _is_reimport(one: Any, other: Any) -> bool:
    """Return whether two functions are one, from ``__main__`` and from its import by name."""
    first, second = (
        getattr(one, "__code__", None),
        getattr(other, "__code__", None),
    )
    modules = (
        getattr(one, "__module__", None),
        getattr(other, "__module__", None),
    )
    return (
        first is not None
        and second is not None
        and modules[0] != modules[1]
        and "__main__" in modules
        and (first.co_filename, first.co_firstlineno, one.__qualname__)
        == (second.co_filename, second.co_firstlineno, other.__qualname__)
    )
