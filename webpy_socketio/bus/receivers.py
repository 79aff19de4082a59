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
    #: Whether the receiver belongs to a gate, which rejects when its pattern times out.
    is_gate: bool

    @property
    def is_bound(self) -> bool:
        """Whether the receiver depends on the channel or namespace, not only on the event."""
        raise NotImplementedError

    @property
    def is_bound_to_namespace(self) -> bool:
        """Whether the receiver depends on the namespace."""
        raise NotImplementedError

    def accepts_event(self, event: str | None) -> bool:
        """Return whether the receiver accepts events of this name."""
        raise NotImplementedError

    def matches(self, sender: Any, channel: str | None) -> bool | None:
        """Return whether the receiver accepts events of a channel, or of any channel of `sender`.

        None if the pattern exceeded its time limit.
        """
        raise NotImplementedError

    def call(self, sender: Any, keywords: dict[str, Any]) -> Any:
        """Handle an event without checking the filter."""
        raise NotImplementedError

    def call_message(
        self, sender: Any, message: Any, event: str, args: list[Any], channel: str | None
    ) -> Any:
        """Handle a message without checking the filter, as `call` does.

        A dict of eight keywords takes longer than an empty handler.
        """
        raise NotImplementedError


#: Receivers in their order. Each has a function to call in place of it, or None, and whether it is
#: a handler. The arguments of the function are those of `FilteredReceiver.call_message` for the
#: signal of messages, and those of `FilteredReceiver.call` for all others.
ResolvedReceivers = tuple[tuple[Callable[..., Any], Callable[..., Any] | None, bool], ...]


class _Candidates(NamedTuple):
    """The receivers of an event, and whether some of them depend on channel or namespace."""

    #: The signal, and the name of the event if a receiver accepts it by name; otherwise `_OTHER`.
    key: tuple[OrderedSignal, object]
    resolved: ResolvedReceivers
    is_bound: bool
    is_bound_to_namespace: bool


#: Key of all events that no receiver accepts by name. Clients choose those names, so they are not
#: cached.
_OTHER = object()


