"""gevent's pywsgi server with strictly read requests and strictly framed responses."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any, ClassVar
from wsgiref.util import FileWrapper

from gevent.pywsgi import WSGIServer

from webpy_socketio.engine.clock import current_clock
from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.notices import Notices
from webpy_socketio.engine.standard_streams import protect_standard_streams
from webpy_socketio.engine.strict import StrictHandler

__all__ = ["StrictServer"]

logger = logging.getLogger(__name__)

#: What ``accept`` fails with when the process or the machine has no room for another connection.
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

#: Seconds without accepting connections after such a failure.
_REST = 0.5


def _wrap_file(file: Any, block_size: int = 65_536) -> FileWrapper:
    """Return an iterable of a file's blocks (PEP 3333, "Optional Platform-Specific File Handling")."""
    return FileWrapper(file, block_size)


class StrictServer(WSGIServer):
    """Serves a WSGI application with the limits and deadlines of an `EngineConfig`.

    Args:
        listener: An address, or a listening socket of gevent's.
        application: The WSGI application.
        config: Limits and deadlines.
        notices: Log of repeated mistakes; the server's own if None.
        **pywsgi: Further keywords of pywsgi's server.

    """

    handler_class = StrictHandler
    base_env: ClassVar[dict[str, Any]] = {
        **WSGIServer.base_env,
        "wsgi.file_wrapper": _wrap_file,
    }

    #: Other workers on the same listening socket, and handlers that wait for a request; see
    #: `EngineServer`.
    neighbours: Any = None
    resting: Any = None

    def __init__(
        self,
        listener: Any,
        application: Any,
        config: EngineConfig,
        notices: Notices | None = None,
        **pywsgi: Any,
    ) -> None:
        protect_standard_streams()  # before pywsgi takes sys.stderr for its log
        self.config = config
        self.notices = Notices(current_clock()) if notices is None else notices
        #: Whether requests are logged: ``log=None`` is not to cost anything.
        self.keeps_log = pywsgi.get("log", "default") is not None
        super().__init__(listener, application, **pywsgi)

    def start(self) -> None:
        protect_standard_streams()  # they may have been replaced since
        super().start()

    def do_read(self) -> Any:
        """Accept a connection; without room for one, wait a little, as gevent does, but quietly."""
        try:
            return super().do_read()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            logger.warning("cannot accept connections for now: %s", error.strerror)
        self._pause(_REST, self._start_accepting_if_started)
        return None

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        # gevent's own way to wait: `stop_accepting` stops the timer as well.
        self.stop_accepting()
        self._timer = self.loop.timer(seconds)
        self._timer.start(then)
