"""gevent's pywsgi server with a strict request parser, strict framing and limits."""

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
from webpy_socketio.engine.http.closing import respond_and_drain
from webpy_socketio.engine.http.handler import HTTPHandler
from webpy_socketio.engine.io.clock import current_clock
from webpy_socketio.engine.io.quotas import AddressQuota, Quota
from webpy_socketio.engine.io.standard_streams import protect_standard_streams
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.engine.workers.handoff import PeerWorkers

__all__ = ["BaseServer"]

logger = logging.getLogger(__name__)

#: Errors of ``accept`` when the process or the machine has no descriptor or memory left.
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

#: Seconds for which accepting pauses after such an error.
_RETRY_DELAY = 0.5

#: Default limit of concurrent connections of one address.
MAX_CONNECTIONS_PER_ADDRESS = 2000

#: Concurrent rejections that send a 503; further connections are closed without a response.
_MAX_REJECTIONS = 100

_TOO_MANY_CONNECTIONS = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 38\r\n\r\nToo many connections of this address.\n"
)


def _wrap_file(file: Any, block_size: int = 65_536) -> FileWrapper:
    """Return an iterable of a file's blocks (PEP 3333, ``wsgi.file_wrapper``)."""
    return FileWrapper(file, block_size)


class BaseServer(WSGIServer):
    """WSGI server that enforces the limits and timeouts of an `EngineConfig`.

    Args:
        listener: An address, or a listening gevent socket.
        application: The WSGI application.
        config: Limits and timeouts.
        notices: Throttled log for errors that clients can repeat; a new one if None.
        **pywsgi: Further keyword arguments of `gevent.pywsgi.WSGIServer`.

    """

    handler_class = HTTPHandler
    base_env: ClassVar[dict[str, Any]] = {
        **WSGIServer.base_env,
        "wsgi.file_wrapper": _wrap_file,
    }

    #: Set by `EngineServer` when several workers share the listening socket.
    peers: PeerWorkers | None = None
    #: Handlers of idle keep-alive connections and their greenlets; None without peers.
    idle_handlers: dict[Any, Any] | None = None

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
        #: Bytes of all request bodies held in memory and temporary files.
        self.bodies = Quota(config.max_bodies_size)
        self._addresses = AddressQuota(
            config.max_connections_per_address, MAX_CONNECTIONS_PER_ADDRESS
        )
        self._rejecting = 0
        self.notices = ThrottledLog(current_clock()) if notices is None else notices
        #: Whether requests are logged. With ``log=None`` no log line is formatted.
        self.keeps_log = pywsgi.get("log", "default") is not None
        super().__init__(listener, application, **pywsgi)

    def start(self) -> None:
        protect_standard_streams()  # again: the application may have replaced them
        super().start()

    def do_handle(self, sock: Any, address: Any) -> None:
        if self.admit(sock, address):
            super().do_handle(sock, address)

    def admit(self, sock: Any, address: Any) -> bool:
        """Count a connection; reject it and return False if its address has reached the limit."""
        peer = peer_of(address)
        if not self.config.proxies.trusts(peer):
            if not self._addresses.has_room(peer):
                self._reject(sock, peer)
                return False
            self._addresses.add(sock, peer)
        return True

    def release(self, sock: Any) -> None:
        """Stop counting a connection."""
        self._addresses.remove(sock)

    def do_close(self, sock: Any, *args: Any) -> None:
        self.release(sock)
        super().do_close(sock, *args)

    def _reject(self, sock: Any, peer: str) -> None:
        """Send a 503 to an address that has reached its limit, and close the connection."""
        self.notices.throttled(
            "connections of an address",
            f"rejected a connection from {peer}: the address has reached its limit of "
            f"{self._addresses.limit} connections (SOCKETIO_MAX_CONNECTIONS_PER_ADDRESS). If it is "
            "a proxy, add it to SOCKETIO_TRUSTED_PROXIES",
        )
        if self.ssl_enabled or self._rejecting >= _MAX_REJECTIONS:
            sock.close()
            return
        self._rejecting += 1
        gevent.spawn(self._answer_and_close, sock)

    def _answer_and_close(self, sock: Any) -> None:
        try:
            respond_and_drain(sock, _TOO_MANY_CONNECTIONS)
        finally:
            sock.close()
            self._rejecting -= 1

    def do_read(self) -> Any:
        """Accept a connection; pause accepting, as gevent does, when descriptors run out."""
        try:
            return super().do_read()
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                raise
            text = f"cannot accept connections for now: {error.strerror}"
            self.notices.throttled("out of resources", text, logging.WARNING, logger)
        self._pause(_RETRY_DELAY, self._start_accepting_if_started)
        return None

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        # Use the timer attribute of gevent, which `stop_accepting` and `close` stop as well.
        self.stop_accepting()
        self._timer = self.loop.timer(seconds)
        self._timer.start(then)
