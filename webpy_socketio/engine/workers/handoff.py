"""Hand-off of accepted connections between the workers that share an address.

A session id begins with the name of the worker that owns the session. A worker that accepts a
request for a session of a peer sends the connection, with the bytes read so far, to the peer. It
uses a Unix socket in a folder that only this user may enter. The peer owns the connection as soon
as it confirms; until then the sender can withdraw the offer.

A TLS connection cannot be sent, as its keys are in the memory of the process. Its bytes are relayed
instead (`webpy_socketio.engine.workers.relay`).
"""

from __future__ import annotations

import _socket
import contextlib
import json
import logging
import os
import socket as stdlib_socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gevent
from gevent import socket
from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original
from gevent.server import StreamServer

from webpy_socketio.engine.io.clock import current_clock
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.engine.workers.forking import close_in_child
from webpy_socketio.engine.workers.runtime_folder import RuntimeFolder

__all__ = ["HandedConnection", "PeerWorkers", "unregister_fd"]

logger = logging.getLogger(__name__)

#: Seconds for a peer to accept a connection: enough for a busy peer. If the peer has ended or is
#: blocked, the session is unknown after this time, and the client starts a new one.
TIMEOUT = 5.0

#: Concurrent hand-offs to one peer; further ones wait.
_MAX_CONCURRENT = 64

#: Bytes of the client address, and of the data read so far (a request head and a full buffer).
_MAX_ADDRESS = 1024
_MAX_DATA = 262_144

_BACKLOG = 1024

#: Kind of hand-off, bytes of the address, bytes of the data.
_HEADER = struct.Struct("!cII")
_SENT, _RELAYED = b"G", b"R"
_ACCEPTED = b"\x01"

#: Age in seconds above which a socket that refuses connections is removed. A newer socket may be
#: bound but not listening yet.
_STALE_AFTER = 2.0


class HandedConnection(NamedTuple):
    """A connection that a peer accepted and handed off."""

    #: A gevent socket: the connection of the client, or one on which a peer relays its bytes.
    sock: Any
    #: Address of the client, as returned by ``accept``.
    address: Any
    #: Bytes that the peer has read.
    data: bytes


