"""`SocketIOServer`: serve a web.py application with Socket.IO on one address."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import sys
import threading
import time
from typing import Any

import gevent
import gevent.event
import web

from webpy_socketio import cluster, loggers
from webpy_socketio.addresses import is_wildcard, location, shown
from webpy_socketio.application import (
    WebDispatcher,
    add_resource,
    check_patching,
)
from webpy_socketio.assets import RESOURCE_KEY
from webpy_socketio.config import settings as settings_module
from webpy_socketio.dispatcher import packet_received
from webpy_socketio.engine import Engine, EngineConfig, EngineServer, PeerWorkers, SocketIO
from webpy_socketio.engine.engineio.origins import ORIGINS_KEY
from webpy_socketio.engine.workers import forking
from webpy_socketio.exceptions import ListenError, SettingsError
from webpy_socketio.main_script import imported_again
from webpy_socketio.misrouted import log_misrouted
from webpy_socketio.plugin_manager import PluginManager
from webpy_socketio.registry import registry
from webpy_socketio.stats import engines
from webpy_socketio.watchdog import Watchdog

__all__ = ["KEYWORDS", "SocketIOServer", "engine_config", "listen_error"]

logger = logging.getLogger("webpy_socketio")

#: Keywords of pywsgi's server, and TLS keywords that it passes on.
KEYWORDS = [
    *("backlog", "environ", "error_log", "handler_class", "log", "spawn"),
    *("ca_certs", "cert_reqs", "certfile", "ciphers", "do_handshake_on_connect", "keyfile"),
    *("server_side", "ssl_context", "ssl_version", "suppress_ragged_eofs"),
]

forking.call_in_child(cluster.reset_after_fork)
forking.call_in_child(engines.clear)

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
            by the
            gunicorn worker.
        **keywords: Settings, and keywords of ``gevent.pywsgi.WSGIServer``.

    Raises:
        ConfigurationError: A setting, a keyword, a plugin or the application is not valid.

    Example:
        >>> server = SocketIOServer(("127.0.0.1", 8000), app.wsgifunc(), ping_interval=10)
        >>> server.serve_forever()
    """

    #: Seconds that handlers have to finish when the server stops.
    stop_timeout = 5

    #: Whether `serve_forever` logs the address; the command line prints it instead.
    announces = True

    def __init__(
        self,
        listener: Any = None,
        application: Any = None,
        resource: str = "socket.io",
        peers: PeerWorkers | None = None,
        **keywords: Any,
    ) -> None:
        check_patching()
        if application is None:
            raise SettingsError("SocketIOServer needs an application: app.wsgifunc()")
        if not callable(application):
            hint = "; give it app.wsgifunc()" if isinstance(application, web.application) else ""
            raise SettingsError(f"the application is not callable{hint}")
        if getattr(application, "__func__", None) is web.application.wsgifunc:
            raise SettingsError(
                "the application must be app.wsgifunc(), not app.wsgifunc: add the parentheses"
            )
        given_settings = {
            name: keywords.pop(name) for name in list(keywords) if settings_module.is_setting(name)
        }
        for name in keywords:
            if name not in KEYWORDS:
                hint = settings_module.suggest(name, KEYWORDS)
                raise SettingsError(f"SocketIOServer() takes no keyword {name!r}{hint}")
        #: The effective settings.
        self.settings = settings = settings_module.resolve(given_settings, web.config)
        self._sources = settings_module.snapshot(web.config)
        resource = resource.strip("/")
        if not resource:
            raise SettingsError(
                'resource is empty; it must be the path of Socket.IO, such as "socket.io"'
            )
        add_resource(resource)
        self._plugins = PluginManager(settings.plugins)
        self._limits = cluster.limits_of(settings)
        self._watchdog = Watchdog(settings.block_warning) if settings.block_warning else None
        self._dispatcher = WebDispatcher(self._limits)
        config = engine_config(settings, "" if peers is None else peers.prefix)
        plugin_namespaces = self._plugins.namespaces(settings)
        self._socketio = SocketIO(self._dispatcher, config, plugin_namespaces)
        engine = Engine(self._socketio, config, f"/{resource}/")
        engine.packet_received = packet_received
        if listener is None:
            listener = (settings.host, settings.port)
        self._stopping: gevent.event.Event | None = None
        self._joined = False
        self._force = gevent.event.Event()
        try:
            super().__init__(listener, engine, application, peers, **keywords)
        except OSError as error:  # ssl.SSLError is one
            files = (keywords.get("certfile"), keywords.get("keyfile"))
            raise SettingsError(
                f"TLS cannot be enabled with certfile and keyfile {files}: {error}"
            ) from error
        self.environ[RESOURCE_KEY] = resource  # for socketio_scripts()
        self.environ[ORIGINS_KEY] = engine.origins

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
            registry.attach(self._limits)
            cluster.join(self.settings)
            joined = True
            self._plugins.install(self.settings)
        except BaseException:
            # Roll back: close the listener and uninstall the plugins.
            self._plugins.uninstall()
            if joined:
                cluster.leave()
            self.close()
            raise
        super().start()
        self._joined = True
        if self._watchdog is not None:
            self._watchdog.start()
        engines.append(self.engine)

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Serve until `stop` is called or SIGINT or SIGTERM arrives; then stop gracefully.

        The address is logged at INFO to the logger ``webpy_socketio``: "Serving on
        http://127.0.0.1:8000/ (Ctrl-C stops)". Without a logging configuration the line is written
        to standard error, like the lines of requests; ``log=None`` disables both.

        A second signal ends the draining of connections (``SOCKETIO_DRAIN_TIME``) at once. After a
        signal has stopped the server, further signals are ignored, because the program is ending.

        Args:
            stop_timeout: Seconds that requests and handlers have to finish. Default: the attribute
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
            is_signalled = True
            self.close()

        if threading.current_thread() is threading.main_thread():
            watchers = {
                number: gevent.signal_handler(number, handle_signal)
                for number in (signal.SIGINT, signal.SIGTERM)
            }
            forking.reset_in_child(*watchers)
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

        In a handler, the method returns at once; the server stops in another greenlet.

        Args:
            timeout: Seconds that requests and handlers have to finish. Default: `stop_timeout`.
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
            self.close()
            self.engine.drain(self.settings.drain_time, self._force)
            deadline = time.monotonic() + (self.stop_timeout if timeout is None else timeout)
            self.engine.close()
            self.engine.wait_answered(deadline - time.monotonic())
            if not self._dispatcher.wait(deadline - time.monotonic()):
                self._interrupt()
        finally:
            if self._watchdog is not None:
                self._watchdog.stop()
            self.leave_peers(_HANDOFF_TIMEOUT)
            self.dispose()
            self._socketio.dispose()
            self._plugins.uninstall()
            if self._joined:
                self._joined = False
                engines.remove(self.engine)
                cluster.leave()
            self._stopping.set()

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
        late = settings_module.changed(self._sources, web.config)
        self._sources = settings_module.snapshot(web.config)
        if late:
            logger.warning(
                "%s: set after the server was created, so it has no effect; set it before "
                "SocketIOServer(...), or pass it as keyword",
                ", ".join(late),
            )

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


