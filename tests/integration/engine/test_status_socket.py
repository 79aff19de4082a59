"""Status socket: queries, their limits, and its file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import gevent
import gevent.event
import pytest
from gevent import socket

from webpy_socketio.engine.workers import status_socket
from webpy_socketio.engine.workers.runtime_folder import RuntimeFolder, make_runtime_folder
from webpy_socketio.engine.workers.status_socket import QueryError, StatusSocket, query


@pytest.fixture
def folder() -> Iterator[RuntimeFolder]:
    folder = make_runtime_folder()
    yield folder
    # Before it is unlocked: other tests start servers, which remove unused folders.
    for path in folder.path.iterdir():
        path.unlink()
    folder.path.rmdir()
    folder.close()


def answer(name: str) -> bytes:
    if name == "wait":
        gevent.event.Event().wait()
    if name == "fail":
        raise ValueError("the details")
    return {"hello": b"world" * 100_000, "empty": b""}[name]


@pytest.fixture
def status(folder: RuntimeFolder) -> Iterator[StatusSocket]:
    status = StatusSocket(folder.path, 7, answer)
    yield status
    status.close()


class TestQuery:
    def test_query_returns_the_answer(self, status: StatusSocket) -> None:
        assert query(status.path, "hello", 5) == b"world" * 100_000
        assert query(status.path, "empty", 5) == b""

    def test_unknown_query_raises_error(self, status: StatusSocket) -> None:
        with pytest.raises(QueryError, match="'nonsense' is unknown"):
            query(status.path, "nonsense", 5)

    def test_failure_is_logged_without_details_for_the_other_end(
        self, status: StatusSocket, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(QueryError, match=r"^internal error$"):
            query(status.path, "fail", 5)
        assert "the details" in caplog.text

    def test_missing_answer_raises_error_after_the_timeout(self, status: StatusSocket) -> None:
        with pytest.raises(QueryError, match=r"no answer within 0.05 s"):
            query(status.path, "wait", 0.05)

    def test_missing_process_raises_error(self, folder: RuntimeFolder) -> None:
        with pytest.raises(QueryError, match="No such file"):
            query(folder.path / "status-1", "hello", 5)

    def test_answer_of_another_version_raises_error(
        self, status: StatusSocket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reply = StatusSocket._reply

        def newer(self: StatusSocket, line: str) -> bytes:
            return reply(self, line).replace(b'"format": 1', b'"format": 2')

        monkeypatch.setattr(StatusSocket, "_reply", newer)
        with pytest.raises(QueryError, match="another version"):
            query(status.path, "hello", 5)

    def test_answer_beyond_the_limit_raises_error(
        self, status: StatusSocket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(status_socket, "MAX_ANSWER", 1000)
        with pytest.raises(QueryError, match="exceeds 1000 bytes"):
            query(status.path, "hello", 5)


class TestLimits:
    @pytest.mark.parametrize("sent", [b"", b"x" * 10_000, b"\xff\n"])
    def test_client_without_a_query_is_closed(
        self, sent: bytes, status: StatusSocket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(status_socket, "_READ_TIMEOUT", 0.05)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(status.path))
            client.sendall(sent)
            with contextlib.suppress(ConnectionResetError):  # it had sent more than was read
                assert client.recv(1) == b""

    def test_client_that_does_not_read_is_closed(
        self, status: StatusSocket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(status_socket, "_ANSWER_TIMEOUT", 0.05)
        asked = gevent.event.Event()

        def answer_much(name: str) -> bytes:
            asked.set()
            return b"x" * 10_000_000

        other = StatusSocket(status.path.parent, 8, answer_much)
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(other.path))
                client.sendall(b"hello\n")
                asked.wait()
                assert other._server is not None
                while other._server.pool:
                    gevent.sleep(0.01)
        finally:
            other.close()

    def test_other_user_is_rejected(
        self,
        status: StatusSocket,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(status_socket, "_is_allowed", lambda link: False)
        with pytest.raises(QueryError, match=r"closed the connection|Connection reset"):
            query(status.path, "hello", 5)
        assert "another user" in caplog.text


class TestFile:
    def test_socket_is_removed_when_closed(self, folder: RuntimeFolder) -> None:
        status = StatusSocket(folder.path, 1, answer)
        assert status.path.name == "status-1"
        status.close()
        assert not status.path.exists()

    def test_removed_socket_is_created_again(
        self, folder: RuntimeFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(status_socket, "_CHECK_INTERVAL", 0.01)
        status = StatusSocket(folder.path, 1, answer)
        try:
            status.path.unlink()
            while not status.path.exists():
                gevent.sleep(0.01)
            assert query(status.path, "empty", 5) == b""
        finally:
            status.close()

    def test_folder_with_the_socket_of_a_killed_process_is_removed(self) -> None:
        killed = make_runtime_folder()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(killed.path / "status-0"))
        killed.close()
        folder = make_runtime_folder()
        try:
            assert not killed.path.exists()
        finally:
            folder.path.rmdir()
            folder.close()
