"""`SocketIOServer`: serve a web.py application with Socket.IO on one address."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event
import web

from webpy_socketio import loggers
from webpy_socketio.addresses import is_wildcard, location, shown
from webpy_socketio.application import (
    PlainRoute,
    WebDispatcher,
    add_resource,
    check_patching,
    learn_route,
)
from webpy_socketio.assets import PARSER_KEY, RESOURCE_KEY
from webpy_socketio.backplane import Backplane
from webpy_socketio.cluster import limits_of
from webpy_socketio.config.keywords import PyWSGIKeywords, ServerKeywords
from webpy_socketio.config.validation import is_setting, suggest
from webpy_socketio.engine import Engine, EngineServer, PeerWorkers, SocketIO
from webpy_socketio.engine.engineio.origins import ORIGINS_KEY
from webpy_socketio.engine.engineio.requests import Response
from webpy_socketio.engine.workers import forking
from webpy_socketio.exceptions import ListenError, SettingsError
from webpy_socketio.health import HealthChecks
from webpy_socketio.main_script import imported_again
from webpy_socketio.misrouted import log_misrouted
from webpy_socketio.namespaces import AllowedNamespaces
from webpy_socketio.plugin_manager import PluginManager
from webpy_socketio.process_status import ServerEntry
from webpy_socketio.runtime import Runtime, default_runtime
from webpy_socketio.status_service import StatusService, open_status_service
from webpy_socketio.watchdog import Watchdog

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["KEYWORDS", "SocketIOServer", "listen_error"]

logger = logging.getLogger("webpy_socketio")

#: Keywords of pywsgi's server, and TLS keywords that it passes on.
KEYWORDS = list(PyWSGIKeywords.__annotations__)

#: Seconds for handing open connections to other workers when this one stops.
_HANDOFF_TIMEOUT = 2.0


class SocketIOServer(EngineServer):
    """A pywsgi server for a web.py application that serves Socket.IO beside its pages.

    Settings are keywords in lower case without their prefix (``ping_interval=10``). Further
    keywords are those of pywsgi; ``keyfile`` and ``certfile`` enable TLS.

    Args:
        listener: Address ``(host, port)``, or a listening socket. Default: ``SOCKETIO_HOST`` and
            ``SOCKETIO_PORT``.
        application: The WSGI application, returned by ``app.wsgifunc()``.
        resource: First part of the URL path of Socket.IO.
        peers: The other workers that share the listening socket; passed by the command line and
            by the gunicorn worker.
        runtime: Handlers, sockets and plugins of the server. Servers with different runtimes are
            independent. Default: the runtime of the module's functions and decorators.
        **keywords: Settings, and keywords of ``gevent.pywsgi.WSGIServer``.

    Raises:
        ConfigurationError: A setting, a keyword, a plugin or the application is not valid.

    Example:
        >>> server = SocketIOServer(("127.0.0.1", 8000), app.wsgifunc(), ping_interval=10)
        >>> server.serve_forever()
    """

    #: Seconds for handlers to finish when the server stops.
    stop_timeout = 5

    #: Whether `serve_forever` logs the address; the command line prints it instead.
    announces = True

    #: Called without arguments when `stop` begins, before connections are closed.
    on_stopping: Callable[[], None] | None = None

    def __init__(
        self,
        listener: Any = None,
        application: Any = None,
        resource: str = "socket.io",
        peers: PeerWorkers | None = None,
        runtime: Runtime = default_runtime,
        **keywords: Unpack[ServerKeywords],
    ) -> None:
        check_patching()
        if application is None:
            raise SettingsError("SocketIOServer needs an application: app.wsgifunc()")
        if not callable(application):
            hint = "; pass app.wsgifunc()" if isinstance(application, web.application) else ""
            raise SettingsError(f"the application is not callable{hint}")
        if getattr(application, "__func__", None) is web.application.wsgifunc:
            raise SettingsError(
                "the application must be app.wsgifunc(), not app.wsgifunc: add the parentheses"
            )
        pywsgi: dict[str, Any] = {**keywords}
        given_settings = {name: pywsgi.pop(name) for name in list(pywsgi) if is_setting(name)}
        for name in pywsgi:
            if name not in KEYWORDS:
                hint = suggest(name, KEYWORDS)
                raise SettingsError(f"SocketIOServer() takes no keyword {name!r}{hint}")
        if not isinstance(runtime, Runtime):
            raise SettingsError(f"runtime must be a Runtime, not {type(runtime).__name__}")
        self.runtime = runtime
        #: The effective settings.
        self.settings = settings = runtime.sources.resolve(given_settings, web.config)
        self._sources = runtime.sources.snapshot(web.config)
        resource = resource.strip("/")
        if not resource:
            raise SettingsError(
                'resource is empty; it must be the path of Socket.IO, such as "socket.io"'
            )
        add_resource(resource)
        self._plugins = PluginManager(settings.plugins, runtime)
        self._limits = limits_of(settings)
        self._watchdog = Watchdog(settings.block_warning) if settings.block_warning else None
        self._dispatcher = WebDispatcher(runtime.cluster, self._limits)
        plugin_namespaces = self._plugins.namespaces(settings)
        self._namespaces = AllowedNamespaces(settings.namespaces)
        self._socketio = SocketIO(self._dispatcher, settings, plugin_namespaces, self._namespaces)
        engine = Engine(self._socketio, settings, f"/{resource}/")
        engine.packet_received = self._dispatcher.packet_received
        if listener is None:
            listener = (settings.host, settings.port)
        self._stopping: gevent.event.Event | None = None
        self._is_draining = False
        self._health = (
            HealthChecks(f"{engine.path}health", self._reports_draining, self._current_backplane)
            if settings.health
            else None
        )
        #: The route of handshakes, if the application need not be called for them.
        self._route: PlainRoute | None = None
        self._joined = False
        self._status_service: StatusService | None = None
        self._force = gevent.event.Event()
        try:
            super().__init__(listener, engine, application, peers, **pywsgi)
        except OSError as error:  # ssl.SSLError is one
            files = (pywsgi.get("certfile"), pywsgi.get("keyfile"))
            raise SettingsError(
                f"TLS cannot be enabled with certfile and keyfile {files}: {error}"
            ) from error
        self.environ[RESOURCE_KEY] = resource  # for socketio_scripts()
        self.environ[PARSER_KEY] = settings.parser
        self.environ[ORIGINS_KEY] = engine.origins

    def learn_route(self, environ: dict[str, Any]) -> None:
        self._route = learn_route(self.application, environ)

    def find_route(self, environ: dict[str, Any]) -> bool:
        return self._route is not None and self._route.accept(self.application, environ)

    def respond_early(self, environ: dict[str, Any]) -> Response | None:
        return None if self._health is None else self._health.respond(environ)

    def begin_draining(self) -> None:
        """Report ``draining`` to health checks; connections are accepted until `stop`."""
        self._is_draining = True

    def _reports_draining(self) -> bool:
        return self._is_draining or self.engine.stopping

    def _current_backplane(self) -> Backplane | None:
        return self.runtime.registry.backplane

    def log_unmatched(self, environ: dict[str, Any], code: int) -> None:
        log_misrouted(environ, code, self.engine.path, self.engine.notices)

    def start(self) -> None:
        """Listen on the address and install the plugins.

        Has no effect when the reloader of web.py imports the main script a second time.

        Raises:
            ListenError: The address is in use or not available.
            ConfigurationError: A plugin cannot be installed.
        """
        if imported_again():
            return
        loggers.enable()
        self._warn_late_settings()
        try:
            self.init_socket()
        except OSError as error:
            raise listen_error(error, self.address) from error
        except (TypeError, OverflowError) as error:
            raise ListenError(
                f"cannot listen on {self.address!r}, which is not an address: {error}; use a host "
                'and a port from 0 to 65535, such as ("127.0.0.1", 8000)'
            ) from error
        joined = False
        try:
            self.runtime.registry.attach(self._limits, self._namespaces.names)
            self.runtime.cluster.join(self.settings)
            joined = True
            recovery = self.runtime.registry.recovery
            if recovery is not None:
                self.engine.confirm_positions(recovery.last_number)
            self._plugins.install(self.settings)
            self._dispatcher.start_adopting()
        except BaseException:
            # Roll back: close the listener and uninstall the plugins.
            self._dispatcher.stop_adopting()
            self._plugins.uninstall()
            if joined:
                self.runtime.cluster.leave()
            self.close()
            raise
        super().start()
        self._joined = True
        if self._watchdog is not None:
            self._watchdog.start()
        self.runtime.engines.append(self.engine)
        self.runtime.status.add(
            ServerEntry(
                self.engine,
                location(self.address, self.ssl_enabled),
                None if self.peers is None else self.peers.name,
                list(self.settings.plugins),
                self._reports_draining,
                self.settings.backplane,
            )
        )

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Serve until `stop` is called or SIGINT or SIGTERM arrives; then stop gracefully.

        The address is logged at INFO to the logger ``webpy_socketio``: "Serving on
        http://127.0.0.1:8000/ (Ctrl-C stops)". Without a logging configuration the line is written
        to standard error, like the lines of requests; ``log=None`` disables both.

        A second signal ends the delay (``SOCKETIO_DRAIN_DELAY``) and the draining of connections
        (``SOCKETIO_DRAIN_TIME``) at once. After a signal has stopped the server, further signals
        are ignored, because the program is ending.

        Args:
            stop_timeout: Seconds for requests and handlers to finish. Default: the attribute
                `stop_timeout`, 5 seconds.

        Raises:
            ListenError: The address is in use or not available.
            ConfigurationError: A plugin cannot be installed.
        """
        if imported_again():
            return
        if self.started:
            self._warn_late_settings()
        else:
            self.start()
        watchers = {}
        is_signalled = False

        def handle_signal() -> None:
            nonlocal is_signalled
            if is_signalled:
                self.force_close()
            if is_signalled or not self._has_drain_delay():
                self.close()
            else:
                gevent.spawn(self.stop, stop_timeout)
            is_signalled = True

        if threading.current_thread() is threading.main_thread():
            watchers = {
                number: gevent.signal_handler(number, handle_signal)
                for number in (signal.SIGINT, signal.SIGTERM)
            }
            forking.reset_in_child(*watchers)
        self.open_status_socket()
        if self.announces:
            self._announce()
        try:
            self._stop_event.wait()
        finally:
            gevent.spawn(self.stop, stop_timeout).join()
            for number, watcher in watchers.items():
                watcher.cancel()
                if is_signalled:
                    # A signal during interpreter shutdown would kill the process with an error
                    # status.
                    signal.signal(number, signal.SIG_IGN)

    def stop(self, timeout: float | None = None) -> None:
        """Stop listening, close all connections, and return after all `finish` signals were sent.

        Connections are closed in a way that makes clients reconnect automatically. Many connections
        are closed gradually, within ``SOCKETIO_DRAIN_TIME``. Requests and handlers then have
        `timeout` seconds to finish, before GreenletExit is raised in the handlers.

        With ``SOCKETIO_DRAIN_DELAY``, the server first listens for that time, and its health check
        reports that it drains. Workers leave this delay to their supervisor.

        In a handler, the method returns at once; the server stops in another greenlet.

        Args:
            timeout: Seconds for requests and handlers to finish. Default: `stop_timeout`.
        """
        if self._dispatcher.handling():
            # In a new greenlet: a handler must not wait for its own end.
            gevent.spawn(self.stop, timeout)
            return
        if self._stopping is not None:
            self._stopping.wait()
            return
        self._stopping = gevent.event.Event()
        try:
            self.begin_draining()
            if self.on_stopping is not None:
                self.on_stopping()
            if self._has_drain_delay():
                self._force.wait(self.settings.drain_delay)
            self.close()
            self._dispatcher.stop_adopting()
            self.engine.drain(self.settings.drain_time, self._force)
            deadline = time.monotonic() + (self.stop_timeout if timeout is None else timeout)
            self.engine.close()
            began = time.monotonic()
            self._dispatcher.end_suspended(deadline - began - 1.0)
            deadline += time.monotonic() - began
            self.engine.wait_answered(deadline - time.monotonic())
            if not self._dispatcher.wait(deadline - time.monotonic()):
                self._interrupt()
        finally:
            if self._watchdog is not None:
                self._watchdog.stop()
            self.leave_peers(_HANDOFF_TIMEOUT)
            if self._status_service is not None:
                self._status_service.close()
            self.dispose()
            self._socketio.dispose()
            self._plugins.uninstall()
            if self._joined:
                self._joined = False
                self.runtime.engines.remove(self.engine)
                self.runtime.status.remove(self.engine)
                self.runtime.cluster.leave()
            self._stopping.set()

    @property
    def released_sessions(self) -> int:
        """Number of sessions that have moved to other servers, while this one runs or stops."""
        recovery = self.runtime.registry.recovery
        return 0 if recovery is None or recovery.moves is None else recovery.moves.released

    def _has_drain_delay(self) -> bool:
        """Return whether `stop` listens for SOCKETIO_DRAIN_DELAY; workers have a supervisor."""
        return self.peers is None and self.started and self.settings.drain_delay > 0

    def _announce(self) -> None:
        if not self.started:
            return  # stopped by a signal
        where = "all addresses of this machine; " if is_wildcard(self.address) else ""
        text = f"Serving on {location(self.address, self.ssl_enabled)} ({where}Ctrl-C stops)"
        if logger.hasHandlers():
            logger.info("%s", text)
        elif self.keeps_log and sys.stderr is not None:
            # Without logging handlers, Python drops INFO records.
            with contextlib.suppress(OSError, ValueError):  # closed
                sys.stderr.write(f"{text}\n")

    def _warn_late_settings(self) -> None:
        sources = self.runtime.sources
        late = sources.changed(self._sources, web.config)
        self._sources = sources.snapshot(web.config)
        if late:
            logger.warning(
                "%s: set after the server was created, so it has no effect; set it before "
                "SocketIOServer(...), or pass it as keyword",
                ", ".join(late),
            )

    def open_status_socket(self) -> None:
        """Answer ``webpy-socketio status`` until the server has stopped.

        `serve_forever` calls this. Failures, as on a read-only file system, are logged at INFO.
        """
        if self._status_service is None:
            self._status_service = open_status_service(self.runtime.answer, self.peers)

    def force_close(self) -> None:
        """Close the remaining connections at once while the server is draining."""
        self._force.set()

    def _interrupt(self) -> None:
        # Each round ends one handler per connection; 20 rounds end any chain of stages.
        for _ in range(20):
            remaining = self._dispatcher.interrupt()
            if self._dispatcher.wait(0.1):
                return
        logger.error(
            "%d connections cannot be closed: their handlers ignore GreenletExit", remaining
        )


def listen_error(error: OSError, address: Any) -> ListenError:
    """Return the error for an address that is not available, with a remedy."""
    where = shown(address)
    if error.errno == errno.EADDRINUSE:
        remedy = "another program is listening there: stop it, or choose another SOCKETIO_PORT"
    elif error.errno == errno.EACCES:
        remedy = "ports below 1024 require privileges: choose a higher SOCKETIO_PORT"
    elif error.errno == errno.EADDRNOTAVAIL:
        remedy = "the address does not belong to this machine: change SOCKETIO_HOST"
    else:
        remedy = "check SOCKETIO_HOST and SOCKETIO_PORT"
    return ListenError(f"cannot listen on {where}: {error.strerror or error}; {remedy}")
