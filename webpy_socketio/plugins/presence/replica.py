"""What a process knows of a channel that others change too: pure data."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from webpy_socketio.plugins.presence.store import Change, Metas, State

__all__ = ["Replica", "Verdict"]

#: Changes that may wait for a state; of more the state is asked for again.
MAX_WAITING = 1024


class Verdict(enum.Enum):
    """What a change that was heard is."""

    APPLIED = "the next one"
    DUPLICATE = "known already"
    BUFFERED = "kept until the state is known"
    GAP = "others are missing: ask for the state"


class Replica:
    """A channel's state and, until that is known, the changes that were heard meanwhile."""

    def __init__(self) -> None:
        self.epoch = ""
        self.rev = 0
        self.members: dict[str, Metas] = {}
        #: Whether nothing is missing, as far as anybody can tell; and whether that was ever so.
        self.current = False
        self.known = False
        #: Whether a subscriber waits to be sent the state.
        self.owed = False
        self._waiting: list[Change] = []
        self._too_many = False

    @property
    def state(self) -> State:
        """The state; not a copy."""
        return State(self.epoch, self.rev, self.members)

    def invalidate(self) -> None:
        """Changes may be missing from now on: until a state is asked for and comes, nothing counts."""
        self.current = False
        self._waiting.clear()
        self._too_many = False

    def apply(self, change: Change) -> Verdict:
        """A change that was published."""
        if not self.current:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(change)
            else:
                self._too_many = True
            return Verdict.BUFFERED
        if change.epoch == self.epoch and change.rev <= self.rev:
            return Verdict.DUPLICATE
        if change.epoch != self.epoch or change.rev != self.rev + 1:
            # What comes from now on is after the state that is going to be asked for, or in it.
            self.invalidate()
            return Verdict.GAP
        self.rev = change.rev
        if change.after:
            self.members[change.key] = change.after
        else:
            self.members.pop(change.key, None)
        return Verdict.APPLIED

    def replace(self, state: State) -> bool:
        """The state came; returns whether it is another one than was known."""
        if self.current and state.epoch == self.epoch and state.rev <= self.rev:
            return False  # it was asked for before what has been heard since
        self.epoch, self.rev, self.members = state.epoch, state.rev, state.members
        return True

    def sync(self, missed: Iterable[Change]) -> tuple[list[Change], bool]:
        """Go on from here: with what was missed, and with what was heard meanwhile.

        Returns the news, and whether there is still a gap.
        """
        waiting, self._waiting = self._waiting, []
        gap, self._too_many = self._too_many, False
        self.current = self.known = True
        news: list[Change] = []
        for change in (*missed, *waiting):
            verdict = self.apply(change)
            if verdict is Verdict.GAP:
                return news, True
            if verdict is Verdict.APPLIED:
                news.append(change)
        if gap:
            self.invalidate()
        return news, gap
