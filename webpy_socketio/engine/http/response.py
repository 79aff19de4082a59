"""The response half of the HTTP handler: strict framing.

Every response is framed correctly, or the connection is closed after it. pywsgi keeps a connection
open after an HTTP/1.0 response without a length, writes more or fewer bytes than Content-Length,
and fails on a 204 with a body.
"""

from __future__ import annotations

import errno
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from gevent.pywsgi import WSGIHandler

from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.http.framing import BODYLESS, ResponseError, check_head
from webpy_socketio.engine.http.protocols import HTTPServer
from webpy_socketio.engine.io.dates import http_date
from webpy_socketio.engine.io.progress import send_all

__all__ = ["ClientGone", "ResponseHandler"]

logger = logging.getLogger(__name__)

#: Bytes of the largest block that is joined with the head and the chunk framing in one write.
_MAX_JOINED = 65_536

_ERROR_BODY = b"Internal Server Error"


class ClientGone(BrokenPipeError):
    """The client closed the connection, or makes no progress in reading the response.

    Distinct from a `BrokenPipeError` that the application itself raises.
    """


class ResponseHandler(WSGIHandler):
    """Writes the responses of the application and those of the server itself."""

    # Attributes of pywsgi, which has no type annotations.
    server: HTTPServer
    socket: Any
    result: Any
    status: Any
    _orig_status: Any
    response_headers: Any
    close_connection: Any

    #: Content-Length as declared by the application.
    _declared: int | None = None
    #: Whether the application's headers include a Date.
    _dated = False
    #: Whether the response has no body; blocks of the application are then discarded.
    _bodyless = False
    #: Bytes of the declared length that are still to be sent; None without a declared length.
    _missing: int | None = None

    def handle_one_response(self) -> None:
        """Run the application; close the connection unless its response is complete."""
        self.time_start = time.time()
        self.status = self._orig_status = None
        self.code = self.response_length = 0
        self.headers_sent = self.response_use_chunked = self.connection_upgraded = False
        self.result = self._declared = self._missing = None
        self._bodyless = False
        try:
            self.run_application()
        except ClientGone:
            self.close_connection = True
        except:  # noqa: E722 - GreenletExit too: a partial response must end the connection
            self.handle_error(*sys.exc_info())
        finally:
            self.time_finish = time.time()
            self.log_request()

    def start_response(
        self, status: str, headers: Sequence[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """Check and store the head of the response; it is sent with the first block of the body."""
        if self.headers_sent:
            if exc_info is not None:
                raise exc_info[1].with_traceback(exc_info[2])
            raise ResponseError(
                "start_response was called after the body had begun: call it once, before the "
                "first block, or with exc_info"
            )
        head = check_head(status, headers)
        self.status, self.code, self.response_headers = head.status, head.code, head.headers
        self._orig_status = status
        self._declared, self._dated = head.length, head.dated
        self.close_connection = self.close_connection or head.close
        return self.write

    def write(self, data: bytes) -> None:
        """Send one block of the body, preceded by the head if it is the first."""
        if type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise ResponseError(
                    f"the application returned {type(data).__name__} where WSGI requires bytes: "
                    "return a list of bytes, and encode text ('...'.encode())"
                )
            data = bytes(data)
        if self.headers_sent:
            self._write(data)
        else:
            self._write_with_headers(data)

    def process_result(self) -> None:
        """Send the body that the application returned, and check its length."""
        # Iterating over bytes yields integers, and over text single characters.
        is_single = isinstance(self.result, (bytes, str))
        for data in [self.result] if is_single else self.result:
            if data:
                self.write(data)
        if not self.headers_sent:
            self.write(b"")
        if self.response_use_chunked:
            self._sendall(b"0\r\n\r\n")
        if self._missing:
            raise ResponseError(
                f"the body is {self._missing} bytes shorter than its Content-Length: the "
                "connection was closed; set Content-Length to the number of bytes, or leave it out"
            )

    def finalize_headers(self) -> None:
        """Choose the framing of the body, and whether the connection stays open."""
        headers = self.response_headers
        if not self._dated:
            headers.append((b"Date", http_date()))
        self._bodyless = self.command == "HEAD" or self.code in BODYLESS
        if self._declared is None and self.code not in BODYLESS:
            self._frame(headers)
        elif not self._bodyless:
            self._missing = self._declared
        if self.close_connection:
            headers.append((b"Connection", b"close"))  # RFC 9112 §9.6
        elif self.request_version == "HTTP/1.0":
            headers.append((b"Connection", b"keep-alive"))

    def _frame(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Frame a body whose length the application did not declare."""
        if isinstance(self.result, (list, tuple)):
            length = sum(map(_size, self.result))
            if (
                length or not self._bodyless
            ):  # for HEAD, an empty list does not imply an empty GET response
                headers.append((b"Content-Length", b"%d" % length))
            self._missing = None if self._bodyless else length
        elif self._bodyless:
            pass
        elif self.request_version == "HTTP/1.0":
            self.close_connection = True  # closing the connection ends the body
        else:
            self.response_use_chunked = True
            headers.append((b"Transfer-Encoding", b"chunked"))

    def _write_with_headers(self, data: bytes) -> None:
        if not self.status:
            raise ResponseError(
                "the application did not call start_response before it returned its body"
            )
        if self._declared is not None and len(data) > self._declared:
            self.close_connection = True
        self.finalize_headers()
        self.headers_sent = True
        head = b"".join(b"%s: %s\r\n" % header for header in self.response_headers)
        self._write(data, b"HTTP/1.1 %s\r\n%s\r\n" % (self.status, head))

    def _write(self, data: bytes, head: bytes = b"") -> None:
        if self._bodyless:  # it would be read as the next response (RFC 9112 §6.3)
            data = b""
        excess = 0
        if self._missing is not None:
            excess = max(0, len(data) - self._missing)
            data = data[: self._missing]
            self._missing -= len(data)
        if not data:
            self._sendall(head)
        elif len(data) > _MAX_JOINED:
            self._sendall(head + b"%x\r\n" % len(data) if self.response_use_chunked else head)
            self._sendall(data)
            if self.response_use_chunked:
                self._sendall(b"\r\n")
        elif self.response_use_chunked:
            self._sendall(b"%s%x\r\n%s\r\n" % (head, len(data), data))
        else:
            self._sendall(head + data)
        if excess:
            self.close_connection = True  # also if the application catches the error
            raise ResponseError(
                f"the body is at least {excess} bytes longer than its Content-Length: these bytes "
                "were not sent and the connection was closed; set Content-Length to the number of "
                "bytes, or leave it out"
            )

    def answer(self, status: str, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Write a complete response of the server, without the checks for applications.

        Several times faster than the WSGI path. Raises `OSError` if it cannot be sent.
        """
        self._sendall(self.encode(status, headers, body))

    def encode(self, status: str, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
        """Return the bytes of a complete response of the server, and store its status."""
        self.status = self._orig_status = status  # for the access log
        self.code = int(status[:3])
        self.headers_sent = True
        connection = ""
        if self.close_connection:
            connection = "Connection: close\r\n"  # RFC 9112 §9.6
        elif self.request_version == "HTTP/1.0":
            connection = "Connection: keep-alive\r\n"
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        head = b"HTTP/1.1 %b\r\nDate: %b\r\n%b\r\n" % (
            status.encode("latin-1"),
            http_date(),
            (lines + connection).encode("latin-1"),
        )
        return head if self.command == "HEAD" else head + body

    def _sendall(self, data: bytes) -> None:
        """Send all of `data`; raise `ClientGone` if the client disconnects or makes no progress."""
        if not data:
            return
        sock = self.socket
        sock.settimeout(0)
        try:
            try:
                sent = sock.send(data)  # the send buffer nearly always has room for all of it
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                sock.settimeout(None)
                send_all(sock, memoryview(data)[sent:], self.config.write_timeout)
        except OSError as error:
            self.close_connection = True  # also if the application catches the error
            raise ClientGone(errno.EPIPE, f"the client has disconnected: {error}") from error
        finally:
            sock.settimeout(None)
        self.response_length += len(data)

    def log_request(self) -> None:
        """Write the line of the access log; a failure to write it is logged and ignored."""
        if self.server.keeps_log:  # formatting a line costs more than writing it
            try:
                super().log_request()
            except (OSError, ValueError) as error:  # ValueError: the file is closed
                text = f"the access log cannot be written ({error}): free space or reopen the file"
                self.server.notices.throttled("access log", text, logging.ERROR)

    @property
    def config(self) -> EngineConfig:
        """The settings of the server."""
        return self.server.config

    def _log_error(self, t: Any, v: Any, tb: Any) -> None:
        if issubclass(t, ResponseError):
            logger.error("%s: %s", self.requestline, v)
        else:
            super()._log_error(t, v, tb)

    def _send_error_response_if_possible(self, error_code: int) -> None:
        """Send a 500 if nothing has been sent, and close the connection in any case."""
        self.close_connection = True
        if self.headers_sent:
            return
        try:
            self.answer(
                "500 Internal Server Error",
                [("Content-Type", "text/plain"), ("Content-Length", str(len(_ERROR_BODY)))],
                _ERROR_BODY,
            )
        except ClientGone:
            return


def _size(data: Any) -> int:
    if isinstance(data, memoryview):
        return data.nbytes
    if isinstance(data, (bytes, bytearray)) or not data:
        return len(data)
    raise ResponseError(
        f"the application returned a list with {type(data).__name__} where WSGI requires bytes: "
        "encode text ('...'.encode())"
    )
