"""Topics of Redis Pub/Sub: a namespace, a channel or a session."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["CHANNEL", "NAMESPACE", "SESSION", "VERSION", "Topic"]

#: Version of topic names and envelopes. Processes of different versions do not exchange messages.
VERSION: Final = 1

NAMESPACE, CHANNEL, SESSION = "all", "channel", "session"


class Topic(NamedTuple):
    """Recipients of a message; made by `namespace_topic`, `channel` or `session`."""

    kind: str
    #: Empty for a session, as the sender does not know its namespace.
    namespace: str
    #: Name of the channel, or session id.
    name: str

    @classmethod
    def namespace_topic(cls, namespace: str) -> Topic:
        """Return the topic of all sockets in a namespace."""
        return cls(NAMESPACE, namespace, "")

    @classmethod
    def channel(cls, namespace: str, name: str) -> Topic:
        """Return the topic of all subscribers of a channel."""
        return cls(CHANNEL, namespace, name)

    @classmethod
    def session(cls, session_id: str) -> Topic:
        """Return the topic of one socket."""
        return cls(SESSION, "", session_id)

    def address(self, prefix: str) -> bytes:
        """Return the name of the topic in Redis.

        Clients choose channel names, so the name comes last, after the kind and the namespace
        (which cannot contain a comma). No channel name can address another kind or namespace.
        """
        text = f"{prefix}:{VERSION}:{self.kind}:{self.namespace},{self.name}"
        # A caller may pass any text as a session id; lone surrogates match no session.
        return text.encode("utf-8", "surrogatepass")
