"""Rules for the head of an application's response (RFC 9110, RFC 9112, PEP 3333)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http.client import responses
from typing import Any, NamedTuple

__all__ = ["BODYLESS", "ResponseError", "ResponseHead", "check_head"]

#: Final statuses whose responses have no body (RFC 9110 §15.3.5, §15.4.5).
BODYLESS = frozenset((204, 304))

_STATUS = re.compile(r"([2-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# 18 digits: more than any body has, and within 64 bits.
_LENGTH = re.compile(r"[0-9]{1,18}")


class ResponseError(Exception):
    """The application's response breaks HTTP or WSGI; the message names the cause and a remedy."""


class ResponseHead(NamedTuple):
    """The checked status and headers of a response."""

    status: bytes
    code: int
    #: The headers, without those that the server sets itself (Connection, length of a 204).
    headers: list[tuple[bytes, bytes]]
    #: Value of Content-Length; None if there is none, or the status has no body.
    length: int | None
    #: Whether the application set a Date.
    dated: bool
    #: Whether the application set ``Connection: close``.
    close: bool


def check_head(status: Any, headers: Iterable[tuple[Any, Any]]) -> ResponseHead:
    """Check what an application passes to ``start_response``.

    Raises:
        ResponseError: The status or a header is invalid.
    """
    match = _STATUS.fullmatch(status) if isinstance(status, str) else None
    if match is None:
        raise ResponseError(
            f"invalid response status {_shorten(status)}: set a final status such as '200 OK', "
            "with three digits (200 to 999) and a reason without control characters or line breaks"
        )
    code = int(match[1])
    if " " not in status:
        status = f"{status} {responses.get(code, '')}"
    checked: list[tuple[bytes, bytes]] = []
    length = None
    dated = close = False
    for name, value in headers:
        _check_header(name, value)
        key = name.lower()
        if key == "content-length":
            if length is not None or _LENGTH.fullmatch(value.strip(" \t")) is None:
                raise ResponseError(
                    f"invalid Content-Length {_shorten(value)}: set it once, to the number of "
                    "bytes of the body, or leave it out"
                )
            length = int(value)
            if code in BODYLESS and code != 304:  # not allowed in a 204 (RFC 9110 §8.6)
                continue
        elif key == "transfer-encoding":
            raise ResponseError(
                f"the application set Transfer-Encoding {_shorten(value)}: remove this header, the "
                "server frames the body itself (PEP 3333, hop-by-hop headers)"
            )
        elif key == "date":
            dated = True
        elif key == "connection":
            options = {option.strip().lower() for option in value.split(",")}
            close = close or "close" in options
            if options <= {"close", "keep-alive", ""}:
                continue
        checked.append((name.encode("latin-1"), value.encode("latin-1")))
    if code in BODYLESS:
        length = None
    return ResponseHead(status.encode("latin-1"), code, checked, length, dated, close)


def _check_header(name: Any, value: Any) -> None:
    if not isinstance(name, str) or not isinstance(value, str):
        raise ResponseError(
            f"header {_shorten(name)} with value {_shorten(value)}: names and values must be str"
        )
    if _NAME.fullmatch(name) is None:
        raise ResponseError(
            f"invalid header name {_shorten(name)}: use letters, digits and '-' only"
        )
    if _VALUE.fullmatch(value) is None:
        raise ResponseError(
            f"invalid value {_shorten(value)} of header {name}: remove line breaks and control "
            "characters, and encode characters outside Latin-1 (urllib.parse.quote)"
        )


def _shorten(value: Any) -> str:
    """Return a printable representation of at most 100 characters."""
    text = ascii(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
