"""Local copy of a channel's state, updated by published changes; without I/O."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from webpy_socketio.plugins.presence.store import Change, Metas, State

__all__ = ["Replica", "Verdict"]

#: Maximum number of changes buffered while the state is read; beyond it, it is read again.
MAX_WAITING = 1024


class Verdict(enum.Enum):
    """Result of applying a change."""

    APPLIED = "the next change"
    DUPLICATE = "already applied"
    BUFFERED = "buffered until the state is read"
    GAP = "changes are missing: read the state"


class Replica:
    """A channel's state, and the changes received while it is being read."""

    def __init__(self) -> None:
        self.epoch = ""
        self.rev = 0
        self.members: dict[str, Metas] = {}
        #: Whether the state is complete, as far as known; and whether it has ever been.
        self.current = False
        self.known = False
        #: Whether a subscriber waits for the state.
        self.reset_requested = False
        self._waiting: list[Change] = []
        self._too_many = False

    @property
    def state(self) -> State:
        """The state; not a copy."""
        return State(self.epoch, self.rev, self.members)

    def invalidate(self) -> None:
        """Mark the state as incomplete: changes may be missing until it is read again."""
        self.current = False
        self._waiting.clear()
        self._too_many = False

    def apply(self, change: Change) -> Verdict:
        """Apply a published change, or buffer it while the state is incomplete."""
        if not self.current:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(change)
            else:
                self._too_many = True
            return Verdict.BUFFERED
        if change.epoch == self.epoch and change.rev <= self.rev:
            return Verdict.DUPLICATE
        if change.epoch != self.epoch or change.rev != self.rev + 1:
            # Later changes are contained in the state that will be read, or follow it.
            self.invalidate()
            return Verdict.GAP
        self.rev = change.rev
        if change.after:
            self.members[change.key] = change.after
        else:
            self.members.pop(change.key, None)
        return Verdict.APPLIED

    def replace(self, state: State) -> bool:
        """Store a state that was read; return whether it replaced the current one."""
        if self.current and state.epoch == self.epoch and state.rev <= self.rev:
            return False  # older than the changes applied since
        self.epoch, self.rev, self.members = state.epoch, state.rev, state.members
        return True

    def sync(self, missed: Iterable[Change]) -> tuple[list[Change], bool]:
        """Apply missed and buffered changes after a read.

        Returns:
            The changes applied, and whether further changes are missing.
        """
        waiting, self._waiting = self._waiting, []
        gap, self._too_many = self._too_many, False
        self.current = self.known = True
        applied: list[Change] = []
        for change in (*missed, *waiting):
            verdict = self.apply(change)
            if verdict is Verdict.GAP:
                return applied, True
            if verdict is Verdict.APPLIED:
                applied.append(change)
        if gap:
            self.invalidate()
        return applied, gap
