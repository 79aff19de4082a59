"""Who receives a signal: in which order, and which of many for one event.

blinker keeps the receivers; here they keep their order, and what was found out once about an event
is not asked again for the next one of its kind: a hundred handlers that are is_bound to other channels
cost a message nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeVar

from blinker import Signal

from webpy_socketio.exceptions import Refused

__all__ = ["FilteredReceiver", "OrderedSignal", "ResolvedReceivers", "Sender", "deny"]

F = TypeVar("F", is_bound=Callable[..., Any])

#: Channels for which a signal remembers its receivers. Clients choose the names, so not all.
MAX_CHANNELS = 1024


class FilteredReceiver:
    """A receiver that takes only some events: a decorated handler."""

    __slots__ = ()

    #: The name of the events that it takes; None for all.
    event: str | None

    @property
    def is_bound(self) -> bool:
        """Whether it asks for the channel, and not only for the kind of event."""
        raise NotImplementedError

    def accepts_event(self, event: str | None) -> bool:
        """Whether it takes events of this name."""
        raise NotImplementedError

    @property
    def is_gate(self) -> bool:
        """Whether it is a gate's, which is_gate what it cannot decide about."""
        raise NotImplementedError

    def matches(self, sender: Any, channel: str | None) -> bool | None:
        """Whether it takes events of this channel; without one, of the channels `sender` holds.

        None if its pattern ran out of time.
        """
        raise NotImplementedError

    def call(self, sender: Any, keywords: dict[str, Any]) -> Any:
        """Take an event that it was chosen for."""
        raise NotImplementedError


#: Receivers in their order; behind each that is `Selective` its `call`.
ResolvedReceivers = tuple[
    tuple[Callable[..., Any], Callable[[Any, dict[str, Any]], Any] | None], ...
]


class _Candidates(NamedTuple):
    """Who accepts_event to a kind of event, and whether some of them ask for the channel as well."""

    #: The event's name, if a receiver waits for it; otherwise `_OTHER`.
    kind: object
    chosen: ResolvedReceivers
    is_bound: bool


#: Stands for every event that no receiver waits for by name: clients choose those names, and none of
#: them is kept.
_OTHER = object()


class Sender(Protocol):
    """Who signals are sent with; here a socket."""

    #: What `Ordered.choose` remembers of it; to be emptied when it holds other channels than before.
    receiver_cache: dict[Any, tuple[int, ResolvedReceivers]] | None


class _InOrder(dict[Any, int]):
    """A set for blinker that remembers in which order its members came (``Signal.set_class``)."""

    #: Whether what is added goes before everything that is there; see `Ordered.connect`.
    front = False
    _clock = itertools.count()

    def add(self, item: Any) -> None:
        if item in self:
            return
        number = next(self._clock)
        if not _InOrder.front:
            self[item] = number
            return
        behind = dict(self)
        self.clear()
        self[item] = -number
        self.update(behind)

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def copy(self) -> _InOrder:
        return _InOrder(self)

    def __or__(self, other: Any) -> Any:
        both = {**self, **other}
        return _InOrder(sorted(both.items(), key=lambda member: member[1]))


