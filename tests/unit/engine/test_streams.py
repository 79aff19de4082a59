"""Streams with and without TLS: complete and ordered data, timeouts, closing."""

from __future__ import annotations

import _socket
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.ssl
import pytest

from tests.conftest import Journal
from tests.engines import eventually, trust_all
from webpy_socketio.engine.io.streams import Stream, TCPStream
from webpy_socketio.engine.io.tls import TLSStream

#: Bytes that exceed the buffers of two connected sockets.
MUCH = os.urandom(1 << 20) * 3


class User(Journal):
    """Records the callbacks of a stream."""

    def data_received(self, data: bytes) -> None:
        self.append(("received", data))

    def resume_writing(self) -> None:
        self.append(("resumed", b""))

    def connection_lost(self, reason: str) -> None:
        self.append(("lost", reason))

    @property
    def data(self) -> bytes:
        return b"".join(value for kind, value in self if kind == "received")

    def wait_data(self, data: bytes) -> None:
        self.wait(lambda journal: len(self.data) >= len(data))
        assert self.data == data

    def wait_lost(self) -> str:
        self.wait(lambda journal: any(kind == "lost" for kind, _ in journal))
        (reason,) = [value for kind, value in self if kind == "lost"]
        return reason


Connect = Callable[..., tuple[Stream, Any]]


def plain(write_timeout: float) -> tuple[Stream, Any]:
    ours, theirs = _socket.socketpair()
    ours.setblocking(False)
    peer = socket.socket(fileno=theirs.detach())
    return TCPStream(ours, gevent.get_hub().loop, write_timeout), peer


def tls(write_timeout: float, certificate: Path) -> tuple[Stream, Any]:
    ours, theirs = socket.socketpair()
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    accepted = gevent.spawn(context.wrap_socket, ours, server_side=True)
    peer = trust_all().wrap_socket(theirs)
    stream = TLSStream(accepted.get(), write_timeout)
    return stream, peer


@pytest.fixture(params=["plain", "tls"])
def connect(request: pytest.FixtureRequest, certificate: Path) -> Iterator[Connect]:
    """Return the two ends of a connection: a stream and the socket of its peer."""
    opened: list[tuple[Any, Any]] = []
    runners: list[gevent.Greenlet] = []

    def start(write_timeout: float = 20.0) -> tuple[Stream, Any]:
        if request.param == "plain":
            stream, peer = plain(write_timeout)
        else:
            stream, peer = tls(write_timeout, certificate)
            runners.append(gevent.spawn(run_and_close, stream))
        opened.append((stream, peer))
        return stream, peer

    def run_and_close(stream: Any) -> None:
        stream.run()
        stream._sock.close()  # as the request handler does

    yield start
    for stream, peer in opened:
        peer.close()
        stream.abort()
    gevent.joinall(runners, raise_error=True)


def read_to_end(peer: Any) -> bytes:
    data = b""
    while chunk := peer.recv(65_536):
        data += chunk
    return data


@pytest.fixture
def user() -> User:
    return User()


