"""Log records with the request id of their connection, as text or as JSON."""

from __future__ import annotations

import json
import logging
import re
from datetime import datetime, timezone
from typing import Any

import web

__all__ = ["JSONFormatter", "RequestIdFilter", "request_id"]

_KEY = "HTTP_X_REQUEST_ID"

#: Valid request ids: those of proxies are hexadecimal numbers or UUIDs.
_VALID = re.compile(r"[A-Za-z0-9._~:+/=@-]{1,128}")

#: Attributes of every record; the others were passed as ``extra``.
_STANDARD = frozenset(
    (*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "request_id")
)


def request_id(environ: dict[str, Any]) -> str | None:
    """Return the ``X-Request-ID`` of a request, which a proxy sets to find its lines in all logs.

    Args:
        environ: WSGI environ, such as the ``request`` of a handler: that of the handshake.

    Returns:
        The id, or None if the request has none or an invalid one. A valid id has 1 to 128
        letters, digits and ``. _ ~ : + / = @ -``.
    """
    found = environ.get(_KEY)
    return found if isinstance(found, str) and _VALID.fullmatch(found) else None


class RequestIdFilter(logging.Filter):
    """Adds ``request_id`` to records, for a format with ``%(request_id)s``.

    Records of a connection's handlers have the id of its handshake, those of a page the id of its
    request, and others ``-``. Add the filter to a handler, not to a logger, whose children would
    ignore it.

    Example:
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(RequestIdFilter())
        >>> logging.basicConfig(format="%(request_id)s %(message)s", handlers=[handler])
    """

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = _id_of(record) or "-"
        return True


class JSONFormatter(logging.Formatter):
    """Formats each record as one line of JSON.

    The keys are ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, and if there is one
    ``request_id``, ``exception`` (the traceback) and the keys passed as ``extra``.

    Example:
        >>> handler = logging.StreamHandler()
        >>> handler.setFormatter(JSONFormatter())
        >>> logging.basicConfig(level=logging.INFO, handlers=[handler])
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        shown: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (found := _id_of(record)) is not None:
            shown["request_id"] = found
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            shown["stack"] = self.formatStack(record.stack_info)
        for name, value in vars(record).items():
            if name not in _STANDARD:
                shown.setdefault(name, _plain(value))
        text = json.dumps(shown, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()


def _id_of(record: logging.LogRecord) -> str | None:
    given = getattr(record, "request_id", None)
    if given is not None:
        return None if given == "-" else str(given)
    # web.py keeps the request of the current greenlet; in handlers it is the handshake.
    environ = web.ctx.get("env")
    return request_id(environ) if environ is not None else None


def _plain(value: Any) -> Any:
    """Return a value that JSON can represent."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return value
