"""A namespace whose messages are numbered and retained, for connection state recovery."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Protocol, TypeVar

from webpy_socketio.backplane.envelope import Envelope, Packet
from webpy_socketio.backplane.filters import NO_FILTER, RecipientFilter
from webpy_socketio.backplane.topics import CHANNEL, NAMESPACE, Topic
from webpy_socketio.bus.signals import send_robust
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.memberships import Memberships
from webpy_socketio.registry import Member, Namespace, filter_of, topics_of

__all__ = ["RecoverableNamespace"]


class RecoverableMember(Member, Protocol):
    """The part of a recoverable socket that its namespace uses."""

    memberships: Memberships


M = TypeVar("M", bound=RecoverableMember)


class RecoverableNamespace(Namespace[M]):
    """Replaces the class of a namespace, so that namespaces without recovery need no check.

    A suspended socket stays a member. Its closed outbox ignores messages, which the log retains.
    """

    def send(
        self,
        message: Message,
        channels: Collection[str] | None = None,
        skip: M | None = None,
        also: M | None = None,
        local: bool = False,
        excluded: RecipientFilter = NO_FILTER,
    ) -> None:
        registry = self.registry
        if not registry.on_hub_thread:
            registry.call_soon(self.send, message, channels, skip, also, local, excluded)
            return
        if channels and self._published.receivers and not local:
            skip, excluded = self._announce(message, channels, skip, excluded)
        if excluded is not NO_FILTER and excluded.volatile:
            numbered = registry.recovery.number_volatile(self.name, message)
        else:
            numbered = registry.recovery.log.add(
                message,
                self.name,
                channels if channels is None or type(channels) is tuple else tuple(channels),
                None if also is None else also.session_id,
                None if skip is None else skip.session_id,
                None if excluded is NO_FILTER else excluded,
            )
        # Before the delivery, as in `Namespace.send`.
        if registry.backplane is not None and not local:
            topics = topics_of(self.name, channels)
            registry.backplane.publish(message, *topics, recipients=filter_of(skip, excluded))
        self.deliver(numbered, self._recipients(channels, also, excluded), skip)

    def deliver_to(self, socket: M, message: Message) -> None:
        numbered = self._log.add(message, self.name, (), socket.session_id, None, None)
        super().deliver_to(socket, numbered)

    def deliver_volatile(self, socket: M, message: Message) -> None:
        numbered = self.registry.recovery.number_volatile(self.name, message)
        super().deliver_volatile(socket, numbered)

    def receive(self, packet: Packet, envelope: Envelope, channel: str | None) -> None:
        if envelope.marks and channel is not None:
            envelope = self._exclude_recipients(envelope, Topic.channel(self.name, channel))
        super().receive(packet, envelope, channel)

    def _exclude_recipients(self, envelope: Envelope, topic: Topic) -> Envelope:
        """Exclude sessions that have received a broadcast before they moved here."""
        late_copies, recipients = self.registry.recovery.late_copies, envelope.recipients
        found = () if late_copies is None else late_copies.find_received(topic, envelope)
        if not found:
            return envelope
        session_ids = (*recipients.session_ids, *found)
        return envelope._replace(recipients=recipients._replace(session_ids=session_ids))

    def read_message(self, packet: Packet, envelope: Envelope, channel: str | None) -> Message:
        message = packet.message(self.name, self.registry.parser)
        recovery, excluded = self.registry.recovery, envelope.recipients
        if excluded.volatile:
            volatile: Message = recovery.number_volatile(self.name, message)
            return volatile
        numbered: Message = recovery.log.append(
            message,
            self.name,
            None if channel is None else envelope.channels or (channel,),
            excluded=None if excluded is NO_FILTER else excluded,
        )
        if recovery.cuts or envelope.marks:
            name = "" if channel is None else channel
            kind = NAMESPACE if channel is None else CHANNEL
            recovery.received(Topic(kind, self.name, name), envelope)
        return numbered

    def receive_for(self, socket: M, packet: Packet, envelope: Envelope) -> None:
        last = self._log.last
        super().receive_for(socket, packet, envelope)
        if self.registry.recovery.cuts and self._log.last != last:
            self.registry.recovery.received(Topic.session(socket.session_id), envelope)

    def send_sent_signal(self, message: Message, sockets: list[M]) -> None:
        """Send the signal `sent` for the sockets that are not suspended, without the offset."""
        connected = [socket for socket in sockets if socket.connected]
        if connected:
            read = partial(self.registry.recovery.read, self.name, message)
            send_robust(self._sent, self.name, sockets=connected, size=message.size, read=read)

    # -- membership of channels

    def join(self, socket: M, channel: str, may_join: Callable[[], bool]) -> bool:
        def joins() -> bool:
            # Called immediately before the socket becomes a member.
            if not may_join():
                return False
            if channel not in self.channels.channels_of(socket):
                socket.memberships.join(channel, self._log.last)
            return True

        return super().join(socket, channel, joins)

    def leave(self, socket: M, channel: str) -> bool:
        left = super().leave(socket, channel)
        if left:
            socket.memberships.leave(channel, self._log.last, self._log.discarded)
        return left

    @property
    def _log(self) -> Any:
        return self.registry.recovery.log