def engine_config(settings: settings_module.Settings, prefix: str = "") -> EngineConfig:
    """Return the limits and timeouts of an engine or HTTP server that follow from `settings`."""
    return EngineConfig(
        session_prefix=prefix,
        ping_interval=settings.ping_interval,
        ping_timeout=settings.ping_timeout,
        upgrade_timeout=settings.upgrade_timeout,
        connect_timeout=settings.connect_timeout,
        max_message_size=settings.max_message_size,
        outbox_bytes=settings.outbox_bytes,
        outbox_packets=settings.outbox_packets,
        write_timeout=settings.write_timeout,
        max_sessions=settings.max_sessions,
        max_sessions_per_address=settings.max_sessions_per_address,
        max_connections_per_address=settings.max_connections_per_address,
        max_bodies_size=settings.max_bodies_size,
        header_timeout=settings.header_timeout,
        body_timeout=settings.body_timeout,
        idle_timeout=settings.idle_timeout,
        max_body_size=settings.max_body_size,
        inbox_events=settings.inbox_events,
        transports=tuple(settings.transports),
        namespaces=tuple(settings.namespaces),
        allowed_origins=settings.allowed_origins,
        trusted_proxies=tuple(settings.trusted_proxies),
        allowed_hosts=settings.allowed_hosts,
        session_suffix=f".{settings.machine}" if settings.machine else "",
        # WSGI decodes paths as Latin-1 (PEP 3333).
        path_prefix=settings.path_prefix.encode().decode("latin-1"),
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
