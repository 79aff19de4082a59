"""Bodies that cannot be stored: their clients get 507 or 503, all others are served."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import Http, Running

#: Bytes that exceed the memory limit, and the file limits below.
LARGE = b"x" * 4_000_000

LIMIT = 1_000_000


def upload(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/engine.io/":
        environ["webpy_socketio.take_over"] = True
        start_response("200 OK", [])
        return []
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [])
    return [str(size).encode()]


def send(http: Http, chunked: bool, body: bytes = LARGE) -> tuple[int, str]:
    """Send a body completely, then read the response."""
    if chunked:
        framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        answer = http.request("POST", "/upload", "Transfer-Encoding: chunked", body=framed)
    else:
        answer = http.request("POST", "/upload", f"Content-Length: {len(body)}", body=body)
    return answer[0], answer[2].decode()


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Temporary files go to a file system that is smaller than `LARGE`."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={LIMIT}", "tmpfs", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs needs root")
    try:
        with temporary_files_in(path):
            yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def small_files(path: Path) -> Iterator[None]:
    """Files of this process cannot grow beyond `LIMIT`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def no_folder(path: Path) -> contextlib.AbstractContextManager[None]:
    """Temporary files go to a folder that does not exist."""
    return temporary_files_in(path / "missing")


Fault = Callable[[Path], contextlib.AbstractContextManager[None]]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "cause"),
    [
        (small_disk, 507, os.strerror(errno.ENOSPC)),
        (small_files, 507, os.strerror(errno.EFBIG)),
        (no_folder, 503, os.strerror(errno.ENOENT)),
    ],
)
class TestStorage:
    def test_body_that_cannot_be_stored_is_answered_and_logged(
        self,
        fault: Fault,
        status: int,
        cause: str,
        chunked: bool,
        run: Callable[..., Running],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server = run(None, upload)
        with fault(tmp_path):
            answer, text = send(server.http(), chunked)
        assert answer == status
        assert "cannot be stored" in text
        assert "TMPDIR" not in text, "the client does not learn about the server's disk"
        (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
        message = record.getMessage()
        assert message.startswith("POST /upload HTTP/1.1: answered 50")
        assert cause in message
        assert "TMPDIR" in message

    def test_other_clients_are_served_meanwhile_and_afterwards(
        self,
        fault: Fault,
        status: int,
        cause: str,
        chunked: bool,
        run: Callable[..., Running],
        tmp_path: Path,
    ) -> None:
        server = run(None, upload)
        with fault(tmp_path):
            failing = server.http()
            failing.send("POST", "/upload", f"Content-Length: {len(LARGE)}", body=LARGE[:2_000_000])
            assert send(server.http(), chunked, b"small") == (200, "5")
            websocket = server.websocket()
            websocket.send("4hello")
            server.receiver.wait_for(("message", "hello"))
            failing.sock.sendall(LARGE[2_000_000:])
            assert failing.response()[0] == status
            assert send(server.http(), chunked, b"small") == (200, "5")
        assert send(server.http(), chunked) == (200, str(len(LARGE)))


def test_poll_body_that_cannot_be_stored_ends_its_session(
    run: Callable[..., Running], tmp_path: Path
) -> None:
    server = run(None, upload)
    polling = server.polling()
    with no_folder(tmp_path):
        assert polling.send("4" + "x" * 600_000)[0] == 503
    assert server.receiver.wait_closed() == "transport error"
