"""The first program of README.rst in headless Chromium: a sent message appears in both windows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Process
from tests.snippets import ROOT, Page
from tests.windows import expect

PROGRAM = Page.read(ROOT / "README.rst").blocks("python")[0]

COMMANDS = {
    "python chat.py": ["chat.py"],
    "serve chat:app": ["-m", "webpy_socketio", "serve", "chat:app", "--port", "0"],
    "serve chat.py": ["-m", "webpy_socketio", "serve", "chat.py", "--port", "0"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert '("127.0.0.1", 8000)' in PROGRAM
    assert 'if __name__ == "__main__":' in PROGRAM
    (tmp_path / "chat.py").write_text(PROGRAM.replace("8000", "0"))
    return tmp_path


@pytest.fixture(params=COMMANDS.values(), ids=COMMANDS)
def url(request: Any, folder: Path) -> Iterator[str]:
    """Run the program and return the address that it logs."""
    script = f"exec {sys.executable} {' '.join(request.param)} 2>&1"
    process = Process(["sh", "-c", script], folder / "log", cwd=folder)
    try:
        yield process.wait_for("Serving ").partition("on ")[2].split(" ")[0]
    finally:
        process.popen.terminate()
        assert process.wait() == 0


def test_message_sent_in_one_window_appears_in_both(url: str, chromium: Any) -> None:
    console_messages: list[str] = []
    pages = [chromium.new_context().new_page() for _ in range(2)]
    for page in pages:
        page.on("console", lambda message: console_messages.append(message.text))
        page.on("pageerror", lambda error: console_messages.append(str(error)))
        page.goto(url)
        page.wait_for_function("() => socket.channels.includes('room-1')")
    for page, text in zip(pages, ("Hello", "<b>Hi</b>"), strict=True):
        page.get_by_label("Message").fill(text)
        page.keyboard.press("Enter")
        for each in pages:
            expect(each.get_by_role("listitem").last).to_have_text(text)
        expect(page.get_by_label("Message")).to_have_value("")
    for page in pages:
        expect(page.get_by_role("listitem")).to_have_text(["Hello", "<b>Hi</b>"])
    assert [text for text in console_messages if "favicon" not in text and "404" not in text] == []
