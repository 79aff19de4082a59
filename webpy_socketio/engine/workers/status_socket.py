"""Status socket: a Unix socket on which a process answers queries of its own user.

The supervisor of `serve` queries the metrics of its workers, and `webpy-socketio status` the state
of all processes. The socket is in a private folder (`RuntimeFolder`).

A query is one line, its name. The answer is a line of JSON with the version of this format, the
size of the content, and ``error`` if there is one; the content follows.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket as stdlib_socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
from gevent import socket
from gevent.pool import Pool
from gevent.server import StreamServer

from webpy_socketio.engine.workers.runtime_folder import STATUS_PREFIX, RuntimeFolder

__all__ = ["FORMAT", "QueryError", "StatusSocket", "query"]

logger = logging.getLogger(__name__)

#: Version of the answers.
FORMAT = 1

#: Seconds for a query to arrive, and for its answer to be computed and read.
_READ_TIMEOUT, _ANSWER_TIMEOUT = 5.0, 10.0

#: Connections that are answered at the same time; further ones wait.
_MAX_CONNECTIONS = 16

#: Bytes of a query, and of an answer.
_MAX_QUERY, MAX_ANSWER = 64, 32 * 1024 * 1024

#: Seconds between two checks whether the socket still exists.
_CHECK_INTERVAL = 1.0


class QueryError(Exception):
    """A process did not answer a query; the text contains the reason."""


class StatusSocket:
    """Answers queries until it is closed.

    Args:
        folder: Path of the folder, which only this user may access.
        name: Name of the process in this folder, such as the number of a worker.
        answer: Returns the answer to a query; raises `LookupError` if it is unknown.

    Raises:
        ValueError: The folder is accessible to others, or its path is too long.
        OSError: The socket cannot be created.
    """

    def __init__(self, folder: str | Path, name: object, answer: Callable[[str], bytes]) -> None:
        self._folder = RuntimeFolder(folder)
        self.path = self._folder.path / f"{STATUS_PREFIX}{name}"
        self._answer = answer
        self._server: StreamServer | None = None
        self._bound: os.stat_result | None = None
        try:
            self._listen()
        except BaseException:
            self._folder.close()
            raise
        self._checker = gevent.spawn(self._check)

    def close(self) -> None:
        """Remove the socket; queries that are being answered end."""
        self._checker.kill(block=False)
        if self._is_bound():
            self.path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.stop(timeout=0)
            self._server = None
        self._folder.close()

    def _listen(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.path.unlink(missing_ok=True)
            # Bind under the final name: cleaners keep sockets that the kernel lists as bound.
            sock.bind(str(self.path))
            self._bound = self.path.lstat()
            sock.listen(_MAX_CONNECTIONS)
        except BaseException:
            sock.close()
            raise
        previous = self._server
        self._server = StreamServer(sock, self._serve, spawn=Pool(_MAX_CONNECTIONS))
        self._server.start()
        if previous is not None:
            previous.close()

    def _check(self) -> None:
        """Recreate the socket if a cleaner of temporary files has removed it."""
        while True:
            gevent.sleep(_CHECK_INTERVAL)
            with contextlib.suppress(OSError, ValueError):  # tried again
                self._folder.ensure()
                if not self._is_bound():
                    self._listen()

    def _is_bound(self) -> bool:
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return self._bound is not None and os.path.samestat(found, self._bound)

    def _serve(self, link: Any, address: Any) -> None:
        try:
            if not _is_allowed(link):
                logger.warning("rejected a connection of another user to the status socket")
                return
            line = ""
            with gevent.Timeout(_READ_TIMEOUT, False):
                line = _read_line(link)
            with gevent.Timeout(_ANSWER_TIMEOUT, False):
                if line:
                    link.sendall(self._reply(line))
        except (OSError, ValueError):  # the other end has closed the connection, or sent no query
            pass
        finally:
            link.close()

    def _reply(self, line: str) -> bytes:
        header: dict[str, Any] = {"format": FORMAT}
        content = b""
        try:
            content = self._answer(line)
        except LookupError:
            header["error"] = f"the query {line!r} is unknown to this process"
        except Exception:
            logger.exception("the query %r failed", line)
            header["error"] = "internal error"
        header["size"] = len(content)
        return json.dumps(header).encode() + b"\n" + content


def query(path: str | Path, name: str, timeout: float) -> bytes:
    """Send a query, and return the answer.

    Args:
        path: Path of the status socket.
        name: Name of the query.
        timeout: Longest wait for the whole answer, in seconds.

    Raises:
        QueryError: The process does not run, has no such answer, or did not answer in time.
    """
    answer = b""
    is_late = True
    try:
        with gevent.Timeout(timeout, False):
            answer = _ask(path, name)
            is_late = False
    except OSError as error:
        raise QueryError(error.strerror or str(error)) from error
    if is_late:
        raise QueryError(f"no answer within {timeout:g} s")
    line, _, content = answer.partition(b"\n")
    try:
        header = json.loads(line)
        if header["format"] != FORMAT:
            raise QueryError("the process runs another version of webpy_socketio")
        if header["size"] != len(content):  # it has ended
            raise QueryError("the process closed the connection during its answer")
    except (ValueError, TypeError, LookupError):
        raise QueryError("the process closed the connection") from None
    if "error" in header:
        raise QueryError(str(header["error"]))
    return content


def _ask(path: str | Path, name: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(path))
        sock.sendall(f"{name}\n".encode())
        while data := sock.recv(262_144):
            chunks.append(data)
            size += len(data)
            if size > MAX_ANSWER:
                raise QueryError(f"the answer exceeds {MAX_ANSWER} bytes")
    return b"".join(chunks)


def _read_line(link: Any) -> str:
    data = b""
    while b"\n" not in data:
        chunk = link.recv(_MAX_QUERY)
        if not chunk or len(data) > _MAX_QUERY:
            raise ValueError("not a query")
        data += chunk
    return data.partition(b"\n")[0].decode("ascii")


def _is_allowed(link: Any) -> bool:
    """Return whether the other end belongs to the same user, or to root."""
    peer = getattr(stdlib_socket, "SO_PEERCRED", None)
    if peer is None:  # not Linux: the mode of the folder must suffice
        return True
    found = link.getsockopt(stdlib_socket.SOL_SOCKET, peer, struct.calcsize("3i"))
    return struct.unpack("3i", found)[1] in (0, os.geteuid())
