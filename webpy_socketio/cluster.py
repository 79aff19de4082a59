"""The connection of a runtime to other processes: the backplane of its servers, or a sender."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import web

from webpy_socketio.backplane import MAX_BYTES, Topic
from webpy_socketio.backplane.answers import Answers
from webpy_socketio.backplane.connector import RedisConnector, import_opening
from webpy_socketio.backplane.filters import NO_FILTER, RecipientFilter
from webpy_socketio.backplane.requests import Request
from webpy_socketio.config.settings import Settings
from webpy_socketio.config.sources import SettingsSources
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.parser import Parser, get_parser
from webpy_socketio.exceptions import BackplaneError, ConfigurationError, NoSocket
from webpy_socketio.recovery import OFFSET_BYTES, disable, enable, settings_of_recovery
from webpy_socketio.registry import ForkedRegistry, Limits, SocketRegistry, topics_of
from webpy_socketio.server_requests import ServerRequests, check_can_wait
from webpy_socketio.session_moves import SessionMoves

if TYPE_CHECKING:
    from webpy_socketio.backplane.connection import RedisConnection

__all__ = ["Cluster", "connect_redis", "limits_of"]

#: URL and topic prefix of a backplane; the URL is None without one.
Address = tuple[str | None, str]


class Cluster:
    """The connection of one runtime to other processes.

    Either the backplane of its running servers or, in a process without servers, a sender that is
    created on first use.
    """

    def __init__(self, registry: SocketRegistry[Any], sources: SettingsSources) -> None:
        self.registry = registry
        #: Requests to all servers, in a process with a server.
        self.requests = ServerRequests(registry)
        self._sources = sources
        #: Number of running servers.
        self._servers = 0
        #: The backplane of the running servers.
        self._address: Address = (None, "")
        #: Settings of recovery of the running servers.
        self._recovery: object = None
        #: The sender of a process without servers, created on first use.
        self._standalone_sender: StandaloneSender | None = None
        #: In a process forked from a server: the parent's backplane address.
        self._inherited: Address = (None, "")

    def configured(self) -> Settings:
        """Return the settings that a server created now without keywords would have."""
        return self._sources.resolve({}, web.config)

    def join(self, settings: Settings) -> None:
        """Register a server that starts; the first one of a process opens the backplane.

        Raises:
            ConfigurationError: Another server of the runtime uses a different backplane or parser,
                or has different settings of recovery.
        """
        parser = get_parser(settings.parser)
        if self._servers and parser is not self.registry.parser:
            raise ConfigurationError(
                "another server uses a different SOCKETIO_PARSER; servers of one runtime share "
                "their messages and must use the same parser. Give this server a runtime of its "
                "own, runtime=Runtime(), or the same SOCKETIO_PARSER"
            )
        address = (settings.backplane, settings.backplane_prefix)
        if self._servers and address != self._address:
            raise ConfigurationError(
                "another server uses a different SOCKETIO_BACKPLANE; servers of one runtime share "
                "their clients and must use the same backplane. Pass runtime=Runtime() to this "
                "server for a separate runtime, or set the same SOCKETIO_BACKPLANE"
            )
        self.registry.parser = parser
        recovery = settings_of_recovery(settings)
        if self._servers and recovery != self._recovery:
            raise ConfigurationError(
                "another server has different settings SOCKETIO_RECOVERY_*; servers of one runtime "
                "share their clients and must use the same values. Give this server a runtime of "
                "its own, runtime=Runtime(), or the same settings"
            )
        if not self._servers:
            enable(self.registry, settings)
            self._recovery = recovery
        if not self._servers and settings.backplane is not None:
            self.registry.backplane = _import().RedisBackplane(
                *address, self.registry.receive, self.registry.report_gap
            )
            # Not earlier: a request needs the backplane of the registry for its answer.
            self.registry.backplane.open()
            if self.registry.recovery is not None:
                self.registry.recovery.moves = SessionMoves(
                    *(self.registry.recovery, self.registry, self.requests),
                    *(self.registry.backplane, settings),
                )
        self._servers += 1
        self._address = address

    def leave(self) -> None:
        """Unregister a server that has stopped; the last one closes the backplane."""
        self._servers -= 1
        if self._servers:
            return
        if self.registry.backplane is not None:
            if self.registry.recovery is not None:
                # Later requests fail at once, instead of waiting for an answer.
                with contextlib.suppress(BackplaneError):
                    self.registry.backplane.retire(Topic.node(self.registry.backplane.node))
            self.requests.close()
            backplane, self.registry.backplane = self.registry.backplane, None
            backplane.stop()
        # Last: until here, claims of sessions that have moved are redirected.
        disable(self.registry)
        self.registry.detach()

    def reset_after_fork(self) -> None:
        """Discard the state of the parent process in a forked child, which runs no servers."""
        self.registry.reset_after_fork()
        self.requests.reset_after_fork()
        if self._servers:
            self._inherited = self._address
        self._servers = 0
        self._standalone_sender = None

    def is_forked(self) -> bool:
        """Return whether this process was forked from a server and runs no server itself."""
        return not self._servers and isinstance(self.registry, ForkedRegistry)

    def serving(self) -> bool:
        """Return whether a server runs in this process, or a backplane reaches other processes."""
        return bool(self._servers) or self._configured_address()[0] is not None

    def explain_no_server(self) -> str:
        """Return why no socket can be reached, as the end of an error message; may be empty."""
        if self.serving():
            return ""
        if self.is_forked():
            return (
                ": this process was forked from a server and cannot use the connections of its "
                "parent; to reach those clients, set SOCKETIO_BACKPLANE"
            )
        return (
            ": no SocketIOServer runs in this process; to reach the clients of another process, "
            "set the same SOCKETIO_BACKPLANE in both"
        )

    def limits(self) -> Limits:
        """Return the limits for messages that are not sent by a socket."""
        if self._servers:
            return self.registry.limits
        address = self._configured_address()
        if address[0] is None:
            return self.registry.limits
        return self._standalone(address).limits

    def sender(self) -> SocketRegistry[Any] | StandaloneSender:
        """Return the sender of messages: the registry of the servers, or one without sockets.

        Raises:
            NoSocket: No server runs in this process, and it has no backplane.
        """
        if self._servers:
            return self.registry
        address = self._configured_address()
        if address[0] is None:
            raise NoSocket(f"no client can be reached{self.explain_no_server()}")
        return self._standalone(address)

    def command(
        self,
        message: Message,
        request: Request,
        recipients: RecipientFilter = NO_FILTER,
        is_local: bool = False,
        to_self: bool = True,
    ) -> None:
        """Send a request without answers to all servers, or to this one only if `is_local`.

        Raises:
            BackplaneError: This process has no server, and Redis did not answer.
        """
        if self._servers:
            self.requests.send(message, request, recipients, is_local, to_self)
        elif not is_local and (address := self._configured_address())[0] is not None:
            self._standalone(address).redis.send_request(message, request, recipients)

    def ask(
        self,
        message: Message,
        request: Request,
        recipients: RecipientFilter = NO_FILTER,
        is_local: bool = False,
        to_self: bool = True,
    ) -> Answers:
        """Send a request to all servers, or to this one only, and wait for their answers.

        Raises:
            BackplaneError: Redis did not answer.
            WrongContext: Called on the hub of gevent.
        """
        if self._servers:
            return self.requests.ask(message, request, recipients, is_local, to_self)
        check_can_wait()
        address = self._configured_address()
        if is_local or address[0] is None:
            return Answers(0)
        answers: Answers = self._standalone(address).redis.ask(message, request, recipients)
        return answers

    def publish_and_count(
        self, message: Message, topic: Topic, excluded: RecipientFilter = NO_FILTER
    ) -> bool:
        """Send to other processes and return whether any of them received the message.

        Raises:
            BackplaneError: Redis did not answer.
        """
        if self._servers:
            if self.registry.backplane is None:
                return False
            publish: Any = self.registry.backplane.publish_and_count
            if self.registry.recovery is not None:
                publish = self.registry.publish_and_count
            return bool(self.registry.run_on_hub(publish, message, topic, excluded))
        address = self._configured_address()
        return address[0] is not None and bool(
            self._standalone(address).redis.publish_and_count(message, topic)
        )

    def _configured_address(self) -> Address:
        address: Address = self._sources.backplane(web.config)
        return self._inherited if address[0] is None else address

    def _standalone(self, address: Address) -> StandaloneSender:
        known = self._standalone_sender
        if known is None or known.address != address:
            known = StandaloneSender(address, self.registry.parser, limits_of(self.configured()))
            self._standalone_sender = known
        return known


class StandaloneSender:
    """Sends messages from a process without servers, with the interface of `SocketRegistry`."""

    def __init__(self, address: Address, parser: Parser, limits: Limits) -> None:
        self.address = address
        self.parser = parser
        self.limits = limits
        self.redis = _import().RedisSender(*address)

    def send(
        self,
        message: Message,
        namespace: str,
        channels: Collection[str] | None,
        local: bool,
        excluded: RecipientFilter,
    ) -> None:
        """Send an encoded message to sockets of a namespace; no effect if `local`.

        Raises:
            BackplaneError: Redis did not answer.
        """
        if not local:
            topics = topics_of(namespace, channels)
            self.redis.publish_and_count(message, *topics, recipients=excluded)

    def send_to_socket(
        self, message: Message, session_id: str, local: bool, excluded: RecipientFilter
    ) -> None:
        """Send an event, encoded for the namespace ``"/"``, to one socket; no effect if `local`.

        Raises:
            BackplaneError: Redis did not answer.
        """
        if not local:
            topic = Topic.session(session_id)
            self.redis.publish_and_count(message, topic, recipients=excluded)


def connect_redis(url: str, timeout: float) -> RedisConnection:
    """Open a connection to Redis for a plugin.

    The connection closes at its first failure; open another one to reconnect.

    ``connection.execute(*commands)`` returns one reply for each command.
    ``connection.send(*words)`` sends a command without waiting, and ``connection.read()`` returns
    the next reply. ``connection.close()`` closes the connection; afterwards the others raise
    `BackplaneError`. For Pub/Sub use `PubSub`.

    Args:
        url: Redis URL, as in ``SOCKETIO_BACKPLANE``.
        timeout: Longest wait for a reply, in seconds.

    Returns:
        The open connection.

    Raises:
        BackplaneError: Redis cannot be reached.
        ConfigurationError: The URL is invalid, or the library ``redis`` is not installed.
    """
    return RedisConnector(url).open(timeout)


def limits_of(settings: Settings) -> Limits:
    """Return the limits of sockets that follow from `settings`."""
    # A message grows when it is numbered.
    outbox = settings.outbox_bytes - (OFFSET_BYTES if settings.recovery_time else 0)
    return Limits(
        settings.max_channels,
        settings.max_channel_length,
        outbox,
        outbox if settings.backplane is None else min(outbox, MAX_BYTES),
    )


def _import() -> Any:
    """Import the Redis module on first use; most processes do not need it."""
    import_opening()
    from webpy_socketio.backplane import redis

    return redis
