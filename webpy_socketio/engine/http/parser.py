"""HTTP/1.1 requests, read strictly: whatever two readers could read differently is refused.

pywsgi is lax where it hurts behind a proxy: it takes the first of two lengths, ``+5`` for a length,
``xchunked`` for chunked. What one reader takes for a body another one takes for the next request
(request smuggling; RFC 9112, 11.2). So nothing here is guessed. Pure functions from bytes, and two
that read from a file; limits are the caller's, deadlines too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

__all__ = [
    "BadRequest",
    "Head",
    "Reader",
    "Truncated",
    "Writer",
    "parse_head",
    "read_body",
    "read_head",
    "take_head",
]

#: Bytes of a request line, of a whole head, and the number of its headers.
MAX_LINE = 8192
MAX_HEAD = 65_536
MAX_HEADERS = 100

#: Bytes that the sizes of chunks may take beyond what is in them: a body of one-byte chunks costs
#: six times what it says.
_FRAMING = 16_384

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# One space between the parts, no control characters (RFC 9112, 3). Bytes above ASCII are not
# allowed there either, but browsers of some age send them and nobody misreads them.
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([^\x00-\x20\x7f]+) HTTP/(1\.[01])")
# No space before the colon, no folded lines: both are read differently by different readers
# (RFC 9112, 5.1 and 5.2).
_FIELD = re.compile(rf"({_TOKEN}):([\t\x20-\x7e\x80-\xff]*)")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[0-9A-Za-z._~!$&'()*+;=%\-]*)(?::[0-9]{0,5})?")
# Fifteen digits are above every limit; more are meant for a reader that counts in 64 bits.
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)


class BadRequest(ValueError):
    """The request cannot be read, or is too large; the connection is closed after `status`."""

    def __init__(self, message: str, status: str = "400 Bad Request", line: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        #: The beginning of a request line of which no more was read.
        self.line = line


class Truncated(BadRequest):
    """The request ends early: the client has gone."""


class Reader(Protocol):
    """A buffered file to read from, as sockets make them."""

    def readline(self, size: int = -1, /) -> bytes:
        """A line with its end, or less at the end of the file or after `size` bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """`size` bytes, or less at the end of the file."""

    def read1(self, size: int = -1, /) -> bytes:
        """What is there of `size` bytes; nothing only at the end of the file."""

    def peek(self, size: int = 0, /) -> bytes:
        """What is buffered, without taking it; waits for something if nothing is."""


class Writer(Protocol):
    """Where a body is written."""

    def write(self, data: bytes, /) -> Any:
        """Write all of `data`."""


class Head(NamedTuple):
    """A request line and headers that can be read one way only."""

    method: str
    target: str
    version: str
    #: Names as they came, and values without the white space around them.
    headers: list[tuple[str, str]]
    #: Bytes of the body; None if it is chunked.
    length: int | None
    #: Whether the connection ends with this request.
    close: bool
    #: Whether it has a body although its connection is to be upgraded, to what is not said.
    suspicious: bool
    #: Whether the client waits to be told that its body is wanted.
    expects: bool
    #: The headers as they came.
    block: bytes

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.length != 0


def take_head(file: Reader) -> tuple[bytes, int] | None:
    """A head that is buffered whole, as most are, and how many bytes are buffered behind it.

    None to have it read by `read_head`, line by line. Waits only if nothing is buffered.
    """
    buffered = file.peek()
    end = buffered.find(b"\r\n\r\n")
    if (
        not 0 < end <= MAX_LINE
        or buffered.startswith(b"\r\n")
        or buffered.count(b"\r\n", 0, end) > MAX_HEADERS
    ):
        return None
    end += 4
    return file.read(end), len(buffered) - end


def read_head(file: Reader) -> bytes:
    """Read a head, from the request line to the empty line; b"" if the client has gone before.

    Raises `BadRequest` as soon as it is too large.
    """
    line = file.readline(MAX_LINE + 1)
    if line == b"\r\n":  # one empty line before is forgiven (RFC 9112, 2.2)
        line = file.readline(MAX_LINE + 1)
    if not line:
        return b""
    if len(line) > MAX_LINE:
        raise BadRequest(f"a request line above {MAX_LINE} bytes", "414 URI Too Long", line)
    lines = [line]
    size = len(line)
    while line != b"\r\n":
        if not line.endswith(b"\r\n"):
            raise BadRequest("a line that does not end as HTTP's do, or an end in the middle")
        line = file.readline(MAX_HEAD + 1)
        size += len(line)
        if size > MAX_HEAD or len(lines) > MAX_HEADERS + 1:
            raise BadRequest("too many headers", "431 Request Header Fields Too Large")
        lines.append(line)
    return b"".join(lines)


