"""What other processes listen to: everybody of a namespace, a channel, one session."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["CHANNEL", "NAMESPACE", "SESSION", "VERSION", "Topic"]

#: Of names and envelopes; processes of different versions do not hear each other.
VERSION: Final = 1

NAMESPACE, CHANNEL, SESSION = "all", "channel", "session"


class Topic(NamedTuple):
    """Whom a message is for. Make one with `everybody`, `channel` or `session`."""

    kind: str
    #: Empty for a session, of which the sender does not know where it is.
    namespace: str
    #: The channel, or the session id.
    name: str

    @classmethod
    def namespace_topic(cls, namespace: str) -> Topic:
        """All sockets of a namespace."""
        return cls(NAMESPACE, namespace, "")

    @classmethod
    def channel(cls, namespace: str, name: str) -> Topic:
        """All subscribers of a channel."""
        return cls(CHANNEL, namespace, name)

    @classmethod
    def session(cls, session_id: str) -> Topic:
        """One socket."""
        return cls(SESSION, "", session_id)

    def address(self, prefix: str) -> bytes:
        """Its name in Redis.

        Clients choose the names of channels, so the name comes last, and the kind stands before it:
        whatever is in the name, another kind or namespace (which has no comma) cannot be reached.
        """
        text = f"{prefix}:{VERSION}:{self.kind}:{self.namespace},{self.name}"
        # A session id may be any text that a caller has; a surrogate is nobody's.
        return text.encode("utf-8", "surrogatepass")
