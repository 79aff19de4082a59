"""Strict HTTP/1.1 request parser: ambiguous requests are rejected.

pywsgi accepts the first of two Content-Length headers, ``+5`` as a length and ``xchunked`` as
chunked. Behind a proxy that interprets them otherwise, the body of one request becomes the next
request (request smuggling, RFC 9112 §11.2).

All functions are synchronous and keep no state. The caller sets limits and deadlines.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

__all__ = [
    "BadRequest",
    "Head",
    "Reader",
    "Truncated",
    "Writer",
    "find_head",
    "parse_head",
    "read_body",
    "read_head",
    "take_head",
]

#: Bytes of a request line, bytes of a whole head, and number of headers.
MAX_LINE = 8192
MAX_HEAD = 65_536
MAX_HEADERS = 100

#: Characters of the longest header that is cached.
_MAX_CACHED = 512

#: Bytes by which the chunk framing may exceed the chunk data: one-byte chunks take six bytes each.
_MAX_FRAMING_EXCESS = 16_384

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# One space between the parts, no control characters (RFC 9112 §3). Bytes above ASCII are invalid
# too, but old browsers send them, and their interpretation is unambiguous.
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([^\x00-\x20\x7f]+) HTTP/(1\.[01])")
# No space before the colon and no folded lines: implementations differ in how they interpret
# these (RFC 9112 §5.1, §5.2).
_FIELD = re.compile(rf"({_TOKEN}):([\t\x20-\x7e\x80-\xff]*)")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[0-9A-Za-z._~!$&'()*+;=%\-]*)(?::[0-9]{0,5})?")
# 15 digits exceed every limit; longer sizes aim at parsers that overflow 64 bits.
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)


class BadRequest(ValueError):
    """An invalid or too large request: answered with `status`, and the connection is closed."""

    def __init__(self, message: str, status: str = "400 Bad Request", line: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        #: The beginning of a request line that is too long.
        self.line = line


class Truncated(BadRequest):
    """The connection ended within the request."""


class Reader(Protocol):
    """A buffered binary file, as ``socket.makefile`` returns it."""

    def readline(self, size: int = -1, /) -> bytes:
        """Return a line with its end, or less at the end of the file or after `size` bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Return `size` bytes, or less at the end of the file."""

    def read1(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes with at most one read; b"" at the end of the file only."""

    def peek(self, size: int = 0, /) -> bytes:
        """Return buffered bytes without consuming them; wait for data if the buffer is empty."""


class Writer(Protocol):
    """Destination of a body."""

    def write(self, data: bytes, /) -> Any:
        """Write all of `data`."""


class Head(NamedTuple):
    """The request line and headers of a valid request."""

    method: str
    target: str
    version: str
    #: Names as received, and values without surrounding white space.
    headers: list[tuple[str, str]]
    #: The environ key of each header (PEP 3333); None if it would be ambiguous.
    keys: list[str | None]
    #: Bytes of the body; None if it is chunked.
    length: int | None
    #: Whether the connection is closed after this request.
    close: bool
    #: Whether it has a body and ``Connection: upgrade``, but no Upgrade header.
    suspicious: bool
    #: Whether the client waits for ``100 Continue`` before it sends the body.
    expects_continue: bool
    #: The raw header block.
    block: bytes

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.length != 0


def take_head(file: Reader) -> tuple[bytes, int] | None:
    """Return a head that is buffered completely, and the number of bytes buffered after it.

    Returns None, without consuming anything, if `read_head` must read it line by line. Waits only
    if the buffer is empty.
    """
    buffered = file.peek()
    size = find_head(buffered)
    return (file.read(size), len(buffered) - size) if size else None


def find_head(data: bytes) -> int:
    """Return the bytes of the head at the beginning; 0 if `read_head` must read it."""
    end = data.find(b"\r\n\r\n")
    if (
        not 0 < end <= MAX_LINE
        or data.startswith(b"\r\n")
        or data.count(b"\r\n", 0, end) > MAX_HEADERS
    ):
        return 0
    return end + 4


