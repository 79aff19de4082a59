"""``serve --log-format json``: all log records, and the access log, as lines of JSON."""

from __future__ import annotations

import logging
import sys

from webpy_socketio.engine.http.wsgi import RequestHandler
from webpy_socketio.log_format import JSONFormatter, request_id

__all__ = ["JSONRequestHandler", "configure"]

logger = logging.getLogger("webpy_socketio.access")


def configure() -> None:
    """Write records from INFO to standard error, before the application configures logging."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class JSONRequestHandler(RequestHandler):
    """Writes the access log as records with separate keys."""

    def log_request(self) -> None:
        if not self.server.keeps_log:
            return
        status = self.status.decode() if isinstance(self.status, bytes) else self.status
        code = int(status[:3]) if status else 0
        # Without the query, which contains the secret id of a session.
        path = (self.path or "-").partition("?")[0]
        logger.info(
            "%s %s %d",
            self.command or "-",
            path,
            code,
            extra={
                "client": self.remote_address,
                "method": self.command or "-",
                "path": path,
                "status": code,
                "bytes": self.response_length,
                "seconds": round(max(0.0, self.time_finish - self.time_start), 6),
                "request_id": request_id(self.environ or {}) or "-",
            },
        )
