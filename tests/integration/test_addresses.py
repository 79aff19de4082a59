"""Addresses: their format, and the address that a server logs."""

from __future__ import annotations

import contextlib
import http.client
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import make_certificate
from tests.commands import APP, command
from tests.servers import Process, free_port
from webpy_socketio.addresses import is_wildcard, location, shown

pytestmark = pytest.mark.time_limit(60)


@pytest.mark.parametrize(
    ("address", "tls", "expected"),
    [
        (("127.0.0.1", 8000), False, "http://127.0.0.1:8000/"),
        (("127.0.0.1", 8443), True, "https://127.0.0.1:8443/"),
        (("::1", 8000, 0, 0), False, "http://[::1]:8000/"),
        (("0.0.0.0", 8000), False, "http://localhost:8000/"),
        (("::", 8000, 0, 0), True, "https://localhost:8000/"),
        ("/run/chat.sock", False, "unix:/run/chat.sock"),
        (b"\0chat", False, "unix:@chat"),
    ],
)
def test_location_of_an_address_is_its_url(address: object, tls: bool, expected: str) -> None:
    assert location(address, tls) == expected


def test_shown_address_of_ipv6_has_brackets_and_no_scope() -> None:
    assert shown(("fe80::1", 8000, 0, 2)) == "[fe80::1]:8000"
    assert not is_wildcard(("fe80::1", 8000, 0, 2))


Start = Callable[..., Process]

#: Writes standard error to standard output, whose lines a test awaits.
MERGED = "import os; os.dup2(1, 2)\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program with ``start(listener, before=, keywords=)``; return its process."""
    processes: list[Process] = []

    def begin(listener: str, before: str = "", keywords: str = "") -> Process:
        source = APP.replace(
            "SocketIOServer(None, app.wsgifunc())",
            f"SocketIOServer({listener}, app.wsgifunc(){keywords})",
        ).replace('if __name__ == "__main__":\n', f'if __name__ == "__main__":\n    {before}\n')
        script = tmp_path / "chat.py"
        script.write_text(source.replace("import web\n", f"{MERGED}import web\n"))
        command = [sys.executable, "-W", "error", str(script)]
        processes.append(Process(command, tmp_path / "log", cwd=tmp_path, fork=True))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()


def stop(process: Process) -> None:
    process.popen.send_signal(signal.SIGINT)
    assert process.wait() == 0


def until_answered(port: int) -> None:
    """Wait until a server responds on this port; its signal handlers are then installed."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/nothing")
            assert connection.getresponse().status == 404
            connection.close()
            return


LOOPBACK = '("127.0.0.1", 0)'


class TestServeForever:
    def test_serve_forever_without_logging_configuration_writes_the_address_to_stderr(
        self, start: Start
    ) -> None:
        process = start(LOOPBACK)
        line = process.next_line()
        port = line.removeprefix("Serving on http://127.0.0.1:").removesuffix("/ (Ctrl-C stops)")
        assert int(port) > 0, line
        stop(process)

    def test_serve_forever_with_logging_configuration_logs_the_address_once_at_info(
        self, start: Start
    ) -> None:
        configure = 'import logging; logging.basicConfig(level="INFO")'
        process = start(LOOPBACK, configure)
        assert process.next_line().startswith("INFO:webpy_socketio:Serving on http://127.0.0.1:")
        stop(process)
        with pytest.raises(AssertionError, match="ended with status 0"):
            process.next_line()

    @pytest.mark.parametrize(
        ("before", "keywords"),
        [
            ("import logging; logging.basicConfig()", ", log=io.StringIO()"),
            ("pass", ", log=None"),
            ("os.close(2)", ""),
        ],
        ids=["level above INFO", "no request log", "closed stderr"],
    )
    def test_serve_forever_without_stderr_serves_and_writes_nothing(
        self, before: str, keywords: str, start: Start
    ) -> None:
        port = free_port()
        process = start(f'("127.0.0.1", {port})', f"import io, os; {before}", keywords)
        until_answered(port)
        stop(process)
        with pytest.raises(AssertionError, match="ended with status 0"):
            process.next_line()

    def test_serve_forever_on_ipv6_logs_address_with_brackets(self, start: Start) -> None:
        process = start('("::1", 0)')
        assert process.next_line().startswith("Serving on http://[::1]:")
        stop(process)

    def test_serve_forever_on_wildcard_address_logs_localhost(self, start: Start) -> None:
        process = start('("", 0)')
        line = process.next_line()
        assert line.startswith("Serving on http://localhost:")
        assert line.endswith("/ (all addresses of this machine; Ctrl-C stops)")
        stop(process)

    def test_serve_forever_with_certificate_logs_https_url(
        self, start: Start, tmp_path: Path
    ) -> None:
        certificate, key = make_certificate(tmp_path)
        process = start(LOOPBACK, keywords=f", certfile={str(certificate)!r}, keyfile={str(key)!r}")
        assert process.next_line().startswith("Serving on https://127.0.0.1:")
        stop(process)

    def test_serve_forever_on_unix_socket_logs_its_path(self, start: Start, tmp_path: Path) -> None:
        path = str(tmp_path / "chat.sock")
        before = (
            "from gevent import socket; listener = socket.socket(socket.AF_UNIX); "
            f"listener.bind({path!r}); listener.listen()"
        )
        process = start("listener", before)
        assert process.next_line() == f"Serving on unix:{path} (Ctrl-C stops)"
        stop(process)


class TestCommandLine:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", ""])
    def test_serve_command_prints_the_address_once(self, host: str, tmp_path: Path) -> None:
        (tmp_path / "chat.py").write_text(
            APP + 'import logging\nlogging.basicConfig(level="INFO")\n'
        )
        words = command("serve", "chat:app", "--host", host, "--port", "0")
        process = Process(words, tmp_path / "log", cwd=tmp_path, fork=True)
        try:
            url = process.wait_for("Serving chat:app on ")
            assert url.startswith(
                {"": "http://localhost:", "::1": "http://[::1]:"}.get(host, "http://127.0.0.1:")
            )
            process.wait_for("  Ctrl-C stops it")
            stop(process)
            assert "Serving" not in process.errors
        finally:
            process.kill()
