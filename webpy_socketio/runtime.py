"""The runtime: everything that the servers of an application share."""

from __future__ import annotations

import json
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, overload

from webpy_socketio.bus.signals import Signals
from webpy_socketio.cluster import Cluster
from webpy_socketio.config.settings import Settings
from webpy_socketio.config.sources import SettingsSources
from webpy_socketio.emitter import Emitter
from webpy_socketio.engine import Engine
from webpy_socketio.engine.workers import forking
from webpy_socketio.exceptions import CallerError
from webpy_socketio.feeds import Feed
from webpy_socketio.handlers import Events
from webpy_socketio.process_status import ProcessStatus
from webpy_socketio.registry import SocketRegistry
from webpy_socketio.server_events import ServerEvents
from webpy_socketio.server_replies import Reply
from webpy_socketio.server_requests import Incoming
from webpy_socketio.socket import Socket
from webpy_socketio.socket_requests import SocketRequests
from webpy_socketio.stats import Stats, count

__all__ = ["Runtime", "default_runtime"]

#: All runtimes, which are reset in forked child processes.
_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


class Runtime(Emitter):
    """Handlers, sockets, plugins and the backplane of one application.

    Its attributes and methods are those of the modules: ``runtime.events.on_message`` is the
    decorator `webpy_socketio.events.on_message`, ``runtime.signals.message`` the signal
    `webpy_socketio.signals.message`, and ``runtime.broadcast()`` the function
    `webpy_socketio.broadcast`. The modules use the default runtime.

    A process needs a second runtime only for servers that must not share handlers and sockets.
    Servers of different runtimes are independent; they may also run in different threads.

    Attributes:
        signals: The signals of its servers, as attributes.
        events: The decorators for handlers of its servers, as attributes.

    Example:
        >>> internal = Runtime()
        >>> @internal.events.on_message
        ... def message(request, socket, context, message):
        ...     internal.broadcast(message)
        >>> server = SocketIOServer(("127.0.0.1", 8001), app.wsgifunc(), runtime=internal)
    """

    signals: Signals
    events: Events

    def __init__(self) -> None:
        self.signals = Signals()
        self.events = Events(self.signals)
        self.registry: SocketRegistry[Socket] = SocketRegistry(self.signals)
        self.registry.owner = self
        self.sources = SettingsSources()
        self.cluster = Cluster(self.registry, self.sources)
        super().__init__(self.cluster, self.registry)
        SocketRequests(self.registry, self.cluster.requests)
        self._server_events = ServerEvents(self.cluster)
        #: The status of the running servers.
        self.status = ProcessStatus(self.registry, self.signals)
        self.cluster.requests.handle("status", self._send_status, may_wait=True)
        #: Whether a supervisor answers for this process, as with ``serve --workers``. Plugins then
        #: answer its queries (`answer_query`) instead of listening on addresses of their own.
        self.is_supervised = False
        self._answers: dict[str, Callable[[], bytes]] = {"status": self._status_as_json}
        #: Engines of the running servers.
        self.engines: list[Engine] = []
        #: Number of running servers that use a plugin.
        self.plugin_users: Counter[ModuleType] = Counter()
        _runtimes.add(self)

    @staticmethod
    def of(socket: Socket) -> Runtime:
        """Return the runtime of a socket, for functions that serve several runtimes.

        Args:
            socket: The socket; it may have disconnected.

        Returns:
            The runtime of the server that accepted the socket.

        Raises:
            CallerError: `socket` is not a socket.

        Example:
            >>> Runtime.of(socket).broadcast("hello")
        """
        if not isinstance(socket, Socket):
            raise CallerError(
                f"a socket is required, not {type(socket).__name__}: pass the second argument of a "
                "handler, or an item of sockets()"
            )
        runtime: Runtime = socket.owner
        return runtime

    def configure(self, source: str | ModuleType | Mapping[str, object]) -> None:
        """Read settings from a module or mapping.

        Replaces the settings of an earlier call. Call it before creating the server.

        Args:
            source: A module, its dotted name, or a mapping. Names without the prefix ``SOCKETIO_``
                are ignored in modules.

        Raises:
            SettingsError: The module cannot be imported, or a name or value is invalid.

        Example:
            >>> configure({"SOCKETIO_PORT": 8001})
        """
        self.sources.configure(source)

    def configured(self) -> Settings:
        """Return the settings that a server created now without keywords would have.

        For processes without a server, such as cron jobs and shells. The ``install`` function of a
        plugin receives the settings of its server.

        Returns:
            The settings.

        Raises:
            SettingsError: A setting has an unknown name or an invalid value.
        """
        return self.cluster.configured()

    def listed_namespaces(self) -> frozenset[str]:
        """Return the names in ``SOCKETIO_NAMESPACES`` of the running servers.

        The names of a server that has stopped remain until the last server stops.

        The other namespaces of sockets match a pattern: clients choose their names, so that a
        plugin must not keep data for each name after its sockets have finished.
        """
        return self.registry.permanent

    def feed(self, channel: str, *, namespace: str = "/") -> Feed[Socket]:
        """Return the feed of a channel, for a plugin that sends messages in place of the server.

        Args:
            channel: Name of the channel.
            namespace: Socket.IO namespace.
        """
        return Feed(self.registry, namespace, channel)

    @overload
    def emit_to_servers(self, event: str, *args: Any, timeout: None = None) -> None: ...

    @overload
    def emit_to_servers(self, event: str, *args: Any, timeout: float) -> dict[str, Any]: ...

    def emit_to_servers(
        self, event: str, *args: Any, timeout: float | None = None
    ) -> dict[str, Any] | None:
        """Send an event to all other servers: the signal ``cluster_event`` of their runtimes.

        Processes without a server may call this if ``SOCKETIO_BACKPLANE`` is set.

        Args:
            event: Name of the event.
            *args: JSON-serializable values, or ``bytes``.
            timeout: Longest wait for answers, in seconds, at most 3600. None does not wait.

        Returns:
            None without a timeout. Otherwise the answer of each server by its node, which is the
            first value other than None that its receivers returned, or
            ``{"error": "internal error"}`` if a receiver raised.

        Raises:
            CallTimeout: A server did not answer. Its ``answers`` are those that have arrived.
            CallerError: The timeout is not valid.
            EncodeError: An argument cannot be represented as JSON, or the event is too large.
            NoSocket: No server runs in this process, and it has no backplane.
            BackplaneError: Redis did not answer.
            WrongContext: Called with a timeout on the hub of gevent, which must not wait.

        Example:
            >>> emit_to_servers("clear cache", "prices")
            >>> loads = emit_to_servers("load", timeout=2)
        """
        if timeout is None:
            self._server_events.emit(event, args)
            return None
        return self._server_events.call(event, args, timeout)

    def answer_query(self, name: str, function: Callable[[], bytes] | None) -> None:
        """Set the function that answers queries on the status socket of this process.

        For plugins. The supervisor of ``serve --workers`` sends the query ``metrics`` to each of
        its workers, and ``webpy-socketio status`` sends ``status``.

        Args:
            name: Name of the query, up to 60 ASCII characters.
            function: Returns the answer, up to 32 MiB; called in a greenlet of the sockets'
                thread. None removes it.
        """
        if function is None:
            self._answers.pop(name, None)
        else:
            self._answers[name] = function

    def answer(self, name: str) -> bytes:
        """Return the answer to a query.

        Args:
            name: Name of the query.

        Raises:
            LookupError: No function is set for this query.
        """
        return self._answers[name]()

    def answers(self, name: str) -> bool:
        """Return whether a function is set for a query.

        Args:
            name: Name of the query.
        """
        return name in self._answers

    def _status_as_json(self) -> bytes:
        return json.dumps(self.status.describe()).encode()

    def _send_status(self, incoming: Incoming, reply: Reply) -> None:
        reply.add(self.status.describe())
        reply.finish()

    def get_stats(self) -> Stats:
        """Count the sessions, sockets and channels of this process.

        Safe to call from any thread. Takes about one millisecond per 1,000 sessions.

        Returns:
            The counts.
        """
        stats: Stats = self.registry.run_on_hub(count, self.engines, self.registry)
        return stats


def _reset_after_fork() -> None:
    for runtime in list(_runtimes):
        runtime.engines.clear()
        runtime.status.reset_after_fork()
        runtime.cluster.reset_after_fork()


forking.call_in_child(_reset_after_fork)

#: The runtime of the functions, decorators and signals at module level.
default_runtime = Runtime()
