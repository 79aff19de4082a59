"""What clients are told about presence: a state when they subscribe, then numbered diffs.

``presence_state`` has ``channel``, ``epoch``, ``rev``, ``count`` and ``members``; ``presence_diff``
has ``channel``, ``epoch``, ``since``, ``rev``, ``count``, ``joins``, ``updates`` and ``leaves``. A
diff builds on the revision ``since``: a client that does not have that one, or knows another
epoch, asks for the state again. In a crowd, members and diffs are left out and the count remains.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent

from webpy_socketio import CallerError, NoSocket, call_later, emit
from webpy_socketio.plugins.presence.store import Change, Channel, Metas, State

__all__ = ["CROWD", "DiffBroadcaster", "describe"]

logger = logging.getLogger("webpy_socketio")

#: Seconds in which changes are gathered into one diff: a hundred people who come at once are one
#: message to each, not a hundred.
INTERVAL = 0.1

#: Members above which clients are told a count only.
CROWD = 200


@dataclass
class _Batch:
    since: int
    epoch: str
    rev: int = 0
    #: For each key that changed: what it was at `since`, and what it is now.
    keys: dict[str, tuple[Metas, Metas]] = field(default_factory=dict)


class DiffBroadcaster:
    """Gathers changes and tells them the subscribers of their channel that are in this process."""

    def __init__(
        self, state: Callable[[Channel], State | None], owe: Callable[[Channel], None]
    ) -> None:
        self._state = state
        self._owe = owe
        self._batches: dict[Channel, _Batch] = {}
        self._timer: Any = None

    def add(self, change: Change) -> None:
        """A change, to be told soon."""
        batch = self._batches.get(change.channel)
        if batch is None:
            batch = self._batches[change.channel] = _Batch(change.rev - 1, change.epoch)
        batch.rev = change.rev
        before, _ = batch.keys.get(change.key, (change.before, None))
        batch.keys[change.key] = (before, change.after)
        if self._timer is None:
            self._timer = call_later(INTERVAL, gevent.spawn, self._flush)

    def renew(self, channel: Channel) -> None:
        """Tell the whole state; what was to be told before counts no more."""
        self._batches.pop(channel, None)
        state = self._state(channel)
        if state is not None:
            self._tell("presence_state", channel, describe(channel[1], state))

    def close(self) -> None:
        """Tell nothing more."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._batches.clear()

    def _flush(self) -> None:
        self._timer = None
        batches, self._batches = self._batches, {}
        for channel, batch in batches.items():
            state = self._state(channel)
            if state is None:  # everybody left, or the whole state follows
                self._owe(channel)
                continue
            diff: dict[str, Any] = {
                "channel": channel[1],
                "epoch": batch.epoch,
                "since": batch.since,
                "rev": batch.rev,
                "count": len(state.members),
            }
            if diff["count"] <= CROWD:
                diff.update(_sort(batch))
            self._tell("presence_diff", channel, diff)

    def _tell(self, event: str, channel: Channel, what: dict[str, Any]) -> None:
        namespace, name = channel
        try:
            # Every process tells its own: each hears of every change.
            emit(event, what, channel=name, namespace=namespace, local=True)
        except NoSocket:  # everybody left
            pass
        except CallerError:  # too large for an outbox; what is told elsewhere is not
            logger.exception("presence in %r cannot be told", name)


def _sort(batch: _Batch) -> dict[str, dict[str, Metas]]:
    diff: dict[str, dict[str, Metas]] = {"joins": {}, "updates": {}, "leaves": {}}
    for key, (before, after) in batch.keys.items():
        if not after:
            # Told even of one that came and went within the batch: whoever got a state in between
            # knows it.
            diff["leaves"][key] = before
        else:
            diff["updates" if before else "joins"][key] = after
    return diff


def describe(channel: str, state: State) -> dict[str, Any]:
    """A state as clients get it."""
    told: dict[str, Any] = {
        "channel": channel,
        "epoch": state.epoch,
        "rev": state.rev,
        "count": len(state.members),
    }
    if len(state.members) <= CROWD:
        told["members"] = state.members
    return told
