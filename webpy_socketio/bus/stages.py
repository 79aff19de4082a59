"""A stage of a connection: a named signal that checks its receivers."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from webpy_socketio.bus.introspection import (
    check_keywords,
    check_plain,
    describe,
    is_bundled,
)
from webpy_socketio.bus.receivers import FilteredReceiver, OrderedSignal
from webpy_socketio.exceptions import EventError

__all__ = ["MessageStage", "Stage", "message_keywords"]

logger = logging.getLogger("webpy_socketio")


F = TypeVar("F", bound=Callable[..., Any])

#: Maximum number of logged event names without a handler, and of characters of each. Clients choose
#: the names.
MAX_EVENTS, MAX_NAME = 100, 100


class Stage(OrderedSignal):
    """A named signal whose receivers run in the order they were connected.

    With `keywords`, `connect` checks that receivers accept them. A gate can reject; its receivers
    run before the change or the handlers.
    """

    def __init__(self, name: str, doc: str, *keywords: str, is_gate: bool = False) -> None:
        super().__init__(doc)
        self.name = name
        self.is_gate = is_gate
        self._keywords = keywords

    def connect(
        self,
        receiver: F,
        sender: Any = OrderedSignal.ANY,
        weak: bool = False,
        *,
        first: bool = False,
        enabled: Callable[[], bool] | None = None,
    ) -> F:
        """Connect a receiver.

        Args:
            receiver: Function that is called with the sender and the keywords of the signal.
            sender: Receive signals of this sender only. Default: of all senders.
            weak: Reference the receiver weakly. Default: strongly.
            first: Run before all receivers that are connected already.
            enabled: Called without arguments before each call of the receiver, which does not run
                if it returns False, such as whether a log is enabled. Costs less than a receiver
                that returns at once. Not together with `weak`.

        Returns:
            The receiver, so that the method can be used as a decorator.

        Raises:
            EventError: The receiver could not be called with the keywords, or would never run; or
                it is weakly referenced, with `enabled`.
        """
        if weak and enabled is not None:
            raise EventError(
                f"signals.{self.name}.connect: {describe(receiver)} cannot have both weak=True and "
                "enabled=: call the condition in the receiver"
            )
        if not isinstance(receiver, FilteredReceiver):  # decorated handlers have been checked
            wrong = check_plain(receiver)
            if wrong is None and self._keywords:
                wrong = check_keywords(receiver, self._keywords)
            if wrong is not None:
                raise EventError(f"signals.{self.name}.connect: {describe(receiver)} {wrong}")
        return super().connect(receiver, sender, weak, first=first, enabled=enabled)

    def __repr__(self) -> str:
        return f"<Stage {self.name}>"


class MessageStage(Stage):
    """The stage of messages and custom events; logs each event without a handler once."""

    def __init__(self, name: str, doc: str, *keywords: str) -> None:
        super().__init__(name, doc, *keywords)
        self._logged: set[str] = set()

    def event_resolved(self, event: str | None) -> None:
        if event is None or len(self._logged) >= MAX_EVENTS:
            return
        event = event[:MAX_NAME]
        if event in self._logged:
            return
        self._logged.add(event)
        # Receivers of the package, such as the message log, observe events without handling them.
        receivers: list[Any] = [
            each
            for each in self.receivers_for(self.ANY)
            if isinstance(each, FilteredReceiver) or not is_bundled(each)
        ]
        if any(
            not isinstance(each, FilteredReceiver) or each.accepts_event(event)
            for each in receivers
        ):
            return
        names = {each.event for each in receivers}
        close_names = difflib.get_close_matches(event, names, 1)
        hint = f"; did the client mean {close_names[0]!r}?" if close_names else ""
        # Without any handler, a module was probably not imported; otherwise clients may send any
        # name.
        logger.log(
            logging.INFO if names else logging.WARNING,
            "no handler for the event %s: is the module with its handlers imported?%s",
            ascii(event),
            hint,
        )

    def _direct_call(self, receiver: Any) -> Callable[..., Any] | None:
        if isinstance(receiver, FilteredReceiver):
            return receiver.call_message
        enabled = self._conditions.get(receiver)
        if enabled is None:
            return None

        def call(
            sender: Any, message: Any, event: str, args: list[Any], channel: str | None
        ) -> Any:
            if not enabled():
                return None
            return receiver(sender, **message_keywords(sender, message, event, args, channel))

        return call

    def _clear_state(self) -> None:
        super()._clear_state()
        self._logged.clear()


def message_keywords(
    socket: Any, message: Any, event: str, args: list[Any], channel: str | None
) -> dict[str, Any]:
    """Return the keywords of the signal `message`."""
    return {
        "message": message,
        "event": event,
        "args": args,
        "channel": channel,
        "request": socket.request,
        "socket": socket,
        "context": socket.context,
        "namespace": socket.namespace,
    }
