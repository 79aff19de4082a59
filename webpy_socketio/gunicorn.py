"""A worker class for gunicorn: ``gunicorn -k webpy_socketio.gunicorn.Worker app:application``.

gunicorn imports this module, and with it web.py, in its master, to find the class; nothing is patched
there. So each worker, once it is a process of its own, patches first and then imports anew what must
not have been imported before.

gunicorn's timeout, graceful timeout, access log, TLS files and signals are its own; so are its
settings for requests, which have no part here: limits are those of SOCKETIO_*. Its
``forwarded_allow_ips``, too, has no effect: SOCKETIO_TRUSTED_PROXIES names the proxies, also for
``-b unix:...``.
"""

from __future__ import annotations

import atexit
import datetime
import ipaddress
import os
import shutil
import signal
import sys
from typing import Any, NamedTuple

import gevent
from gevent import monkey
from gunicorn.workers.base import Worker as Base

from webpy_socketio.engine.workers.runtime_folder import make_runtime_folder

__all__ = ["Worker"]

#: What depends on web.py's thread-locals, made when it is imported.
_OURS = ("web", "webpy_socketio")


#: Seconds that a worker's successor has to start, before connections that rest are closed.
_TO_START = 3.0


class _Answer(NamedTuple):
    """A response, as gunicorn's log wants it."""

    status: str
    headers: Any
    sent: int


class Worker(Base):
    """Serves the application and its sockets; several of them give each other their connections."""

    _folder: str | None = None
    _lock: Any = None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        # Still in the master, who makes all of them.
        if Worker._folder is None:
            made = make_runtime_folder(self.cfg.uid, self.cfg.gid)
            Worker._lock = made  # which keeps it locked for as long as this process lives
            Worker._folder = str(made.path)
            atexit.register(_remove, Worker._folder, os.getpid())
        self._servers: list[Any] = []

    def init_process(self) -> None:
        if not monkey.is_module_patched("socket"):
            if self.cfg.preload_app:
                raise RuntimeError(
                    "preload_app imports the application before anything is patched: leave it off, or "
                    "make these the first lines of gunicorn's configuration file:\n\n"
                    "    from gevent import monkey\n"
                    "    monkey.patch_all()\n"
                )
            _begin_anew()
        super().init_process()

    def load_wsgi(self) -> None:
        # Not above: see `_begin_anew`.
        from webpy_socketio.cli.importer import refusing_servers
        from webpy_socketio.engine import PeerWorkers
        from webpy_socketio.engine.workers import forking
        from webpy_socketio.exceptions import ConfigurationError
        from webpy_socketio.server import SocketIOServer

        with refusing_servers():  # a server without a `__main__` guard would block the import
            super().load_wsgi()
        forking.reset_in_child(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1)
        tls = {}
        if self.cfg.is_ssl:
            tls = {"certfile": self.cfg.certfile, "keyfile": self.cfg.keyfile}
        mounted = {}
        if script_name := os.environ.get("SCRIPT_NAME", "").rstrip("/"):
            mounted = {"path_prefix": script_name}
        folder = Worker._folder
        assert folder is not None
        for number, listener in enumerate(self.sockets):
            # Workers are numbered by their age; their sockets have to differ as well.
            name = self.age * len(self.sockets) + number
            made = SocketIOServer(
                _own(listener.sock),
                self.wsgi,
                peers=PeerWorkers(folder, name),
                handler_class=_handler_class(self.cfg, self.log),
                log=None if self.cfg.accesslog is None else _Nowhere(),
                **tls,
                **mounted,
            )
            if self.cfg.workers > 1 and made.settings.backplane is None:
                raise ConfigurationError(
                    f"{self.cfg.workers} workers need SOCKETIO_BACKPLANE, such as "
                    '"redis://127.0.0.1:6379": without it nobody would hear what is sent in another '
                    "worker"
                )
            # The master stops the old ones before the new ones have started.
            made.move_timeout = min(_TO_START, self.cfg.graceful_timeout / 3)
            self._servers.append(made)

    def run(self) -> None:
        """Serve until the master says otherwise, or is gone."""
        for server in self._servers:
            server.start()
        while self.alive:
            self.notify()
            if self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                break
            gevent.sleep(1.0)
        stopping = [gevent.spawn(server.stop) for server in self._servers]
        while not gevent.joinall(stopping, timeout=1.0) or not all(
            each.ready() for each in stopping
        ):
            self.notify()

    def handle_exit(self, sig: int, frame: Any) -> None:
        if not self.alive:
            for server in self._servers:
                server.force_close()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        self.alive = False
        for server in self._servers:
            server.force_close()

    def handle_usr1(self, sig: int, frame: Any) -> None:
        gevent.spawn(super().handle_usr1, sig, frame)  # it waits, which a signal's handler cannot