def parse_head(head: bytes, before: Head | None = None) -> Head:
    """Parse what `read_head` read; raises `BadRequest` for whatever is not plain HTTP/1.1.

    `before` is the head of an earlier request of the same connection: a client says the same of
    itself each time, and what was found good once is not parsed again.
    """
    line, _, block = head[:-4].partition(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line.decode("latin-1"))
    if match is None:
        raise BadRequest("a request line that is not HTTP/1.0 or 1.1")
    method, target, version = match.groups()
    if (
        before is not None
        and before.block == block
        and before.version == version
        and target.startswith("/")  # one that names a host is held against the header
    ):
        return before._replace(method=method, target=target)
    headers = [_parse_header(field) for field in block.decode("latin-1").split("\r\n") if block]
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.lower(), []).append(value)
    _check_host(values.get("host", []), version, target)
    length = _find_length(values, version)
    options = {
        option.strip().lower()
        for value in values.get("connection", ())
        for option in value.split(",")
    }
    upgrade = "upgrade" in options
    if upgrade and "upgrade" in values and length != 0:
        # Whoever upgrades reads what follows as another protocol; a proxy reads it as the body.
        raise BadRequest("a body in a request that asks for an upgrade")
    expect = ",".join(values.get("expect", ())).lower()
    if version == "1.0":
        expect = ""  # a client of HTTP/1.0 cannot wait for an interim response (RFC 9110, 10.1.1)
    if expect not in ("", "100-continue"):
        raise BadRequest("an expectation that nobody can meet", "417 Expectation Failed")
    return Head(
        method,
        _origin_form(target, method),
        version,
        headers,
        length,
        # Whoever asks for another protocol and gets an answer in this one may not have noticed: what
        # follows is not to be read as requests (a proxy that takes any answer for "yes" lets through
        # what it would not have, RFC 9110, 7.8).
        upgrade or "close" in options or (version == "1.0" and "keep-alive" not in options),
        # Proxies that are set up as Socket.IO's own documentation says send "Connection: upgrade"
        # with each request, and Upgrade only where the client did.
        upgrade and length != 0,
        bool(expect),
        block,
    )


def _parse_header(line: str) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise BadRequest("a header without a proper name, or with control characters")
    name, value = match.groups()
    return name, value.strip(" \t")


def _check_host(hosts: list[str], version: str, target: str) -> None:
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise BadRequest("not exactly one Host")
    if hosts and _HOST.fullmatch(hosts[0]) is None:
        raise BadRequest("a Host that is not one")
    absolute = _ABSOLUTE.match(target)
    if absolute is not None and [absolute[1].lower()] != [host.lower() for host in hosts]:
        # One reader goes by the first, another one by the second (RFC 9112, 3.2.2).
        raise BadRequest("a request for one host that names another one as its Host")


def _find_length(values: dict[str, list[str]], version: str) -> int | None:
    lengths, codings = values.get("content-length"), values.get("transfer-encoding")
    if codings is not None:
        if lengths is not None or version == "1.0":
            raise BadRequest("a body with two ways to tell its length")
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise BadRequest("a transfer coding other than chunked")
        return None
    if lengths is None:
        return 0
    # isdecimal: isdigit would take a superscript, which Latin-1 has.
    if len(lengths) > 1 or not lengths[0].isdecimal():
        raise BadRequest("a Content-Length that is not one number")
    return min(int(lengths[0][:19]), 10**18)  # more digits are no more than above every limit


def _origin_form(target: str, method: str) -> str:
    """The path and query, also of a request written for a proxy (RFC 9112, 3.2.2)."""
    absolute = _ABSOLUTE.match(target)
    if absolute is not None:
        target = target[absolute.end() :] or "/"
        if target.startswith("?"):
            target = "/" + target
    if not target.startswith("/") and not (target == "*" and method == "OPTIONS"):
        raise BadRequest("a request for something that is not a path here")
    return target


def read_body(
    file: Reader, length: int | None, limit: int, into: Writer, progress: Callable[[int], None]
) -> int:
    """Read a whole body and write it to `into`; returns its size.

    `progress` is told of each piece's size. Raises `BadRequest` if the body is larger than `limit`,
    before reading what is too much, is framed wrongly, or ends early.
    """
    if length is not None:
        if length > limit:
            raise too_large(limit)
        _copy(file, length, into, progress)
        return length
    total = framing = 0
    while True:
        line = file.readline(MAX_LINE)
        framing += len(line) + 2
        if framing > total + _FRAMING:
            raise BadRequest("chunks so small that most of the body is their sizes")
        size = _CHUNK.fullmatch(line)
        if not line.endswith(b"\n") and len(line) < MAX_LINE:
            raise Truncated("a body that ends early")
        if size is None:
            raise BadRequest("a chunk without a proper size")
        chunk = int(size[1], 16)
        if chunk == 0:
            break
        total += chunk
        if total > limit:
            raise too_large(limit)
        _copy(file, chunk, into, progress)
        if file.read(2) != b"\r\n":
            raise BadRequest("a chunk longer than its size")
    if file.readline(MAX_LINE) != b"\r\n":
        # Trailers are allowed by HTTP and used by nobody; nothing is to be smuggled in them.
        raise BadRequest("something behind the last chunk")
    return total


def too_large(limit: int) -> BadRequest:
    """The refusal of a body of more than `limit` bytes."""
    return BadRequest(f"a body above {limit} bytes", "413 Payload Too Large")


def _copy(file: Reader, size: int, into: Writer, progress: Callable[[int], None]) -> None:
    while size:
        data = file.read1(min(size, 65_536))
        if not data:
            raise Truncated("a body that ends early")
        into.write(data)
        progress(len(data))
        size -= len(data)