class PeerWorkers:
    """This worker among the workers that listen on the same address.

    Args:
        folder: The folder that the workers share; only this user may have access to it.
        name: Number of this worker, greater than that of every earlier worker. It is the prefix of
            the session ids, in addition to their random part.
        timeout: Seconds for a peer to accept a connection.

    Raises:
        ValueError: `folder` is accessible to others, not a folder, or its path is too long.
        OSError: `folder` cannot be opened.
    """

    def __init__(self, folder: str | Path, name: int, timeout: float = TIMEOUT) -> None:
        self._folder = RuntimeFolder(folder)
        self.folder = self._folder.path
        self.name = name
        self.timeout = timeout
        #: Prefix of the session ids of this worker.
        self.prefix = f"{name}."
        self._semaphores: dict[int, BoundedSemaphore] = {}
        self._notices = ThrottledLog(current_clock())
        self._server: StreamServer | None = None
        #: Returns whether the worker of that name is known to serve.
        self.is_alive: Callable[[int], bool] = lambda name: False
        #: Returns whether a newer worker may still be starting.
        self.may_be_replaced: Callable[[], bool] = lambda: True
        self._on_connection: Callable[[HandedConnection], None] | None = None
        self._bound: os.stat_result | None = None
        self._is_failing = False

    def owner(self, sid: str) -> int | None:
        """Return the worker in the id of a session of a peer; None if there is none."""
        name, dot, _ = sid.partition(".")
        # Clients can send any text, so the name is validated strictly.
        if not dot or not name.isascii() or not name.isdecimal() or len(name) > 9:
            return None
        return None if int(name) == self.name else int(name)

    def newer_workers(self) -> Iterator[int]:
        """Return the workers that started after this one, the newest first."""
        try:
            names = {int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()}
        except FileNotFoundError:  # removed by a cleaner
            names = set()
        return iter(sorted((name for name in names if name > self.name), reverse=True))

    # -- receiving

    def start(self, on_connection: Callable[[HandedConnection], None]) -> None:
        """Accept connections from peers; `on_connection` serves each in its own greenlet."""
        self._on_connection = on_connection
        self._listen()

    def ensure(self) -> None:
        """Recreate the socket or its folder if a cleaner of temporary files removed them."""
        if self._on_connection is None:
            return
        try:
            self._folder.ensure()
            if not self._is_bound():
                self._listen()
                logger.warning(
                    "the hand-off socket of worker %d was removed; recreated it", self.name
                )
            self._is_failing = False
        except (OSError, ValueError) as error:
            if not self._is_failing:
                logger.error(
                    "the hand-off socket of worker %d was removed and cannot be recreated (%s): "
                    "long-polling clients lose their sessions. Restart the server and exclude %s "
                    "from cleaners of temporary files",
                    self.name,
                    str(error),
                    self.folder,
                )
            self._is_failing = True

    def stop(self) -> None:
        """Stop receiving connections; senders keep the ones that are not confirmed."""
        self._on_connection = None
        if self._server is not None:
            if self._is_bound():
                self._path(self.name).unlink(missing_ok=True)
            self._server.close()
            self._server = None
        self._folder.close()

    def _listen(self) -> None:
        path = self._path(self.name)
        on_connection = self._on_connection
        assert on_connection is not None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            # Bind under the final name: cleaners keep sockets that the kernel lists as bound.
            sock.bind(str(path))
            self._bound = path.lstat()
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        previous, self._server = (
            self._server,
            StreamServer(sock, lambda link, address: self._receive(link, on_connection)),
        )
        self._server.start()
        if previous is not None:
            previous.close()

    def _is_bound(self) -> bool:
        try:
            found = self._path(self.name).lstat()
        except FileNotFoundError:
            return False
        return self._bound is not None and os.path.samestat(found, self._bound)

    def _receive(self, link: Any, on_connection: Callable[[HandedConnection], None]) -> None:
        received = None
        try:
            if not _is_same_user(link):
                logger.warning("rejected a connection of another user to the hand-off socket")
                return
            with gevent.Timeout(self.timeout, False):
                received = _read(link)
            if received is None:
                return
            link.sendall(_ACCEPTED)  # fails if the offer was withdrawn
            if received.sock is not link:
                link.close()
        except (OSError, ValueError) as error:
            self._notices.throttled(
                "receive", f"failed to receive a connection: {error}", logging.DEBUG, logger
            )
            if received is not None:
                received.sock.close()
            return
        try:
            on_connection(received)
        finally:
            received.sock.close()

    # -- sending

    def send_connection(self, name: int, sock: Any, address: Any, data: bytes) -> bool:
        """Hand off a connection without TLS; waits up to `timeout` seconds.

        Args:
            name: The worker.
            sock: Socket of the client.
            address: Address of the client.
            data: Bytes read from `sock` so far.

        Returns:
            Whether the worker accepted it. Then the caller must close its copy of the socket (see
            `unregister_fd`).
        """
        with self._offer(name, address, data, sock) as link:
            return link is not None

    @contextlib.contextmanager
    def relay(self, name: int, address: Any, data: bytes) -> Iterator[Any]:
        """Offer a TLS connection: yields the socket to relay its bytes on; None if not accepted."""
        with self._offer(name, address, data, None) as link:
            yield link

    @contextlib.contextmanager
    def _offer(self, name: int, address: Any, data: bytes, sock: Any) -> Iterator[Any]:
        encoded_address = json.dumps(address).encode()
        header = _HEADER.pack(_RELAYED if sock is None else _SENT, len(encoded_address), len(data))
        message = header + encoded_address + data
        # Clients choose the names, so a semaphore is removed when it is unused.
        semaphore = self._semaphores.setdefault(name, BoundedSemaphore(_MAX_CONCURRENT))
        link = None
        accepted = False
        try:
            try:
                with gevent.Timeout(self.timeout, False), semaphore:
                    link = self._connect(name)
                    if link is not None and not _is_same_user(link):
                        logger.warning(
                            "did not hand off a connection to worker %d: its socket belongs to a "
                            "process of another user",
                            name,
                        )
                        link.close()
                        link = None
                    if link is not None:
                        close_in_child(link)
                        sent = _send_with_descriptor(link, message, sock)
                        link.sendall(message[sent:])
                        accepted = link.recv(1) == _ACCEPTED
            except OSError as error:
                text = f"worker {name} did not accept a connection: {error}"
                self._notices.throttled("send", text, logging.DEBUG, logger)
            finally:
                if semaphore.counter == _MAX_CONCURRENT:
                    self._semaphores.pop(name, None)
                if link is not None:
                    accepted = accepted or _withdraw_offer(link)
            yield link if accepted else None
        finally:
            if link is not None:
                link.close()

    def _connect(self, name: int) -> Any:
        path = self._path(name)
        # Not with a gevent socket: it would wait for writability, and an unconnected Unix socket is
        # always writable.
        sock = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            while True:
                try:
                    sock.connect(str(path))
                except BlockingIOError:  # its backlog is full
                    gevent.sleep(0.01)
                except FileNotFoundError:
                    if not self.is_alive(name):
                        return None
                    gevent.sleep(0.05)  # removed by a cleaner: its worker recreates it
                else:
                    return socket.socket(fileno=sock.detach())
        except ConnectionRefusedError:
            self._remove_stale(path)
            return None
        finally:
            sock.close()

    @staticmethod
    def _remove_stale(path: Path) -> None:
        """Remove the socket of a worker that was killed."""
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _STALE_AFTER:
                path.unlink()

    def _path(self, name: int) -> Path:
        return self.folder / str(name)


