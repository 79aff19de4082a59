"""Targets: sets of recipients, and the operations on them."""

from __future__ import annotations

from typing import Any, Protocol

from webpy_socketio.arguments import check_close, check_namespace
from webpy_socketio.backplane.answers import Answers
from webpy_socketio.backplane.filters import NO_FILTER, RecipientFilter
from webpy_socketio.backplane.requests import Request
from webpy_socketio.channels import check_name
from webpy_socketio.cluster import Cluster
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio import packets
from webpy_socketio.engine.socketio.packets import encode_ack
from webpy_socketio.engine.socketio.parser import Parser
from webpy_socketio.exceptions import CallerError, CallTimeout, EncodeError, NoSocket
from webpy_socketio.server_requests import check_timeout
from webpy_socketio.socket_info import SocketInfo, read

__all__ = ["RESERVED_EVENTS", "Recipient", "Target", "add_channels", "encode"]

#: Event names of the protocol extension for channels; not available for messages.
RESERVED_EVENTS = frozenset(
    ("__subscribe__", "__unsubscribe__", "__channel__", "__numbered__", "__received__")
)


class Recipient(Protocol):
    """A socket, as `Target.except_` and `Target.to_sockets` accept it."""

    @property
    def session_id(self) -> str:
        """Public id of the connection."""


