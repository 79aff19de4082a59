"""Topics of Redis Pub/Sub: a namespace, a channel, a session, all servers or one node."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["CHANNEL", "NAMESPACE", "NODE", "SERVERS", "SESSION", "VERSION", "Topic"]

#: Version of topic names and envelopes. Processes of different versions do not exchange messages.
VERSION: Final = 1

NAMESPACE, CHANNEL, SESSION = "all", "channel", "session"

#: Topics of requests to all servers, and of requests and answers to one of them.
SERVERS, NODE = "servers", "node"


class Topic(NamedTuple):
    """Recipients of a message; made by one of the class methods."""

    kind: str
    #: Empty for a session, as the sender does not know its namespace, and for servers.
    namespace: str
    #: Name of the channel, session id, or node.
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

    @classmethod
    def servers(cls) -> Topic:
        """Return the topic of all processes with a server."""
        return cls(SERVERS, "", "")

    @classmethod
    def node(cls, node: str) -> Topic:
        """Return the topic on which a node receives answers, and requests that only it handles."""
        return cls(NODE, "", node)

    def address(self, prefix: str) -> bytes:
        """Return the name of the topic in Redis.

        Clients choose channel names, so the name comes last, after the kind and the namespace
        (which cannot contain a comma). No channel name can address another kind or namespace.
        """
        text = f"{prefix}:{VERSION}:{self.kind}:{self.namespace},{self.name}"
        # A caller may pass any text as a session id; lone surrogates match no session.
        return text.encode("utf-8", "surrogatepass")
