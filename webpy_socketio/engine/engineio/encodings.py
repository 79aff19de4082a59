"""Compression of response bodies: the content codings of HTTP (RFC 9110 §8.4.1 and §12.5.3)."""

from __future__ import annotations

import re
import zlib

import gevent

from webpy_socketio.engine.io.deflate import LEVEL, THRESHOLD

__all__ = ["compress_body", "select_encoding"]

#: ``wbits`` of zlib for each coding, in the order of preference.
_FORMATS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

#: A coding and its weight, between the commas of ``Accept-Encoding`` (RFC 9110 §12.4.2).
_ITEM = re.compile(
    r"[ \t]*([^ \t;]+)[ \t]*(?:;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?"
)

#: Maximum number of codings that are read.
_MAX_ITEMS = 32

#: Bytes compressed before yielding to other greenlets: about a millisecond.
_BLOCK = 65_536


def compress_body(body: bytes, accepted: str | None) -> tuple[bytes, list[tuple[str, str]]]:
    """Compress the body of a response if it is long enough and the client accepts it.

    Yields to other greenlets while it compresses a large body.

    Args:
        body: The body.
        accepted: The ``Accept-Encoding`` header of the request, or None.

    Returns:
        The body to send, and the headers that describe it.
    """
    if len(body) <= THRESHOLD:
        return body, []
    headers = [("Vary", "Accept-Encoding")]
    encoding = select_encoding(accepted)
    if encoding is None:
        return body, headers
    return _compress(body, _FORMATS[encoding]), [*headers, ("Content-Encoding", encoding)]


def select_encoding(accepted: str | None) -> str | None:
    """Return the coding with the highest weight in an ``Accept-Encoding`` header.

    Of two codings with the same weight, ``gzip`` is preferred to ``deflate``, and both to none.

    Returns:
        ``"gzip"``, ``"deflate"``, or None if the body must not be compressed.
    """
    if not accepted:
        return None
    weights: dict[str, float] = {}
    for item in accepted.split(",", _MAX_ITEMS)[:_MAX_ITEMS]:
        match = _ITEM.fullmatch(item)
        if match is not None:
            coding = match[1].lower().removeprefix("x-")  # "x-gzip" is an alias (§8.4.1.3)
            weights.setdefault(coding, 1.0 if match[2] is None else float(match[2]))
    default = weights.get("*", 0.0)
    # Without an explicit weight, "identity" is acceptable but not preferred.
    best, selected = weights.get("identity", 0.0), None
    for coding in reversed(_FORMATS):
        weight = weights.get(coding, default)
        if weight > 0 and weight >= best:
            best, selected = weight, coding
    return selected


def _compress(body: bytes, wbits: int) -> bytes:
    compressor = zlib.compressobj(LEVEL, wbits=wbits)
    blocks = []
    for start in range(0, len(body), _BLOCK):
        if start:
            gevent.sleep(0)
        blocks.append(compressor.compress(memoryview(body)[start : start + _BLOCK]))
    blocks.append(compressor.flush())
    return b"".join(blocks)
