"""The workers of one machine that share an address, and how a connection gets to the right one.

A session id begins with the name of the worker that holds the session. Whoever accepts a request
that is somebody else's gives the whole connection away, with what it has read of it so far, over a
socket in a folder that only this user may enter. Whose the connection is afterwards is never in
doubt: it is given when the other one says so, and that can be taken back until then.

A TLS connection cannot be given, as its keys are not the kernel's: its bytes are passed on instead
(`webpy_socketio.engine.workers.relay`).
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

#: Seconds that a peer has to take a connection. One that is merely busy takes it in time; one
#: that is dead or stands still is not waited for any longer, and its client begins anew.
TIMEOUT = 5.0

#: Connections that are on their way to one peer at once; the next ones wait for their turn.
_MAX_CONCURRENT = 64

#: Bytes of what is said about a connection, and of what was read of it: a head, and a buffer full.
_MAX_ABOUT = 1024
_MAX_DATA = 262_144

_BACKLOG = 1024

#: The kind of visit, the sizes of what is said and of what was read.
_HEADER = struct.Struct("!cII")
_GIVEN, _RELAYED = b"G", b"R"
_TAKEN = b"\x01"

#: Seconds after which the socket of a worker that cannot be connected to is removed: one that is
#: younger may be bound already, and not listen yet.
_SETTLED = 2.0


class HandedConnection(NamedTuple):
    """A connection that a peer accepted."""

    #: gevent's socket: the client's own, or one on which a peer passes its bytes on.
    sock: Any
    #: The client's address, as ``accept`` told it.
    address: Any
    #: What was read already.
    data: bytes


class PeerWorkers:
    """This worker among the others that listen on the same address.

    `folder` is theirs alone: it has to belong to this user, and nobody else may enter it. `name` is
    a number that no other one has, and none had before: the younger a worker, the higher. It is
    part of the session ids, which are not easier to guess for that.
    """

    def __init__(self, folder: str | Path, name: int, timeout: float = TIMEOUT) -> None:
        self._folder = RuntimeFolder(folder)
        self.folder = self._folder.path
        self.name = name
        self.patience = timeout
        #: What the ids of our own sessions begin with.
        self.prefix = f"{name}."
        self._semaphores: dict[int, BoundedSemaphore] = {}
        self._notices = ThrottledLog(current_clock())
        self._server: StreamServer | None = None
        #: Returns whether the worker of that name serves, as far as it is known.
        self.is_alive: Callable[[int], bool] = lambda name: False
        self._take: Callable[[HandedConnection], None] | None = None
        self._bound: os.stat_result | None = None
        self._is_failing = False

    def owner(self, sid: str) -> int | None:
        """The name in a session id that is not ours; None if there is none in it."""
        name, dot, _ = sid.partition(".")
        # A client may write what it likes there: it becomes a number, or nothing.
        if not dot or not name.isascii() or not name.isdecimal() or len(name) > 9:
            return None
        return None if int(name) == self.name else int(name)

    def younger(self) -> Iterator[int]:
        """The workers that began after us, the youngest first."""
        try:
            names = {int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()}
        except FileNotFoundError:  # removed by a cleaner
            names = set()
        return iter(sorted((name for name in names if name > self.name), reverse=True))

    # -- taking

    def start(self, take: Callable[[HandedConnection], None]) -> None:
        """Take what others give: `take` serves the connection, in a greenlet of its own."""
        self._take = take
        self._listen()

    def ensure(self) -> None:
        """Listen anew if the socket or its folder was removed, by a cleaner of temporary files."""
        if self._take is None:
            return
        try:
            self._folder.ensure()
            if not self._is_bound():
                self._listen()
                logger.warning(
                    "the hand-off socket of worker %d was removed: made again", self.name
                )
            self._is_failing = False
        except (OSError, ValueError) as error:
            if not self._is_failing:
                logger.error(
                    "the hand-off socket of worker %d was removed, and cannot be made again (%s): "
                    "long-polling clients lose their sessions. Restart the server, and keep cleaners "
                    "of temporary files away from %s",
                    self.name,
                    error,
                    self.folder,
                )
            self._is_failing = True

    def stop(self) -> None:
        """Take nothing more. What is on its way stays with the one who wanted to give it."""
        self._take = None
        if self._server is not None:
            if self._is_bound():
                self._path(self.name).unlink(missing_ok=True)
            self._server.close()
            self._server = None
        self._folder.close()

    def _listen(self) -> None:
        place = self._path(self.name)
        take = self._take
        assert take is not None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            place.unlink(missing_ok=True)
            # Under its final name: cleaners keep a socket whose name the kernel lists as bound.
            sock.bind(str(place))
            self._bound = place.lstat()
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        before, self._server = (
            self._server,
            StreamServer(sock, lambda link, address: self._receive(link, take)),
        )
        self._server.start()
        if before is not None:
            before.close()

    def _is_bound(self) -> bool:
        try:
            found = self._path(self.name).lstat()
        except FileNotFoundError:
            return False
        return self._bound is not None and os.path.samestat(found, self._bound)

    def _receive(self, link: Any, take: Callable[[HandedConnection], None]) -> None:
        visit = None
        try:
            if not _is_ours(link):
                logger.warning("another user's process knocked at a worker's socket")
                return
            with gevent.Timeout(self.patience, False):
                visit = _read(link)
            if visit is None:
                return
            link.sendall(_TAKEN)  # fails if it was taken back
            if visit.sock is not link:
                link.close()
        except (OSError, ValueError) as error:
            self._notices.throttled(
                "visit", f"nothing came of a visit: {error}", logging.DEBUG, logger
            )
            if visit is not None:
                visit.sock.close()
            return
        try:
            take(visit)
        finally:
            visit.sock.close()

    # -- giving

    def send_connection(self, name: int, sock: Any, address: Any, data: bytes) -> bool:
        """Give a plain connection away; False if nobody took it: then it is ours still.

        Waits, `timeout` at most. When it was taken, the caller closes its own copy (`forget`).
        """
        with self._offer(name, address, data, sock) as link:
            return link is not None

    @contextlib.contextmanager
    def relay(self, name: int, address: Any, data: bytes) -> Iterator[Any]:
        """A socket on which a peer expects the rest of a connection; None if it does not."""
        with self._offer(name, address, data, None) as link:
            yield link

    @contextlib.contextmanager
    def _offer(self, name: int, address: Any, data: bytes, sock: Any) -> Iterator[Any]:
        about = json.dumps(address).encode()
        header = _HEADER.pack(_RELAYED if sock is None else _GIVEN, len(about), len(data))
        message = header + about + data
        rights = [] if sock is None else [_rights(sock)]
        # Names are the client's to choose: what is kept for one is not kept beyond its use.
        door = self._semaphores.setdefault(name, BoundedSemaphore(_MAX_CONCURRENT))
        link = None
        taken = False
        try:
            try:
                with gevent.Timeout(self.patience, False), door:
                    link = self._connect(name)
                    if link is not None and not _is_ours(link):
                        logger.warning("another user's process listens on a worker's socket")
                        link.close()
                        link = None
                    if link is not None:
                        close_in_child(link)
                        sent = link.sendmsg([message], rights)
                        link.sendall(message[sent:])
                        taken = link.recv(1) == _TAKEN
            except OSError as error:
                text = f"worker {name} did not take a connection: {error}"
                self._notices.throttled("not taken", text, logging.DEBUG, logger)
            finally:
                if door.counter == _MAX_CONCURRENT:
                    self._semaphores.pop(name, None)
                if link is not None:
                    taken = taken or _take_back(link)
            yield link if taken else None
        finally:
            if link is not None:
                link.close()

    def _connect(self, name: int) -> Any:
        place = self._path(name)
        # Not gevent's way: to wait until a socket that is not connected can be written to is not
        # to wait at all.
        sock = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            while True:
                try:
                    sock.connect(str(place))
                except BlockingIOError:  # more than its backlog takes
                    gevent.sleep(0.01)
                except FileNotFoundError:
                    if not self.is_alive(name):
                        return None
                    gevent.sleep(0.05)  # removed by a cleaner: its worker makes it again
                else:
                    return socket.socket(fileno=sock.detach())
        except ConnectionRefusedError:
            self._remove_dead(place)
            return None
        finally:
            sock.close()

    @staticmethod
    def _remove_dead(place: Path) -> None:
        """Remove the socket of a worker that was killed."""
        with contextlib.suppress(OSError):
            if time.time() - place.lstat().st_mtime > _SETTLED:
                place.unlink()

    def _path(self, name: int) -> Path:
        return self.folder / str(name)


def unregister_fd(loop: Any, descriptor: int) -> None:
    """Have the loop let go of a descriptor that stays open in another process.

    libev leaves that to ``close``, which forgets a descriptor only when it was the last one for its
    connection. While another process has one too, each byte that comes there would wake us, and have
    libev set up all its descriptors anew.
    """
    if loop.backend != "epoll" or descriptor < 0:
        return
    epoll = get_original("select", "epoll").fromfd(os.dup(loop.fileno()))
    try:
        epoll.unregister(descriptor)
    except OSError:
        pass  # it was never waited for
    finally:
        epoll.close()


def _rights(sock: Any) -> tuple[int, int, bytes]:
    return stdlib_socket.SOL_SOCKET, stdlib_socket.SCM_RIGHTS, struct.pack("i", sock.fileno())


def _take_back(link: Any) -> bool:
    """End an offer; True if it was taken in the last moment.

    After the shutdown the other side's answer cannot be sent, so it is there already or never comes.
    """
    link.settimeout(0)
    try:
        link.shutdown(socket.SHUT_RDWR)
        return bool(link.recv(1) == _TAKEN)
    except OSError:  # not connected, or closed by the other side
        return False


def _is_ours(link: Any) -> bool:
    peer = getattr(stdlib_socket, "SO_PEERCRED", None)
    if peer is None:  # not Linux: the folder's mode is what there is
        return True
    found = link.getsockopt(stdlib_socket.SOL_SOCKET, peer, struct.calcsize("3i"))
    return bool(struct.unpack("3i", found)[1] == os.geteuid())


def _read(link: Any) -> HandedConnection | None:
    """Read what is given; raises `ValueError` if it is none of ours."""
    flags = getattr(stdlib_socket, "MSG_CMSG_CLOEXEC", 0)
    room = stdlib_socket.CMSG_SPACE(struct.calcsize("i"))
    head, ancillary, _, _ = link.recvmsg(_HEADER.size, room, flags)
    descriptors = [
        struct.unpack("i", data[:4])[0]
        for level, kind, data in ancillary
        if (level, kind) == (stdlib_socket.SOL_SOCKET, stdlib_socket.SCM_RIGHTS)
    ]
    sock = _adopt(descriptors[0]) if descriptors else None
    try:
        if not head:
            return None  # taken back before it began
        kind, about_size, data_size = _HEADER.unpack(
            head + _exactly(link, _HEADER.size - len(head))
        )
        if about_size > _MAX_ABOUT or data_size > _MAX_DATA:
            raise ValueError("a visit too large")
        address = json.loads(_exactly(link, about_size))
        data = _exactly(link, data_size)
        if kind != (_RELAYED if sock is None else _GIVEN):
            raise ValueError("a visit without its connection")
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    if isinstance(address, list):
        address = tuple(address)
    return HandedConnection(link if sock is None else sock, address, data)


def _adopt(descriptor: int) -> Any:
    try:
        return socket.socket(fileno=descriptor)
    except OSError:  # none
        os.close(descriptor)
        raise


def _exactly(link: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = link.recv(size - len(data))
        if not piece:
            raise ValueError("a visit that ended early")
        data += piece
    return data
