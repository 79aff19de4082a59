"""Filter of the recipients of a message, in this process and in others."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NO_FILTER", "RecipientFilter"]


class RecipientFilter(NamedTuple):
    """Excludes recipients of a message, in every process."""

    #: Session ids of excluded sockets.
    session_ids: tuple[str, ...] = ()
    #: Channels whose members are excluded.
    channels: tuple[str, ...] = ()
    #: Whether sockets with unsent data are excluded.
    volatile: bool = False

    @property
    def is_one_session(self) -> bool:
        """Whether the filter excludes one socket and nothing else."""
        return len(self.session_ids) == 1 and not self.channels and not self.volatile


#: Excludes no recipient.
NO_FILTER = RecipientFilter()
