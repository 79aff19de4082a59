"""`SocketIOServer`: an application, its sockets and its plugins, on one address."""

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

#: Keywords that pywsgi's server takes, and the TLS ones that it passes on.
KEYWORDS = [
    *("backlog", "environ", "error_log", "handler_class", "log", "spawn"),
    *("ca_certs", "cert_reqs", "certfile", "ciphers", "do_handshake_on_connect", "keyfile"),
    *("server_side", "ssl_context", "ssl_version", "suppress_ragged_eofs"),
]

forking.call_in_child(cluster.abandon)
forking.call_in_child(engines.clear)

#: Seconds for the connections of a worker to go to others, when all that it had to do is done.
_HANDOFF_TIMEOUT = 2.0


class SocketIOServer(EngineServer):
    """gevent's pywsgi server for a web.py application, with Socket.IO beside its pages.

    `listener` is an address, ``(host, port)``, or a listening socket; None for ``SOCKETIO_HOST``
    and ``SOCKETIO_PORT``. `application` is what ``app.wsgifunc()`` returns, `resource` the first
    part of the path where Socket.IO lives. Settings can be given in lower case without their
    prefix (``ping_interval=10``); further keywords are pywsgi's: ``keyfile`` and ``certfile`` make
    it a TLS server. `peers` are the other workers that share its listening socket, where the
    command line or gunicorn has started several.

    Raises `ConfigurationError` for whatever is wrong with how it is set up.
    """

    #: Seconds that handlers have, when the server stops, to finish what they are doing.
    stop_timeout = 5

    #: Whether `serve_forever` logs the address. The command line turns this off: it prints its own line.
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
                "the application has to be app.wsgifunc(), called, not app.wsgifunc"
            )
        ours = {
            name: keywords.pop(name) for name in list(keywords) if settings_module.is_setting(name)
        }
        for name in keywords:
            if name not in KEYWORDS:
                hint = settings_module.suggest(name, KEYWORDS)
                raise SettingsError(f"SocketIOServer() takes no keyword {name!r}{hint}")
        #: The settings as they are in force.
        self.settings = settings = settings_module.resolve(ours, web.config)
        self._sources = settings_module.snapshot(web.config)
        resource = resource.strip("/")
        if not resource:
            raise SettingsError('resource is empty; it is the path of Socket.IO, as "socket.io"')
        add_resource(resource)
        self._plugins = PluginManager(settings.plugins)
        self._limits = cluster.limits_of(settings)
        self._watchdog = Watchdog(settings.block_warning) if settings.block_warning else None
        self._dispatcher = WebDispatcher(self._limits)
        config = engine_config(settings, "" if peers is None else peers.prefix)
        others = self._plugins.namespaces(settings)
        self._socketio = SocketIO(self._dispatcher, config, others)
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
            raise SettingsError(f"no TLS with certfile and keyfile {files}: {error}") from error
        self.environ[RESOURCE_KEY] = resource  # so that pages know where to find the scripts
        self.environ[ORIGINS_KEY] = engine.origins

    def log_unmatched(self, environ: dict[str, Any], code: int) -> None:
        log_misrouted(environ, code, self.engine.path, self.engine.notices)

    def start(self) -> None:
        """Listen, and switch the plugins on. Raises `ListenError` if the address cannot be had.

        Does nothing in the second import of the main script that web.py's reloader makes.
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
                f"cannot listen on {self.address!r}, which is no address: {error}; it is a host and a "
                'number from 0 to 65535, ("127.0.0.1", 8000)'
            ) from error
        joined = False
        try:
            registry.attach(self._limits)
            cluster.join(self.settings)
            joined = True
            self._plugins.install(self.settings)
        except BaseException:
            # Not half started: nothing listens, and no plugin is on.
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
        """Serve until `stop` is called, or SIGINT or SIGTERM comes; then stop in good order.

        The address is logged at INFO to the logger ``webpy_socketio``: "Serving on
        http://127.0.0.1:8000/ (Ctrl-C stops)". A program that has not configured logging sees it on
        standard error, where the lines of requests are; ``log=None`` turns both off.

        While clients are being told (``SOCKETIO_DRAIN_TIME``), a second signal tells the rest of them
        at once. When this returns because of a signal, another one is ignored: the program is ending.
        """
        if imported_again():
            return
        if self.started:
            self._warn_late_settings()
        else:
            self.start()
        watchers = {}
        told = False

        def tell() -> None:
            nonlocal told
            if told:
                self.force_close()
            told = True
            self.close()

        if threading.current_thread() is threading.main_thread():
            watchers = {
                number: gevent.signal_handler(number, tell)
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
                if told:
                    # A second one while the interpreter shuts down would kill it, with a status
                    # that looks like a failure.
                    signal.signal(number, signal.SIG_IGN)

    def stop(self, timeout: float | None = None) -> None:
        """Stop listening, close every connection, and return when each `finish` has been sent.

        Clients are told in a way after which the stock one comes back by itself; many of them little
        by little, for ``SOCKETIO_DRAIN_TIME`` at most. When all are, requests and handlers have
        `timeout` seconds to come to an end; then GreenletExit is raised in handlers.
        """
        if self._dispatcher.handling():
            # A handler that stops the server is not to wait for its own end.
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
            return  # a signal has stopped it already
        where = "all addresses of this machine; " if is_wildcard(self.address) else ""
        text = f"Serving on {location(self.address, self.ssl_enabled)} ({where}Ctrl-C stops)"
        if logger.hasHandlers():
            logger.info("%s", text)
        elif self.keeps_log and sys.stderr is not None:
            # Without handlers, Python drops INFO records: a first program would say nothing.
            with contextlib.suppress(OSError, ValueError):  # closed
                sys.stderr.write(f"{text}\n")

    def _warn_late_settings(self) -> None:
        late = settings_module.changed(self._sources, web.config)
        self._sources = settings_module.snapshot(web.config)
        if late:
            logger.warning(
                "%s: set after the server was made, which does not see it; set it before "
                "SocketIOServer(...), or as its keyword",
                ", ".join(late),
            )

    def force_close(self) -> None:
        """While the server stops: tell the clients at once that were not told yet."""
        self._force.set()

    def _interrupt(self) -> None:
        # Each round ends one handler a connection; a handful is enough for any chain of stages.
        for _ in range(20):
            left = self._dispatcher.interrupt()
            if self._dispatcher.wait(0.1):
                return
        logger.error("%d connections would not end: their handlers ignore GreenletExit", left)


def engine_config(settings: settings_module.Settings, prefix: str = "") -> EngineConfig:
    """Return the limits and deadlines that `settings` give to an engine or an HTTP server."""
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
        # WSGI has paths as bytes in disguise (PEP 3333).
        path_prefix=settings.path_prefix.encode().decode("latin-1"),
    )


def listen_error(error: OSError, address: Any) -> ListenError:
    """What it means that an address cannot be had, and what to do."""
    where = shown(address)
    if error.errno == errno.EADDRINUSE:
        remedy = "another program listens there: stop it, or choose another SOCKETIO_PORT"
    elif error.errno == errno.EACCES:
        remedy = "ports below 1024 need a privilege: choose a higher SOCKETIO_PORT"
    elif error.errno == errno.EADDRNOTAVAIL:
        remedy = "the address is not one of this machine's: change SOCKETIO_HOST"
    else:
        remedy = "check SOCKETIO_HOST and SOCKETIO_PORT"
    return ListenError(f"cannot listen on {where}: {error.strerror or error}; {remedy}")