class TestRead:
    def test_received_bytes_are_in_order(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.start(user)
        sending = gevent.spawn(peer.sendall, MUCH)
        user.wait_data(MUCH)
        sending.get()

    def test_first_bytes_are_delivered_first(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        peer.sendall(b"second")
        stream.start(user, b"first ")
        user.wait_data(b"first second")

    def test_paused_stream_receives_nothing(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.start(user)
        peer.sendall(b"a")
        user.wait_data(b"a")
        stream.pause()
        sending = gevent.spawn(peer.sendall, MUCH)
        for _ in range(20):
            gevent.idle()
        assert user.data == b"a"
        assert not sending.ready(), "TCP holds the sender back"
        stream.resume()
        user.wait_data(b"a" + MUCH)
        sending.get()

    def test_stream_paused_before_start_receives_nothing(
        self, connect: Connect, user: User
    ) -> None:
        stream, peer = connect()
        stream.pause()
        stream.start(user)
        peer.sendall(b"a")
        for _ in range(20):
            gevent.idle()
        assert user == []
        stream.resume()
        user.wait_data(b"a")


class TestWrite:
    def test_unsent_bytes_are_sent_later(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.start(user)
        stream.write(MUCH)
        stream.write(b"end")
        assert stream.unsent > 0
        received = b""
        while len(received) < len(MUCH) + 3:
            received += peer.recv(65_536)
        assert received == MUCH + b"end"
        user.wait_for(("resumed", b""))
        assert stream.unsent == 0

    def test_reads_and_writes_are_concurrent(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.start(user)
        stream.write(MUCH)
        sending = gevent.spawn(peer.sendall, MUCH)
        received = b""
        while len(received) < len(MUCH):
            received += peer.recv(65_536)
        assert received == MUCH
        user.wait_data(MUCH)
        sending.get()

    def test_peer_that_stops_reading_is_lost(self, connect: Connect, user: User) -> None:
        stream, _ = connect(write_timeout=0.02)
        stream.start(user)
        stream.write(MUCH)
        assert user.wait_lost() == "transport error"
        stream.write(b"ignored")

    def test_idle_connection_does_not_time_out(self, connect: Connect, user: User) -> None:
        stream, peer = connect(write_timeout=0.01)
        stream.start(user)
        stream.write(b"a")
        assert peer.recv(1) == b"a"
        other_user = User()
        other, _ = connect(write_timeout=0.02)
        other.start(other_user)
        other.write(MUCH)
        other_user.wait_lost()
        assert not any(kind == "lost" for kind, _ in user)
        stream.write(b"b")
        assert peer.recv(1) == b"b"


class TestClose:
    def test_close_of_the_peer_is_transport_close(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.start(user)
        peer.sendall(b"last words")
        peer.close()
        assert user.wait_lost() == "transport close"
        assert user.data == b"last words"

    def test_reset_of_the_peer_is_transport_close(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.start(user)
        stream.write(b"never read")
        gevent.sleep(0)
        peer.close()
        assert user.wait_lost() == "transport close"

    def test_connection_lost_before_start_is_reported(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        peer.close()
        stream.write(b"answer")
        stream.start(user)
        assert user.wait_lost().startswith("transport")

    def test_close_sends_pending_data_first(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.start(user)
        stream.write(MUCH)
        stream.write(b"bye")
        stream.close()
        stream.close()
        assert read_to_end(peer) == MUCH + b"bye"
        assert all(kind == "resumed" for kind, _ in user)

    def test_close_with_unread_bytes_delivers_the_last_data(
        self, connect: Connect, user: User
    ) -> None:
        stream, peer = connect()
        stream.pause()
        stream.start(user)
        peer.sendall(b"x" * 60_000)  # more than one TLS record, of which one may be read
        for _ in range(20):
            gevent.idle()
        stream.write(b"bye")
        stream.close()
        assert peer.recv(100) == b"bye"
        # Below TLS, which reports a reset as a normal end.
        with socket.socket(fileno=os.dup(peer.fileno())) as below:
            assert below.recv(1) == b""

    def test_close_stops_callbacks(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.start(user)
        stream.close()
        peer.sendall(b"late")
        assert read_to_end(peer) == b""
        peer.close()
        gevent.idle()
        assert user == []

    def test_stream_closed_before_start_stays_closed(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.write(b"bye")
        stream.close()
        stream.start(user, b"late")
        assert read_to_end(peer) == b"bye"
        peer.close()
        gevent.idle()
        assert user == []

    def test_close_is_not_delayed_by_a_peer_that_stops_reading(
        self, connect: Connect, user: User
    ) -> None:
        stream, peer = connect(write_timeout=0.02)
        stream.start(user)
        stream.write(MUCH)
        stream.close()
        eventually(lambda: stream.unsent == 0 or getattr(stream, "_closed", False))
        with pytest.raises((ConnectionResetError, BrokenPipeError, ssl.SSLError)):
            peer.sendall(MUCH)
        assert user == []

    def test_end_closes_after_the_last_message(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.start(user)
        peer.sendall(b"last")
        user.wait_data(b"last")
        stream.write(b"answer")
        stream.end()
        assert read_to_end(peer) == b"answer"
        stream.end()
        assert [kind for kind, _ in user] == ["received"]

    def test_end_with_unread_data_does_not_lose_the_answer(
        self, connect: Connect, user: User
    ) -> None:
        stream, peer = connect()
        stream.pause()
        stream.start(user)
        peer.sendall(b"unread")
        stream.write(b"answer")
        stream.end()
        assert read_to_end(peer) == b"answer"

    def test_end_with_unsent_data_sends_it(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.start(user)
        stream.write(MUCH)
        stream.end()
        assert read_to_end(peer) == MUCH

    def test_abort_closes_immediately(self, connect: Connect, user: User) -> None:
        stream, peer = connect()
        stream.start(user)
        stream.write(MUCH)
        stream.abort()
        received = b""
        with contextlib.suppress(OSError):  # TLS without a close_notify
            received = read_to_end(peer)
        assert len(received) < len(MUCH)
        stream.write(b"ignored")
        stream.pause()
        stream.resume()
        stream.close()
        stream.abort()
        assert user == []

    def test_abort_inside_a_callback_is_possible(self, connect: Connect) -> None:
        class Aborting(User):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                stream.abort()

        user = Aborting()
        stream, peer = connect()
        stream.start(user)
        peer.sendall(b"a")
        user.wait_data(b"a")
        gevent.idle()
        assert user == [("received", b"a")]