def unregister_fd(loop: Any, descriptor: int) -> None:
    """Remove a descriptor that stays open in another process from the epoll set of the loop.

    libev relies on ``close`` for this, but epoll keeps a descriptor while another process has the
    same connection open. Each received byte would then wake this process and make libev set up all
    its descriptors again.
    """
    if loop.backend != "epoll" or descriptor < 0:
        return
    epoll = get_original("select", "epoll").fromfd(os.dup(loop.fileno()))
    try:
        epoll.unregister(descriptor)
    except OSError:
        pass  # not in the set
    finally:
        epoll.close()


def _send_with_descriptor(link: Any, message: bytes, sock: Any) -> int:
    # The functions of the standard library call the methods of `link`, a gevent socket, and so wait
    # without blocking the hub.
    if sock is None:
        return int(link.send(message))
    return stdlib_socket.send_fds(link, [message], [sock.fileno()])


def _withdraw_offer(link: Any) -> bool:
    """Withdraw an offer, and return whether the peer has accepted it nevertheless.

    After the shutdown the peer cannot send its confirmation, so it has either arrived or never
    will.
    """
    link.settimeout(0)
    try:
        link.shutdown(socket.SHUT_RDWR)
        return bool(link.recv(1) == _ACCEPTED)
    except OSError:  # not connected, or closed by the peer
        return False


def _is_same_user(link: Any) -> bool:
    peer = getattr(stdlib_socket, "SO_PEERCRED", None)
    if peer is None:  # not Linux: the mode of the folder must suffice
        return True
    found = link.getsockopt(stdlib_socket.SOL_SOCKET, peer, struct.calcsize("3i"))
    return bool(struct.unpack("3i", found)[1] == os.geteuid())


def _read(link: Any) -> HandedConnection | None:
    """Read an offered connection; None if withdrawn. Raises `ValueError` if invalid."""
    # Not `socket.recv_fds`, which ignores its flags: children would inherit the descriptor.
    flags = getattr(stdlib_socket, "MSG_CMSG_CLOEXEC", 0)
    room = stdlib_socket.CMSG_SPACE(struct.calcsize("i"))
    head, ancillary, _, _ = link.recvmsg(_HEADER.size, room, flags)
    descriptors = [
        struct.unpack("i", data[:4])[0]
        for level, kind, data in ancillary
        if (level, kind) == (stdlib_socket.SOL_SOCKET, stdlib_socket.SCM_RIGHTS)
    ]
    sock = _socket_from(descriptors[0]) if descriptors else None
    try:
        if not head:
            return None
        kind, address_size, data_size = _HEADER.unpack(
            head + _receive_exactly(link, _HEADER.size - len(head))
        )
        if address_size > _MAX_ADDRESS or data_size > _MAX_DATA:
            raise ValueError("the offer is too large")
        address = json.loads(_receive_exactly(link, address_size))
        data = _receive_exactly(link, data_size)
        if kind != (_RELAYED if sock is None else _SENT):
            raise ValueError("the offer has no descriptor")
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    if isinstance(address, list):
        address = tuple(address)
    return HandedConnection(link if sock is None else sock, address, data)


def _socket_from(descriptor: int) -> Any:
    try:
        return socket.socket(fileno=descriptor)
    except OSError:  # not a socket
        os.close(descriptor)
        raise


def _receive_exactly(link: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = link.recv(size - len(data))
        if not piece:
            raise ValueError("the offer is incomplete")
        data += piece
    return data
