"""Bodies that cannot be stored: their clients get 507 or 503, all others are served."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Journal

from .conftest import Http, Running

#: More than is kept in memory, and than the limits below allow in a file.
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
    """Send a body, and read the answer only then."""
    if chunked:
        framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        answer = http.request("POST", "/upload", "Transfer-Encoding: chunked", body=framed)
    else:
        answer = http.request("POST", "/upload", f"Content-Length: {len(body)}", body=body)
    return answer[0], answer[2].decode()


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Temporary files go to a file system that is smaller than `LARGE`."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={LIMIT}", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs needs root")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of this process cannot grow beyond `LIMIT`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary files go to a folder that does not exist."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "cause"),
    [
        ("small_disk", 507, os.strerror(28)),
        ("small_files", 507, os.strerror(27)),
        ("no_folder", 503, os.strerror(2)),
    ],
)
class TestStorage:
    def test_body_that_cannot_be_stored_is_answered_and_logged(
        self,
        fault: str,
        status: int,
        cause: str,
        chunked: bool,
        run: Callable[..., Running],
        request: pytest.FixtureRequest,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        request.getfixturevalue(fault)
        server = run(None, upload)
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
        fault: str,
        status: int,
        cause: str,
        chunked: bool,
        run: Callable[..., Running],
        request: pytest.FixtureRequest,
    ) -> None:
        request.getfixturevalue(fault)
        server = run(None, upload)
        failing = server.http()
        failing.send("POST", "/upload", f"Content-Length: {len(LARGE)}", body=LARGE[:2_000_000])
        assert send(server.http(), chunked, b"small") == (200, "5")
        websocket = server.websocket()
        websocket.send("4hello")
        server.receiver.wait_for(("message", "hello"))
        failing.sock.sendall(LARGE[2_000_000:])
        assert failing.response()[0] == status
        assert send(server.http(), chunked, b"small") == (200, "5")


def test_disk_that_has_room_again_stores_bodies_again(
    run: Callable[..., Running], small_disk: Path
) -> None:
    server = run(None, upload)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (LIMIT - 100_000))
    assert send(server.http(), False, b"x" * 500_000)[0] == 507
    filler.unlink()
    assert send(server.http(), False, b"x" * 500_000) == (200, "500000")


def test_poll_body_that_cannot_be_stored_ends_its_session(
    run: Callable[..., Running], no_folder: None, journal: Journal
) -> None:
    server = run(None, upload)
    polling = server.polling()
    assert polling.send("4" + "x" * 600_000)[0] == 503
    assert server.receiver.wait_closed() == "transport error"