class Target:
    """An immutable set of sockets: those of a namespace, members of channels, or single sockets.

    `everyone`, `to`, `to_sockets`, `Socket.to` and `Socket.others` return targets. Each modifier
    returns a new target, so that a target can be stored and used from any greenlet and any thread.
    A socket in several channels receives one copy. With ``SOCKETIO_BACKPLANE``, the sockets of all
    processes are included.

    Example:
        >>> to("room-1", "room-2").except_("muted").emit("news", {"text": "hello"})
    """

    __slots__ = ("_channels", "_cluster", "_excluded", "_is_local", "_name", "_session_ids")

    def __init__(
        self,
        cluster: Cluster,
        namespace: str = "/",
        channels: tuple[str, ...] | None = None,
        excluded: RecipientFilter = NO_FILTER,
        is_local: bool = False,
        session_ids: tuple[str, ...] = (),
    ) -> None:
        self._cluster = cluster
        self._name = namespace
        #: The members of these channels; None for all sockets, unless there are session ids.
        self._channels = channels
        #: Further recipients, each by its session id.
        self._session_ids = session_ids
        self._excluded = excluded
        self._is_local = is_local

    def __repr__(self) -> str:
        text = "" if self._channels is None else f"to({', '.join(map(repr, self._channels))})"
        if self._session_ids:
            text += "." * bool(text) + f"to_sockets({', '.join(map(repr, self._session_ids))})"
        text = text or "everyone"
        if self._name != "/":
            text += f".namespace({self._name!r})"
        session_ids, channels, is_volatile = self._excluded
        if session_ids or channels:
            text += f".except_({', '.join(map(repr, (*channels, *session_ids)))})"
        text += ".local" * self._is_local + ".volatile" * is_volatile
        return f"<Target {text}>"

    # -- modifiers

    def to(self, *channels: str) -> Target:
        """Return a target that includes the members of further channels.

        Args:
            *channels: Names of channels.

        Returns:
            A new target.

        Raises:
            CallerError: No channel was given.
            ChannelError: A name is not valid.
        """
        return self._replace(
            channels=add_channels(self._channels or (), channels, self._max_channel_length)
        )

    def to_sockets(self, *sockets: str | Recipient) -> Target:
        """Return a target that includes single sockets, of any process and any namespace.

        A target of all sockets becomes one of these sockets. A socket that is also a member of the
        target's channels receives one copy. Sockets that do not exist are ignored.

        Args:
            *sockets: Session ids (`Socket.session_id`), sockets, and descriptions of sockets
                (`SocketInfo`).

        Returns:
            A new target.

        Raises:
            CallerError: No socket was given, or an argument is neither text nor a socket.

        Example:
            >>> to("room-1").to_sockets(session_id).emit("news", {"text": "hello"})
        """
        if not sockets:
            raise CallerError(
                "to_sockets() needs a session id or a socket, such as to_sockets(session_id)"
            )
        found = dict.fromkeys(self._session_ids)
        for each in sockets:
            session_id = each if isinstance(each, str) else getattr(each, "session_id", None)
            if not isinstance(session_id, str):
                raise CallerError(
                    f"to_sockets() takes session ids and sockets, not {type(each).__name__}"
                )
            found[session_id] = None
        return self._replace(session_ids=tuple(found))

    def except_(self, *channels_or_sockets: str | Recipient) -> Target:
        """Return a target without the members of channels, and without sockets.

        Args:
            *channels_or_sockets: Names of channels, and sockets.

        Returns:
            A new target.

        Raises:
            CallerError: An argument is neither text nor a socket.
            ChannelError: A name is not valid.
        """
        session_ids, channels, is_volatile = self._excluded
        for each in channels_or_sockets:
            if isinstance(each, str):
                channels = (*channels, self._check_name(each))
            elif isinstance(getattr(each, "session_id", None), str):
                session_ids = (*session_ids, each.session_id)
            else:
                raise CallerError(
                    f"except_() takes names of channels and sockets, not {type(each).__name__}"
                )
        return self._replace(excluded=RecipientFilter(session_ids, channels, is_volatile))

    def namespace(self, name: str) -> Target:
        """Return a target with the sockets of another namespace.

        Args:
            name: Name of the namespace. Default of a target: ``"/"``, or that of its socket.

        Returns:
            A new target.

        Raises:
            CallerError: `name` is not the name of a namespace.
        """
        return self._replace(namespace=check_namespace(name))

    @property
    def local(self) -> Target:
        """A target with the sockets of this process only."""
        return self._replace(is_local=True)

    @property
    def volatile(self) -> Target:
        """A target whose events are dropped for clients that have unsent data.

        For events that are soon replaced by newer ones, such as positions. A client has unsent data
        if it reads slowly, or if it has not fetched earlier messages by long-polling yet.
        """
        return self._replace(excluded=self._excluded._replace(volatile=True))

    def _replace(
        self,
        namespace: str | None = None,
        channels: tuple[str, ...] | None = None,
        excluded: RecipientFilter | None = None,
        is_local: bool = False,
        session_ids: tuple[str, ...] = (),
    ) -> Target:
        return Target(
            self._cluster,
            namespace or self._name,
            channels or self._channels,
            excluded or self._excluded,
            is_local or self._is_local,
            session_ids or self._session_ids,
        )

    @property
    def _max_channel_length(self) -> int:
        return self._cluster.limits().max_channel_length

    def _check_name(self, channel: Any) -> str:
        return check_name(channel, self._max_channel_length)

    # -- send

    def send(self, message: Any) -> None:
        """Send a message to the sockets. Has no effect if there are none.

        Args:
            message: JSON-serializable value, or ``bytes``.

        Raises:
            EncodeError: `message` cannot be represented as JSON, or is too large.
            NoSocket: No server runs in this process, and it has no backplane.
            BackplaneError: No server runs in this process, and Redis did not answer.
        """
        self.emit("message", message)

    def emit(self, event: str, *args: Any) -> None:
        """Send a custom event to the sockets. Has no effect if there are none.

        Args:
            event: Name of the event.
            *args: JSON-serializable values; ``bytes`` are sent as binary attachments.

        Raises:
            EncodeError: An argument cannot be represented as JSON, the event is too large, or its
                name is reserved.
            NoSocket: No server runs in this process, and it has no backplane.
            BackplaneError: No server runs in this process, and Redis did not answer.
        """
        sender = self._cluster.sender()
        limit = sender.limits.broadcast_bytes
        message = encode(sender.parser, self._name, event, args, limit)
        excluded, session_ids = self._excluded, self._session_ids
        if not session_ids:
            sender.send(message, self._name, self._channels, self._is_local, excluded)
            return
        if self._channels:  # each of the sockets receives a copy of its own
            skipped = excluded._replace(session_ids=(*excluded.session_ids, *session_ids))
            sender.send(message, self._name, self._channels, self._is_local, skipped)
        if self._name != "/":  # the process of a socket adds its namespace
            message = encode(sender.parser, "/", event, args, limit)
        for session_id in session_ids:
            if session_id not in excluded.session_ids:
                sender.send_to_socket(message, session_id, self._is_local, excluded)

    def call(self, event: str, *args: Any, timeout: float = 10.0) -> list[Any]:
        """Send an event to the sockets, and wait for the acknowledgements of all of them.

        Sockets that disconnect meanwhile are not waited for.

        Args:
            event: Name of the event.
            *args: JSON-serializable values; ``bytes`` are sent as binary attachments.
            timeout: Longest wait, in seconds, at most 3600.

        Returns:
            The answers of all processes in the order of their arrival, each as `Socket.call`
            returns it: the argument of the acknowledgement. Without arguments it is None, with
            several a list. Empty if there are no sockets.

        Raises:
            CallTimeout: Answers are missing. Its ``answers`` are those that have arrived.
            CallerError: The timeout is not valid.
            EncodeError: An argument cannot be represented as JSON, or the event is too large.
            NoSocket: No server runs in this process, and it has no backplane.
            BackplaneError: Redis did not answer, and the event was not sent to the sockets of this
                process.
            WrongContext: Called on the hub of gevent, which must not wait.

        Example:
            >>> votes = to("room-1").call("vote", "pizza?", timeout=30)
        """
        request = self._request("call", check_timeout("call", timeout))
        limit = self._cluster.limits().broadcast_bytes
        message = encode(packets, "/", event, args, limit)  # requests are JSON
        answers = self._ask(message, request, self._excluded)
        values = [value for _, value in answers.values]
        if not answers.is_complete or answers.silent:
            text = (
                f"{len(values)} of {answers.asked} clients acknowledged {event!r} within "
                f"{timeout} s"
            )
            raise CallTimeout(text + _explain_silent(answers), values, answers.silent)
        return values

    # -- change and list the sockets

    def disconnect(self, close: bool = False) -> None:
        """Close the connections of the sockets after sending queued messages.

        Does not wait for other processes.

        Args:
            close: Close the whole sessions, with the connections to other namespaces.

        Raises:
            CallerError: `close` is not a bool.
            NoSocket: No server runs in this process, and it has no backplane.
            BackplaneError: No server runs in this process, and Redis did not answer.
        """
        self._command("disconnect", check_close(close))

    def subscribe(self, channel: str) -> None:
        """Subscribe the sockets to a channel.

        The gates and limits of `Socket.subscribe` apply to each socket. A socket that a gate
        refuses is not subscribed; the number of refusals is logged. `ChannelError` is sent as
        ``error`` for the socket whose limit is reached.

        Returns when the sockets of this process are subscribed, and does not wait for other
        processes. On gevent's hub, the sockets of this process are subscribed later.

        Args:
            channel: Name of the channel.

        Raises:
            ChannelError: The name is not valid.
            NoSocket: No server runs in this process, and it has no backplane.
            BackplaneError: No server runs in this process, and Redis did not answer.

        Example:
            >>> to("lobby").subscribe("game-1")
        """
        self._command("subscribe", self._check_name(channel))

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe the sockets from a channel.

        Returns when the sockets of this process are unsubscribed, and does not wait for other
        processes. On gevent's hub, the sockets of this process are unsubscribed later.

        Args:
            channel: Name of the channel.

        Raises:
            ChannelError: The name is not valid.
            NoSocket: No server runs in this process, and it has no backplane.
            BackplaneError: No server runs in this process, and Redis did not answer.
        """
        self._command("unsubscribe", self._check_name(channel))

    def sockets(self, timeout: float = 10.0) -> list[SocketInfo]:
        """Return descriptions of the sockets of all processes.

        The sockets of this process are also returned by `webpy_socketio.sockets`, as objects.

        Args:
            timeout: Longest wait, in seconds, at most 3600.

        Returns:
            The descriptions, without an order. They may be outdated when they arrive.

        Raises:
            CallTimeout: A process did not answer. Its ``answers`` are the descriptions that have
                arrived.
            CallerError: The timeout is not valid.
            NoSocket: No server runs in this process, and it has no backplane.
            BackplaneError: Redis did not answer.
            WrongContext: Called on the hub of gevent, which must not wait.

        Example:
            >>> [info.context.get("name") for info in to("room-1").sockets()]
        """
        request = self._request("sockets", check_timeout("sockets", timeout))
        answers = self._ask(_encode_argument(), request, self._excluded_always)
        values = [read(value) for _, value in answers.values]
        if not answers.is_complete or answers.silent:
            text = f"{len(values)} sockets were described within {timeout} s"
            raise CallTimeout(text + _explain_silent(answers), values, answers.silent)
        return values

    # -- implementation

    @property
    def _excluded_always(self) -> RecipientFilter:
        """The filter for operations that send nothing to clients, to which volatile is no limit."""
        found = self._excluded._replace(volatile=False)
        return NO_FILTER if found == NO_FILTER else found

    def _request(self, kind: str, timeout: float = 0.0) -> Request:
        channels = self._channels
        if channels is None and self._session_ids:
            channels = ()
        return Request(kind, self._name, channels, timeout, session_ids=self._session_ids)

    def _ask(self, message: Message, request: Request, excluded: RecipientFilter) -> Answers:
        self._check_serving()
        return self._cluster.ask(message, request, excluded, self._is_local)

    def _command(self, kind: str, *args: str | bool) -> None:
        self._check_serving()
        self._cluster.command(
            _encode_argument(*args), self._request(kind), self._excluded_always, self._is_local
        )

    def _check_serving(self) -> None:
        if not self._cluster.serving():
            raise NoSocket(f"no client can be reached{self._cluster.explain_no_server()}")


def _encode_argument(*args: str | bool) -> Message:
    return encode_ack("/", 0, args)


def _explain_silent(answers: Answers) -> str:
    count = answers.silent
    if not count:
        return ""
    return f"; {count} of {answers.processes} processes did not answer: check whether they run"


def add_channels(
    known: tuple[str, ...], names: tuple[str, ...], max_length: int
) -> tuple[str, ...]:
    """Return `known` and further names of channels, each once.

    Raises:
        CallerError: There are no further names.
        ChannelError: A name is not valid.
    """
    for name in names:
        check_name(name, max_length)
    if len(names) == 1 and not known:
        return names
    if not names:
        raise CallerError(
            'to() needs the name of a channel, such as to("room-1"); use everyone for all sockets'
        )
    return tuple(dict.fromkeys(known + names))


def encode(
    parser: Parser, namespace: str, event: str, args: tuple[Any, ...], max_bytes: int
) -> Message:
    """Encode an event for sending.

    Raises:
        EncodeError: The event cannot be represented as JSON, is too large, or has a reserved name.
    """
    if not isinstance(event, str):
        raise EncodeError(f"the name of an event must be text, not {type(event).__name__}")
    if event in RESERVED_EVENTS:
        raise EncodeError(f'"{event}" is reserved: choose another name for the event')
    message = parser.encode_event(namespace, event, args)
    if message.size > max_bytes:
        raise EncodeError(
            f"a message of {message.size} bytes exceeds the limit of {max_bytes} bytes"
        )
    return message