def read_head(file: Reader) -> bytes:
    """Read a head, from the request line to the empty line; b"" if the connection has ended.

    Raises `BadRequest` as soon as the head is too large.
    """
    line = file.readline(MAX_LINE + 1)
    if line == b"\r\n":  # one leading empty line is ignored (RFC 9112 §2.2)
        line = file.readline(MAX_LINE + 1)
    if not line:
        return b""
    if len(line) > MAX_LINE:
        raise BadRequest(f"the request line exceeds {MAX_LINE} bytes", "414 URI Too Long", line)
    lines = [line]
    size = len(line)
    while line != b"\r\n":
        if not line.endswith(b"\r\n"):
            raise BadRequest("a header line does not end with CRLF, or the connection ended")
        line = file.readline(MAX_HEAD + 1)
        size += len(line)
        if size > MAX_HEAD or len(lines) > MAX_HEADERS + 1:
            raise BadRequest("too many headers", "431 Request Header Fields Too Large")
        lines.append(line)
    return b"".join(lines)


def parse_head(head: bytes, previous: Head | None = None) -> Head:
    """Parse the bytes that `read_head` returned; raise `BadRequest` if they are not valid HTTP/1.1.

    `previous` is the head of an earlier request of the same connection. Clients repeat their
    headers in each request, and identical headers are not parsed again.
    """
    line, _, block = head[:-4].partition(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line.decode("latin-1"))
    if match is None:
        raise BadRequest("the request line is not HTTP/1.0 or 1.1")
    method, target, version = match.groups()
    if (
        previous is not None
        and previous.block == block
        and previous.version == version
        and target.startswith("/")  # an absolute target must be compared with the Host header
    ):
        return previous._replace(method=method, target=target)
    headers: list[tuple[str, str]] = []
    keys: list[str | None] = []
    values: dict[str, list[str]] = {}
    for field in block.decode("latin-1").split("\r\n") if block else ():
        pair, lower, key = (_parse_cached if len(field) <= _MAX_CACHED else _parse_header)(field)
        headers.append(pair)
        keys.append(key)
        if lower in values:
            values[lower].append(pair[1])
        else:
            values[lower] = [pair[1]]
    _check_host(values.get("host", []), version, target)
    length = _find_length(values, version)
    options = {
        option.strip().lower()
        for value in values.get("connection", ())
        for option in value.split(",")
    }
    upgrade = "upgrade" in options
    if upgrade and "upgrade" in values and length != 0:
        # The new protocol would interpret as its own what a proxy interprets as the body.
        raise BadRequest("an upgrade request has a body")
    expect = ",".join(values.get("expect", ())).lower()
    if version == "1.0":
        expect = ""  # HTTP/1.0 has no interim responses (RFC 9110 §10.1.1)
    if expect not in ("", "100-continue"):
        raise BadRequest("the expectation is not supported", "417 Expectation Failed")
    return Head(
        method,
        _origin_form(target, method),
        version,
        headers,
        keys,
        length,
        # If the upgrade is not accepted, following bytes must not be parsed as requests. A proxy
        # that considers the connection upgraded forwards them unchecked (RFC 9110 §7.8).
        upgrade or "close" in options or (version == "1.0" and "keep-alive" not in options),
        # Proxies configured as in the documentation of Socket.IO send "Connection: upgrade" with
        # each request, but Upgrade only if the client sent it.
        upgrade and length != 0,
        bool(expect),
        block,
    )


def _parse_header(line: str) -> tuple[tuple[str, str], str, str | None]:
    """Return the name and value of a header, its name in lower case, and its environ key."""
    match = _FIELD.fullmatch(line)
    if match is None:
        raise BadRequest("a header has an invalid name or control characters")
    name, value = match.groups()
    lower = name.lower()
    key = None if "_" in name else _KEYS.get(lower) or "HTTP_" + name.upper().replace("-", "_")
    return (name, value.strip(" \t")), lower, key


