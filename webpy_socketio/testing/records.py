"""Recording of the signals that are sent during a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from blinker import Signal

__all__ = ["Record", "recording"]


class Record:
    """A sent signal: the stage's name, the sender, and the keywords as attributes."""

    def __init__(self, stage: str, sender: Any, keywords: dict[str, Any]) -> None:
        #: Name of the signal, such as "subscribe".
        self.stage = stage
        #: The sender; for stages, the socket.
        self.sender = sender
        #: All keywords; ``record.channel`` is ``record.keywords["channel"]``.
        self.keywords = keywords

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["keywords"][name]
        except KeyError:
            known = ", ".join(self.__dict__.get("keywords", ()))
            raise AttributeError(f"{self.stage} was sent with {known}, not {name}") from None

    def __repr__(self) -> str:
        own = {
            name: value
            for name, value in self.keywords.items()
            if name not in ("request", "socket", "context") and (name, value) != ("namespace", "/")
        }
        return f"<{self.stage} {own!r}>"


@contextmanager
def recording(signals: Iterable[Signal]) -> Iterator[list[Record]]:
    """Append each of these signals that is sent to the yielded list."""
    records: list[Record] = []

    def recorder(signal: Signal) -> Callable[..., None]:
        name = str(getattr(signal, "name", signal.__doc__))

        def record(sender: Any, **keywords: Any) -> None:
            records.append(Record(name, sender, dict(keywords)))

        return record

    receivers = [(signal, recorder(signal)) for signal in signals]
    for signal, receiver in receivers:
        signal.connect(receiver, weak=False)
    try:
        yield records
    finally:
        for signal, receiver in receivers:
            signal.disconnect(receiver)