class _Nowhere:
    """Where pywsgi's own line of a request goes, while there is one to be made for gunicorn."""

    def write(self, line: str) -> None:
        """Nothing: `_handler_class` has written it."""


class _ScriptName:
    """gunicorn's rule for the header SCRIPT_NAME, which a trusted proxy may send."""

    def __init__(self, cfg: Any) -> None:
        names = cfg.forwarder_headers
        addresses = list(cfg.forwarded_allow_ips)
        self._is_used = "SCRIPT_NAME" in names or "*" in names
        self._trusts_all = "*" in addresses
        self._networks = [
            ipaddress.ip_network(address, strict=False) for address in addresses if address != "*"
        ]

    def find(self, headers: Any, peer: Any) -> str | None:
        """Return the mount path in the headers of a request from `peer`, or None."""
        if self._is_used:
            for name, value in headers:
                if name.upper() == "SCRIPT_NAME" and value.startswith("/") and self._trusts(peer):
                    return str(value.rstrip("/"))
        return None

    def _trusts(self, peer: Any) -> bool:
        if self._trusts_all or not isinstance(peer, tuple):  # of a Unix socket
            return True
        address = ipaddress.ip_address(peer[0])
        return any(address in network for network in self._networks)


def _handler_class(cfg: Any, log: Any) -> Any:
    from webpy_socketio.engine.http.wsgi import RequestHandler

    script_name = _ScriptName(cfg)

    class Handler(RequestHandler):
        """Lets gunicorn write the line of a request, in its own format."""

        def get_environ(self) -> dict[str, Any]:
            environ: dict[str, Any] = super().get_environ()
            environ["RAW_URI"] = self.path
            return environ

        def mount(self, environ: dict[str, Any], prefix: str) -> None:
            found = script_name.find(self.headers, self.client_address)
            super().mount(environ, prefix if found is None else found)

        def _handle_client_error(self, ex: Exception) -> Any:
            self.environ = self.headers = None  # those of the request before
            return super()._handle_client_error(ex)

        def log_request(self) -> None:
            if not self.server.keeps_log:
                return
            status = self.status.decode() if isinstance(self.status, bytes) else self.status
            environ = self.environ or {
                **dict.fromkeys(("REQUEST_METHOD", "RAW_URI", "SERVER_PROTOCOL"), "-"),
                "REMOTE_ADDR": self.remote_address,
            }
            log.access(
                _Answer(status or "000", [], self.response_length),
                self.headers or [],
                environ,
                datetime.timedelta(seconds=max(0.0, self.time_finish - self.time_start)),
            )

    return Handler


def _own(sock: Any) -> Any:
    """Gevent's socket for a listening one of gunicorn's, which keeps it."""
    return gevent.socket.socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))


def _begin_anew() -> None:
    """Patch, and forget what was imported before: it will be imported again, by the application."""
    monkey.patch_all()
    for name in list(sys.modules):
        if name.partition(".")[0] in _OURS and name != __name__:
            del sys.modules[name]


def _remove(folder: str, master: int) -> None:
    if os.getpid() == master:  # workers are its copies, and end as it does
        shutil.rmtree(folder, ignore_errors=True)