class Sender(Protocol):
    """The sender of a signal; here a socket."""

    #: Cache of `OrderedSignal.resolve`; cleared when the channels of the sender change.
    receiver_cache: dict[Any, tuple[Any, ResolvedReceivers]] | None

    @property
    def namespace(self) -> str:
        """Name of the Socket.IO namespace."""


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
        self._by_channel: dict[tuple[object, str, str | None], ResolvedReceivers] = {}
        self._names: frozenset[str | None] | None = None
        #: Conditions of receivers, see `connect`.
        self._conditions: dict[Any, Callable[[], bool]] = {}
        # Whether a receiver is weakly referenced or limited to one sender: disables the caches.
        self._volatile = False

    def connect(
        self,
        receiver: F,
        sender: Any = Signal.ANY,
        weak: bool = False,
        *,
        first: bool = False,
        enabled: Callable[[], bool] | None = None,
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
            enabled: Called without arguments before each call of the receiver, which does not run
                if it returns False. Not together with `weak`.

        Returns:
            The receiver, so that the method can be used as a decorator.
        """
        if hasattr(receiver, "__code__"):
            for existing in list(self.receivers_for(Signal.ANY)):
                if _is_reimport(existing, receiver):
                    self.disconnect(existing)
        if weak or sender is not Signal.ANY:
            self._volatile = True
        if enabled is None:
            self._conditions.pop(receiver, None)
        else:
            self._conditions[receiver] = enabled
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
        self._conditions.pop(receiver, None)
        self._clear_caches()

    def is_idle(self) -> bool:
        """Return whether no receiver would run now; False if that depends on the event."""
        conditions = self._conditions
        if len(conditions) < len(self.receivers):
            return False
        try:
            for enabled in conditions.values():
                if enabled():
                    return False
        except Exception:  # noqa: BLE001 - raised again, and reported, when the signal is sent
            return False
        return True

    def is_enabled(self, receiver: Any) -> bool:
        """Return whether the condition of a receiver holds; see `connect`."""
        enabled = self._conditions.get(receiver)
        return enabled is None or enabled()

    def resolve(self, sender: Any, event: str | None, channel: str | None) -> ResolvedReceivers:
        """Return the receivers of an event."""
        if self.is_muted or not self.receivers:
            return ()
        if self._volatile:
            return _filter_by_channel(
                self._filter_by_event(self.receivers_for(sender), event), sender, channel
            )
        if channel is not None:
            return self._resolve_by_channel(sender, event, channel)
        candidates = self._by_event.get(event) or self._resolve_by_event(event)
        if not candidates.is_bound:
            return candidates.resolved
        cache = sender.receiver_cache
        if cache is not None:
            cached = cache.get(candidates.key)
            if cached is not None and cached[0] is candidates:  # no receiver changed since
                resolved: ResolvedReceivers = cached[1]
                return resolved
        return self._resolve_by_sender(sender, candidates)

    def _resolve_by_event(self, event: str | None) -> _Candidates:
        candidates = self._by_event.get(event)
        if candidates is None:
            self.event_resolved(event)
            key = event if event is None or self._has_receiver_for(event) else _OTHER
            candidates = self._by_event.get(key)
            if candidates is None:
                resolved = self._filter_by_event(self.receivers_for(Signal.ANY), event)
                every: list[Any] = [each for each, _, _ in resolved]
                filtered = [each for each in every if isinstance(each, FilteredReceiver)]
                candidates = self._by_event[key] = _Candidates(
                    (self, key),
                    resolved,
                    any(each.is_bound for each in filtered),
                    any(each.is_bound_to_namespace for each in filtered),
                )
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
        candidates = self._by_event.get(event) or self._resolve_by_event(event)
        namespace: str | None = sender.namespace if candidates.is_bound_to_namespace else None
        key = (candidates.key[1], channel, namespace)
        resolved = self._by_channel.get(key)
        if resolved is None:
            resolved = _filter_by_channel(candidates.resolved, sender, channel)
            if len(self._by_channel) >= MAX_CHANNELS:
                self._by_channel.clear()
            self._by_channel[key] = resolved
        return resolved

    def _resolve_by_sender(self, sender: Sender, candidates: _Candidates) -> ResolvedReceivers:
        resolved = _filter_by_channel(candidates.resolved, sender, None)
        if sender.receiver_cache is None:
            sender.receiver_cache = {}
        sender.receiver_cache[candidates.key] = candidates, resolved
        return resolved

    def _filter_by_event(
        self, receivers: Iterable[Callable[..., Any]], event: str | None
    ) -> ResolvedReceivers:
        return tuple(
            (receiver, self._direct_call(receiver), isinstance(receiver, FilteredReceiver))
            for receiver in receivers
            if not isinstance(receiver, FilteredReceiver) or receiver.accepts_event(event)
        )

    def _direct_call(self, receiver: Any) -> Callable[..., Any] | None:
        """Return the function of `ResolvedReceivers` that calls a receiver, or None."""
        if isinstance(receiver, FilteredReceiver):
            return receiver.call
        enabled = self._conditions.get(receiver)
        if enabled is None:
            return None

        def call(sender: Any, keywords: dict[str, Any]) -> Any:
            return receiver(sender, **keywords) if enabled() else None

        return call

    def event_resolved(self, event: str | None) -> None:
        """Handle an event that is not cached or has no receivers; a hook for subclasses."""

    def _clear_caches(self) -> None:
        self._names = None
        self._by_event.clear()
        self._by_channel.clear()

    def _clear_state(self) -> None:
        super()._clear_state()
        self._conditions.clear()
        self._volatile = False
        self._clear_caches()


def _filter_by_channel(
    resolved: ResolvedReceivers, sender: Any, channel: str | None
) -> ResolvedReceivers:
    filtered: list[Any] = []
    for each in resolved:
        receiver: Any = each[0]
        found = (
            receiver.matches(sender, channel) if isinstance(receiver, FilteredReceiver) else True
        )
        if found:
            filtered.append(each)
        elif found is None and receiver.is_gate:
            filtered.append((receiver, deny, True))
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