#: Clients send the same headers in each handshake. The strings are also shared by their sessions,
#: which saves 0.7 KB of an environ.
_parse_cached = functools.lru_cache(1024)(_parse_header)

#: The environ keys without the prefix ``HTTP_``.
_KEYS = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}


def _check_host(hosts: list[str], version: str, target: str) -> None:
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise BadRequest("the request must have exactly one Host header")
    if hosts and _HOST.fullmatch(hosts[0]) is None:
        raise BadRequest("the Host header is invalid")
    absolute = _ABSOLUTE.match(target)
    if absolute is not None and [absolute[1].lower()] != [host.lower() for host in hosts]:
        # Implementations differ in which of the two they use (RFC 9112 §3.2.2).
        raise BadRequest("the Host header differs from the host of the request target")


def _find_length(values: dict[str, list[str]], version: str) -> int | None:
    lengths, codings = values.get("content-length"), values.get("transfer-encoding")
    if codings is not None:
        if lengths is not None or version == "1.0":
            raise BadRequest("Transfer-Encoding is combined with Content-Length or HTTP/1.0")
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise BadRequest("the transfer coding is not chunked")
        return None
    if lengths is None:
        return 0
    # isdigit would accept the superscript digits of Latin-1.
    if len(lengths) > 1 or not lengths[0].isdecimal():
        raise BadRequest("Content-Length is not one number")
    return min(int(lengths[0][:19]), 10**18)  # above every limit anyway


def _origin_form(target: str, method: str) -> str:
    """Return the path and query, also of an absolute target (RFC 9112 §3.2.2)."""
    absolute = _ABSOLUTE.match(target)
    if absolute is not None:
        target = target[absolute.end() :] or "/"
        if target.startswith("?"):
            target = "/" + target
    if not target.startswith("/") and not (target == "*" and method == "OPTIONS"):
        raise BadRequest("the request target is not a path")
    return target


def read_body(
    file: Reader, length: int | None, limit: int, target: Writer, progress: Callable[[int], None]
) -> int:
    """Read a whole body, write it to `target` and return its size.

    Args:
        file: The connection.
        length: Bytes of the body; None if it is chunked.
        limit: Bytes of the largest body.
        target: Receives the blocks of the body.
        progress: Called with the size of each block.

    Raises:
        BadRequest: The body exceeds `limit` (raised before the excess is read), is framed wrongly
            or is incomplete.
    """
    if length is not None:
        if length > limit:
            raise too_large(limit)
        _copy(file, length, target, progress)
        return length
    total = framing = 0
    while True:
        line = file.readline(MAX_LINE)
        framing += len(line) + 2
        if framing > total + _MAX_FRAMING_EXCESS:
            raise BadRequest("the chunks are too small: most of the body is framing")
        size = _CHUNK.fullmatch(line)
        if not line.endswith(b"\n") and len(line) < MAX_LINE:
            raise Truncated("the connection ended within the body")
        if size is None:
            raise BadRequest("a chunk has an invalid size")
        chunk = int(size[1], 16)
        if chunk == 0:
            break
        total += chunk
        if total > limit:
            raise too_large(limit)
        _copy(file, chunk, target, progress)
        if file.read(2) != b"\r\n":
            raise BadRequest("a chunk is longer than its size")
    if file.readline(MAX_LINE) != b"\r\n":
        # Trailers are valid HTTP, but practically unused and a way to smuggle headers.
        raise BadRequest("data or trailers follow the last chunk")
    return total


def too_large(limit: int) -> BadRequest:
    """Return the rejection of a body of more than `limit` bytes."""
    return BadRequest(f"the body exceeds {limit} bytes", "413 Payload Too Large")


def _copy(file: Reader, size: int, target: Writer, progress: Callable[[int], None]) -> None:
    while size:
        data = file.read1(min(size, 65_536))
        if not data:
            raise Truncated("the connection ended within the body")
        target.write(data)
        progress(len(data))
        size -= len(data)