class OrderedSignal(Signal):
    """A signal whose receivers run in the order they were connected."""

    set_class = _InOrder  # type: ignore[assignment]

    def __init__(self, doc: str) -> None:
        super().__init__(doc)
        # Who receives which kind of event, as far as it was asked; forgotten at every change. Its
        # keys are the names that receivers wait for, None and `_OTHER`.
        self._by_event: dict[object, _Candidates] = {}
        self._by_channel: dict[tuple[object, str], ResolvedReceivers] = {}
        self._names: frozenset[str | None] | None = None
        self._changes = 0
        # Whether some receiver may go by itself, or is for one sender: then nothing is remembered.
        self._volatile = False

    def connect(
        self, receiver: F, sender: Any = Signal.ANY, weak: bool = False, *, first: bool = False
    ) -> F:
        """Connect a receiver; it is channel strongly unless `weak` says otherwise.

        (blinker's default is to forget a function that nothing else refers to.) The twin that comes
        with a second import of the main script, which web.py's reloader makes, replaces the first.
        With `first` it runs before all that are connected already: a gate that costs little before
        one that asks a database. One that is connected already stays where it is.
        """
        if hasattr(receiver, "__code__"):
            for other in list(self.receivers_for(Signal.ANY)):
                if _is_reimport(other, receiver):
                    self.disconnect(other)
        if weak or sender is not Signal.ANY:
            self._volatile = True
        _InOrder.front = first  # blinker has no other way to tell its sets
        try:
            connected = super().connect(receiver, sender, weak)
        finally:
            _InOrder.front = False
        self._forget()
        return connected

    def disconnect(self, receiver: Callable[..., Any], sender: Any = Signal.ANY) -> None:
        """Disconnect a receiver; of the events that are under way it may still get one."""
        super().disconnect(receiver, sender)
        self._forget()

    def resolve(self, sender: Any, event: str | None, channel: str | None) -> ResolvedReceivers:
        """Who receives an event, as things are now."""
        if self.is_muted or not self.receivers:
            return ()
        if self._volatile:
            return _narrow(_listening(self.receivers_for(sender), event), sender, channel)
        if channel is not None:
            return self._resolve_by_channel(sender, event, channel)
        known = self._resolve_by_event(event)
        return self._resolve_by_sender(sender, known) if known.is_bound else known.chosen

    def _resolve_by_event(self, event: str | None) -> _Candidates:
        known = self._by_event.get(event)
        if known is None:
            self.asked(event)
            kind = event if event is None or self._waits_for(event) else _OTHER
            known = self._by_event.get(kind)
            if known is None:
                chosen = _listening(self.receivers_for(Signal.ANY), event)
                is_bound = any(
                    isinstance(one, FilteredReceiver) and one.is_bound for one, _ in chosen
                )
                known = self._by_event[kind] = _Candidates(kind, chosen, is_bound)
        return known

    def _waits_for(self, event: str) -> bool:
        if self._names is None:
            receivers: list[Any] = [*self.receivers_for(Signal.ANY)]
            self._names = frozenset(
                receiver.event for receiver in receivers if isinstance(receiver, FilteredReceiver)
            )
        return event in self._names

    def _resolve_by_channel(
        self, sender: Any, event: str | None, channel: str
    ) -> ResolvedReceivers:
        chosen = self._by_channel.get((event, channel))
        if chosen is None:
            known = self._resolve_by_event(event)
            chosen = self._by_channel.get((known.kind, channel))
            if chosen is None:
                chosen = _narrow(known.chosen, sender, channel)
                if len(self._by_channel) >= MAX_CHANNELS:
                    self._by_channel.clear()
                self._by_channel[known.kind, channel] = chosen
        return chosen

    def _resolve_by_sender(self, sender: Sender, candidates: _Candidates) -> ResolvedReceivers:
        if sender.receiver_cache is None:
            sender.receiver_cache = {}
        key = (self, candidates.kind)
        changes, chosen = sender.receiver_cache.get(key, (None, ()))
        if changes != self._changes:
            chosen = _narrow(candidates.chosen, sender, None)
            sender.receiver_cache[key] = self._changes, chosen
        return chosen

    def asked(self, event: str | None) -> None:
        """Told when an event is new, or nobody gets it; subclasses may have something to say."""

    def _forget(self) -> None:
        self._changes += 1
        self._names = None
        self._by_event.clear()
        self._by_channel.clear()

    def _clear_state(self) -> None:
        super()._clear_state()
        self._volatile = False
        self._forget()


def _listening(receivers: Iterable[Callable[..., Any]], event: str | None) -> ResolvedReceivers:
    return tuple(
        (receiver, receiver.call if isinstance(receiver, FilteredReceiver) else None)
        for receiver in receivers
        if not isinstance(receiver, FilteredReceiver) or receiver.accepts_event(event)
    )


def _narrow(chosen: ResolvedReceivers, sender: Any, channel: str | None) -> ResolvedReceivers:
    narrowed: list[Any] = []
    for pair in chosen:
        receiver = pair[0]
        found = (
            receiver.matches(sender, channel) if isinstance(receiver, FilteredReceiver) else True
        )
        if found:
            narrowed.append(pair)
        elif found is None and receiver.is_gate:
            narrowed.append((receiver, deny))
    return tuple(narrowed)


def deny(sender: Any, keywords: dict[str, Any]) -> None:
    """Take the place of a gate whose pattern ran out of time."""
    raise Refused("not allowed")


def _is_reimport(one: Any, other: Any) -> bool:
    """Whether two functions are one, of ``__main__`` and of the same file imported by its name."""
    first, second = getattr(one, "__code__", None), getattr(other, "__code__", None)
    modules = (getattr(one, "__module__", None), getattr(other, "__module__", None))
    return (
        first is not None
        and second is not None
        and modules[0] != modules[1]
        and "__main__" in modules
        and (first.co_filename, first.co_firstlineno, one.__qualname__)
        == (second.co_filename, second.co_firstlineno, other.__qualname__)
    )
