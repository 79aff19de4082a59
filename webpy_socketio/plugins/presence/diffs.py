"""Events sent to clients: a state when they subscribe, then numbered diffs.

``presence_state`` contains ``channel``, ``epoch``, ``rev``, ``count`` and ``members``.
``presence_diff`` contains ``channel``, ``epoch``, ``since``, ``rev``, ``count``, ``joins``,
``updates`` and ``leaves``.

A diff is based on the revision ``since``. A client with another revision or epoch must request the
state by sending ``presence_state``. With more than 200 members, the events contain the count only,
without members and diffs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent

from webpy_socketio import CallerError, NoSocket, Runtime, call_later
from webpy_socketio.plugins.presence.store import Change, Channel, Metas, State

__all__ = ["CROWD", "DiffBroadcaster", "describe"]

logger = logging.getLogger("webpy_socketio")

#: Seconds in which changes are combined into one diff, so that many simultaneous joins result in
#: one event for each subscriber.
INTERVAL = 0.1

#: Number of members above which events contain the count only.
CROWD = 200


@dataclass
class _Batch:
    since: int
    epoch: str
    rev: int = 0
    #: For each changed key: its metas at `since` and its current ones.
    keys: dict[str, tuple[Metas, Metas]] = field(default_factory=dict)


class DiffBroadcaster:
    """Combines changes and sends them to the subscribers in this process, those of one runtime."""

    def __init__(
        self,
        runtime: Runtime,
        state: Callable[[Channel], State | None],
        request_reset: Callable[[Channel], None],
    ) -> None:
        self._runtime = runtime
        self._state = state
        self._request_reset = request_reset
        self._batches: dict[Channel, _Batch] = {}
        self._timer: Any = None

    def add(self, change: Change) -> None:
        """Add a change to the next diff."""
        batch = self._batches.get(change.channel)
        if batch is None:
            batch = self._batches[change.channel] = _Batch(change.rev - 1, change.epoch)
        batch.rev = change.rev
        before, _ = batch.keys.get(change.key, (change.before, None))
        batch.keys[change.key] = (before, change.after)
        if self._timer is None:
            self._timer = call_later(INTERVAL, gevent.spawn, self._flush)

    def send_state(self, channel: Channel) -> None:
        """Send the whole state, and discard pending changes."""
        self._batches.pop(channel, None)
        state = self._state(channel)
        if state is not None:
            self._notify("presence_state", channel, describe(channel[1], state))

    def close(self) -> None:
        """Discard pending changes."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._batches.clear()

    def _flush(self) -> None:
        self._timer = None
        batches, self._batches = self._batches, {}
        for channel, batch in batches.items():
            state = self._state(channel)
            if state is None:  # no subscribers are left, or a whole state will follow
                self._request_reset(channel)
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
            self._notify("presence_diff", channel, diff)

    def _notify(self, event: str, channel: Channel, what: dict[str, Any]) -> None:
        namespace, name = channel
        try:
            # Every process receives every change and sends it to its own sockets.
            self._runtime.emit(event, what, channel=name, namespace=namespace, local=True)
        except NoSocket:  # no subscribers are left
            pass
        except CallerError:  # too large for an outbox; other channels must be sent
            logger.exception("presence of channel %r cannot be sent", name)


def _sort(batch: _Batch) -> dict[str, dict[str, Metas]]:
    diff: dict[str, dict[str, Metas]] = {"joins": {}, "updates": {}, "leaves": {}}
    for key, (before, after) in batch.keys.items():
        if not after:
            # Also for a key that joined and left within the batch: a client may have received a
            # state in between.
            diff["leaves"][key] = before
        else:
            diff["updates" if before else "joins"][key] = after
    return diff


def describe(channel: str, state: State) -> dict[str, Any]:
    """Return a state in the form sent to clients."""
    payload: dict[str, Any] = {
        "channel": channel,
        "epoch": state.epoch,
        "rev": state.rev,
        "count": len(state.members),
    }
    if len(state.members) <= CROWD:
        payload["members"] = state.members
    return payload
