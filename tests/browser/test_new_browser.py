"""The application created by ``new``, in two windows of headless Chromium."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Process
from tests.windows import expect
from webpy_socketio.cli import main

#: Serves on a free port, and prints it.
PROGRAM = """\
from gevent import monkey; monkey.patch_all()
import sys
from app import SocketIOServer, app
server = SocketIOServer(None, app.wsgifunc(), port=0, log=None)
server.start()
print("PORT", server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def port(tmp_path: Path, monkeypatch: Any) -> Iterator[int]:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "chat"]) == 0
    monkeypatch.chdir("chat")
    process = Process([sys.executable, "-c", PROGRAM], tmp_path / "log")
    try:
        yield int(process.wait_for("PORT "))
    finally:
        process.popen.terminate()
        process.kill()


def test_starter_exchanges_messages_between_windows(port: int, chromium: Any) -> None:
    console: list[str] = []
    pages = [chromium.new_context().new_page() for _ in range(2)]
    for page in pages:
        page.on("console", lambda message: console.append(message.text))
        page.on("pageerror", lambda error: console.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("#state")).to_have_text("Connected.")
        # The answer to this invalid message also proves that the subscription is complete.
        page.fill("#text", " ")
        page.click("button")
        expect(page.locator("#state")).to_have_text("Enter a message.")
    pages[0].fill("#text", "<b>hello</b>")
    pages[0].click("button")
    for page in pages:
        expect(page.locator("#log li")).to_have_text(["<b>hello</b>"])
    expect(pages[0].locator("#text")).to_have_value("")
    assert [text for text in console if not re.search("favicon|404", text)] == []
