"""Message cut: messages that the old server of a moving session has already seen.

They are excluded from the messages of this server, so that the client receives each once.
"""

from __future__ import annotations

from webpy_socketio.backplane.envelope import Envelope
from webpy_socketio.backplane.topics import Topic

__all__ = ["MessageCut"]


class MessageCut:
    """Collects the numbers of messages that the old server sends, while a session moves here.

    The old server has seen a message before it gave up the session if

    - the old server has sent it, and it arrived here before the answer of the old server; or
    - a third process has sent it, and it arrived here before the own copy of the request, as Redis
      delivers all messages in one order.

    It has not seen those of this process that follow the request.

    Args:
        node: The old server.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        #: Whether the own copy of the request has arrived.
        self._is_copied = False
        #: Numbers of messages that the old server has seen.
        self.excluded: set[int] = set()

    def copy_arrived(self) -> None:
        """Handle the own copy of the request."""
        self._is_copied = True

    def received(self, number: int, topic: Topic, envelope: Envelope) -> None:
        """Handle a message of another process before the answer."""
        node = None if envelope.mark is None else envelope.mark.node
        if node == self._node or not self._is_copied:
            self.excluded.add(number)
