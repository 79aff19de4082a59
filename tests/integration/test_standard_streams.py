"""Servers whose standard streams are closed, or whose reader has exited."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent.fileobject import FileObject

from tests import raw
from tests.servers import TIMEOUT

PROGRAM = """\
from gevent import monkey; monkey.patch_all()
import logging, os, sys
if os.environ["LOGGING"]:
    logging.basicConfig(level=logging.DEBUG)
import gevent
import web
from webpy_socketio import *
exec(os.environ["BEFORE"])

web.config.debug = False

class Page:
    def GET(self):
        print("page", flush=True)
        sys.stderr.write("page\\n")
        web.debug("page")
        logging.getLogger("page").warning("page")
        return "text"

class Failing:
    def GET(self):
        raise RuntimeError("failing page")

class Greenlet:
    def GET(self):
        gevent.spawn(lambda: 1 / 0).join()
        return "text"

class Wrong:
    def GET(self):
        web.ctx.headers.append(("X-Name", "a\\n"))
        return "text"

@on_message
def message(request, socket, context, message):
    print("message", flush=True)
    sys.stderr.write("message\\n")
    if message == "fail":
        raise RuntimeError("failing handler")
    socket.send(message)

urls = ("/page", "Page", "/failing", "Failing", "/greenlet", "Greenlet", "/wrong", "Wrong")
application = web.application(urls + socketio_urls, globals())
server = SocketIOServer(("127.0.0.1", 0), application.wsgifunc())
server.start()
with open(int(os.environ["READY"]), "w") as ready:
    ready.write(str(server.server_port))
server.serve_forever()
"""

Start = Callable[..., tuple[subprocess.Popen[bytes], int]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server with these redirections; return its process and port."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    with contextlib.ExitStack() as stack:

        def run(
            redirections: str = "", before: str = "", logs: str = "", **streams: Any
        ) -> tuple[subprocess.Popen[bytes], int]:
            read, write = os.pipe()
            with FileObject(read) as ready:
                process = subprocess.Popen(
                    ["sh", "-c", f'exec "$0" "$1" {redirections}', sys.executable, str(script)],
                    env={**os.environ, "READY": str(write), "BEFORE": before, "LOGGING": logs},
                    pass_fds=(write,),
                    **streams,
                )
                stack.callback(process.wait)
                stack.callback(process.kill)
                os.close(write)
                return process, int(ready.read())

        yield run


def visit(port: int) -> None:
    """Assert that pages and sockets are served, even if they print."""
    for path, status in [
        ("/page", 200),
        ("/failing", 500),
        ("/greenlet", 200),
        ("/wrong", 500),
        ("/missing", 404),
        ("/page", 200),
    ]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        connection.request("GET", path)
        response = connection.getresponse()
        assert (path, response.status) == (path, status)
        response.read()
        connection.close()
    client = raw.WebSocket(port)
    client.connect()
    for text in ("one", "fail", "two"):
        client.emit("message", text)
    assert [client.event() for _ in range(2)] == [["message", "one"], ["message", "two"]]
    polling = raw.Polling(port)
    polling.connect()
    assert polling.send("42" + json.dumps(["message", "three"])) == (200, "ok")
    assert polling.poll() == ['42["message","three"]']


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) == 0


@pytest.mark.time_limit(60)
@pytest.mark.parametrize("logs", ["", "yes"])
class TestStreams:
    @pytest.mark.parametrize(
        "redirections",
        ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"],
    )
    def test_server_with_a_closed_or_full_stream_serves_clients(
        self, redirections: str, logs: str, start: Start
    ) -> None:
        process, port = start(redirections, logs=logs)
        visit(port)
        stop(process)

    @pytest.mark.parametrize("names", [("stderr",), ("stdout",), ("stdout", "stderr")])
    def test_server_whose_reader_has_exited_serves_clients(
        self, names: tuple[str, ...], logs: str, start: Start
    ) -> None:
        process, port = start(logs=logs, **dict.fromkeys(names, subprocess.PIPE))
        for name in names:
            getattr(process, name).close()
        visit(port)
        stop(process)

    @pytest.mark.parametrize("before", ["sys.stdout.close()", "sys.stderr.close()", "os.close(2)"])
    def test_server_that_closed_its_stream_serves_clients(
        self, before: str, logs: str, start: Start
    ) -> None:
        process, port = start(before=before, logs=logs)
        visit(port)
        stop(process)


@pytest.mark.time_limit(60)
def test_closed_descriptors_are_not_reused_for_connections(start: Start) -> None:
    process, port = start("<&- >&- 2>&-")
    visit(port)
    targets = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]  # noqa: PTH115
    assert not [target for target in targets if target.startswith("socket:")]
    stop(process)
