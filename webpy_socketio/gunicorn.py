"""A worker class for gunicorn: ``gunicorn -k webpy_socketio.gunicorn.Worker app:application``.

gunicorn's master imports this module, and with it web.py, to find the class, and does not patch.
Each worker process therefore patches first, and then imports these modules again.

gunicorn's timeout, graceful timeout, access log, TLS files and signals apply. Its limits
for requests and ``forwarded_allow_ips`` have no effect: set SOCKETIO_* limits and
SOCKETIO_TRUSTED_PROXIES instead, also for ``-b unix:...``.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import ipaddress
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import gevent
from gevent import monkey
from gunicorn.workers.base import Worker as Base

from webpy_socketio.engine.workers.runtime_folder import make_runtime_folder

__all__ = ["Worker"]

#: Packages to import again after patching: they depend on thread-locals made during the import.
_REIMPORTED = ("web", "webpy_socketio")


#: End of the name of a file that exists while the worker of that age starts.
_STARTING = ".starting"


class _Answer(NamedTuple):
    """A response, as gunicorn's access log expects it."""

    status: str
    headers: Any
    sent: int


class Worker(Base):
    """A gunicorn worker that serves the application and its sockets.

    Several workers hand connections to each other, so that every request reaches its session.
    """

    _folder: str | None = None
    _lock: Any = None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        # Still in the master, which creates all workers.
        if Worker._folder is None:
            runtime_folder = make_runtime_folder(self.cfg.uid, self.cfg.gid)
            Worker._lock = runtime_folder  # keeps it locked while this process runs
            Worker._folder = str(runtime_folder.path)
            atexit.register(_remove, Worker._folder, os.getpid())
        # The master creates the new workers before it stops the old ones, which see this file.
        with contextlib.suppress(OSError):  # removed by a cleaner: the workers recreate the folder
            (Path(Worker._folder) / f"{self.age}{_STARTING}").touch()
        self._servers: list[Any] = []
        #: Whether to stop without waiting for later workers.
        self._is_forced = False

    def init_process(self) -> None:
        if not monkey.is_module_patched("socket"):
            if self.cfg.preload_app:
                raise RuntimeError(
                    "preload_app imports the application before gevent has patched: disable it, or "
                    "make these the first lines of gunicorn's configuration file:\n\n"
                    "    from gevent import monkey\n"
                    "    monkey.patch_all()\n"
                )
            _patch_and_reimport()
        super().init_process()

    def load_wsgi(self) -> None:
        # Not at the top of the module: see `_patch_and_reimport`.
        from webpy_socketio.cli.importer import refusing_servers
        from webpy_socketio.engine import PeerWorkers
        from webpy_socketio.engine.workers import forking
        from webpy_socketio.exceptions import ConfigurationError
        from webpy_socketio.server import SocketIOServer

        with refusing_servers():  # a server without a `__main__` guard would block the import
            super().load_wsgi()
        forking.reset_in_child(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1)
        tls: dict[str, Any] = {}
        if self.cfg.is_ssl:
            tls = {"certfile": self.cfg.certfile, "keyfile": self.cfg.keyfile}
        mounted: dict[str, Any] = {}
        if script_name := os.environ.get("SCRIPT_NAME", "").rstrip("/"):
            mounted = {"path_prefix": script_name}
        folder = Worker._folder
        assert folder is not None
        for number, listener in enumerate(self.sockets):
            # The name must differ for each worker (age) and each of its sockets.
            name = self.age * len(self.sockets) + number
            peers = PeerWorkers(folder, name)
            peers.may_be_replaced = self._newer_is_starting
            server = SocketIOServer(
                _gevent_socket(listener.sock),
                self.wsgi,
                peers=peers,
                handler_class=_handler_class(self.cfg, self.log),
                log=None if self.cfg.accesslog is None else _NullLog(),
                **tls,
                **mounted,
            )
            if self.cfg.workers > 1 and server.settings.backplane is None:
                raise ConfigurationError(
                    f"{self.cfg.workers} workers need SOCKETIO_BACKPLANE, such as "
                    '"redis://127.0.0.1:6379": without it, messages do not reach clients of other '
                    "workers"
                )
            # The master stops old workers before the new ones have started.
            server.move_timeout = self.cfg.graceful_timeout / 2
            self._servers.append(server)

    def run(self) -> None:
        """Serve until the master stops the worker or ends."""
        for server in self._servers:
            server.start()
            server.open_status_socket()
        assert Worker._folder is not None
        (Path(Worker._folder) / f"{self.age}{_STARTING}").unlink(missing_ok=True)
        while self.alive:
            self.notify()
            if self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                break
            gevent.sleep(1.0)
        self._await_newer()
        stopping = [gevent.spawn(server.stop) for server in self._servers]
        while not gevent.joinall(stopping, timeout=1.0) or not all(
            each.ready() for each in stopping
        ):
            self.notify()

    def _await_newer(self) -> None:
        """Serve until later workers do, for half of the graceful timeout at most."""
        deadline = time.monotonic() + self.cfg.graceful_timeout / 2
        while time.monotonic() < deadline and not self._is_forced and self._newer_is_starting():
            self.notify()
            gevent.sleep(0.05)

    def _newer_is_starting(self) -> bool:
        """Return whether the master has created a later worker that does not serve yet."""
        assert Worker._folder is not None
        names = [path.name for path in Path(Worker._folder).glob(f"*{_STARTING}")]
        return any(int(name.removesuffix(_STARTING)) > self.age for name in names)

    def handle_exit(self, sig: int, frame: Any) -> None:
        if not self.alive:
            self._force_close()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        self.alive = False
        self._force_close()

    def _force_close(self) -> None:
        self._is_forced = True
        for server in self._servers:
            server.force_close()

    def handle_usr1(self, sig: int, frame: Any) -> None:
        gevent.spawn(super().handle_usr1, sig, frame)  # it blocks, which a signal handler must not


