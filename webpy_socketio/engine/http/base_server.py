"""gevent's pywsgi server with strictly read requests and strictly framed responses."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any, ClassVar
from wsgiref.util import FileWrapper

import gevent
from gevent.pywsgi import WSGIServer

from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.forwarding.proxies import peer_of
from webpy_socketio.engine.http.closing import close_after
from webpy_socketio.engine.http.handler import HTTPHandler
from webpy_socketio.engine.io.clock import current_clock
from webpy_socketio.engine.io.quotas import AddressQuota, Quota
from webpy_socketio.engine.io.standard_streams import protect_standard_streams
from webpy_socketio.engine.io.throttled_log import ThrottledLog

__all__ = ["BaseServer"]

logger = logging.getLogger(__name__)

#: What ``accept`` fails with when the process or the machine has no room for another connection.
_OUT_OF_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

#: Seconds without accepting connections after such a failure.
_RETRY_DELAY = 0.5

#: Connections of one address, where the settings have no number.
MAX_CONNECTIONS_PER_ADDRESS = 2000

#: Connections that are rejected with an answer at once; further ones are closed without.
_MAX_REJECTING = 100

#: The answer to a connection of an address that has too many.
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 38\r\n\r\nToo many connections of this address.\n"
)


def _wrap_file(file: Any, block_size: int = 65_536) -> FileWrapper:
    """Return an iterable of a file's blocks (PEP 3333, "Optional Platform-Specific File Handling")."""
    return FileWrapper(file, block_size)


class BaseServer(WSGIServer):
    """Serves a WSGI application with the limits and deadlines of an `EngineConfig`.

    Args:
        listener: An address, or a listening socket of gevent's.
        application: The WSGI application.
        config: Limits and deadlines.
        notices: Log of repeated mistakes; the server's own if None.
        **pywsgi: Further keywords of pywsgi's server.

    """

    handler_class = HTTPHandler
    base_env: ClassVar[dict[str, Any]] = {
        **WSGIServer.base_env,
        "wsgi.file_wrapper": _wrap_file,
    }

    #: Other workers on the same listening socket, and handlers that wait for a request; see
    #: `EngineServer`.
    peers: Any = None
    resting: Any = None

    def __init__(
        self,
        listener: Any,
        application: Any,
        config: EngineConfig,
        notices: ThrottledLog | None = None,
        **pywsgi: Any,
    ) -> None:
        protect_standard_streams()  # before pywsgi takes sys.stderr for its log
        self.config = config
        #: Bytes of request bodies that are held.
        self.bodies = Quota(config.max_bodies_size)
        self._addresses = AddressQuota(
            config.max_connections_per_address, MAX_CONNECTIONS_PER_ADDRESS
        )
        self._rejecting = 0
        self.notices = ThrottledLog(current_clock()) if notices is None else notices
        #: Whether requests are logged: ``log=None`` is not to cost anything.
        self.keeps_log = pywsgi.get("log", "default") is not None
        super().__init__(listener, application, **pywsgi)

    def start(self) -> None:
        protect_standard_streams()  # they may have been replaced since
        super().start()

    def do_handle(self, sock: Any, address: Any) -> None:
        peer = peer_of(address)
        if not self.config.proxies.trusts(peer):
            if not self._addresses.has_room(peer):
                self._reject(sock, peer)
                return
            self._addresses.add(sock, peer)
        super().do_handle(sock, address)

    def do_close(self, sock: Any, *args: Any) -> None:
        self._addresses.remove(sock)
        super().do_close(sock, *args)

    def _reject(self, sock: Any, peer: str) -> None:
        """Answer a connection of an address that has too many, and close it."""
        self.notices.throttled(
            "connections of an address",
            f"rejected a connection of {peer}: the address has {self._addresses.limit} "
            "(SOCKETIO_MAX_CONNECTIONS_PER_ADDRESS). If it is a proxy, add it to SOCKETIO_TRUSTED_PROXIES",
        )
        if self.ssl_enabled or self._rejecting >= _MAX_REJECTING:
            sock.close()
            return
        self._rejecting += 1
        gevent.spawn(self._answer_and_close, sock)

    def _answer_and_close(self, sock: Any) -> None:
        try:
            close_after(sock, _TOO_MANY)
        finally:
            sock.close()
            self._rejecting -= 1

    def do_read(self) -> Any:
        """Accept a connection; without room for one, wait a little, as gevent does, but quietly."""
        try:
            return super().do_read()
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS:
                raise
            text = f"cannot accept connections for now: {error.strerror}"
            self.notices.throttled("no room", text, logging.WARNING, logger)
        self._pause(_RETRY_DELAY, self._start_accepting_if_started)
        return None

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        # gevent's own way to wait: `stop_accepting` stops the timer as well.
        self.stop_accepting()
        self._timer = self.loop.timer(seconds)
        self._timer.start(then)