class _NullLog:
    """A log that drops pywsgi's line of a request; gunicorn writes its own."""

    def write(self, line: str) -> None:
        """Drop the line."""


class _ScriptName:
    """gunicorn's rule for the header SCRIPT_NAME, which trusted proxies may send."""

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
        if self._trusts_all or not isinstance(peer, tuple):  # Unix socket
            return True
        address = ipaddress.ip_address(peer[0])
        return any(address in network for network in self._networks)


def _handler_class(cfg: Any, log: Any) -> Any:
    from webpy_socketio.engine.http.wsgi import RequestHandler

    script_name = _ScriptName(cfg)

    class Handler(RequestHandler):
        """Writes access log lines through gunicorn."""

        def get_environ(self) -> dict[str, Any]:
            environ: dict[str, Any] = super().get_environ()
            environ["RAW_URI"] = self.path
            return environ

        def mount(self, environ: dict[str, Any], prefix: str) -> None:
            found = script_name.find(self.headers, self.client_address)
            super().mount(environ, prefix if found is None else found)

        def learn(self, environ: dict[str, Any]) -> None:
            if not self.server.keeps_log:  # gunicorn's lines need the environ of each request
                super().learn(environ)

        def _handle_client_error(self, ex: Exception) -> Any:
            self.environ = self.headers = None  # remove those of the previous request
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


def _gevent_socket(sock: Any) -> Any:
    """Return a gevent socket for a duplicate of gunicorn's listening socket."""
    return gevent.socket.socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))


def _patch_and_reimport() -> None:
    """Patch, and drop the modules imported before, so that they are imported again."""
    monkey.patch_all()
    for name in list(sys.modules):
        if name.partition(".")[0] in _REIMPORTED and name != __name__:
            del sys.modules[name]


def _remove(folder: str, master: int) -> None:
    if os.getpid() == master:  # workers are forks of the master, and run its exit handlers
        shutil.rmtree(folder, ignore_errors=True)
