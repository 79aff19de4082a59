"""The tutorial, followed to the letter: its files, its commands, and real browsers after each step."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from .servers import Process
from .snippets import DOCS, Page
from .windows import Windows, _chromium, _own_patience, expect

__all__ = ["_chromium", "_own_patience"]  # fixtures

STEPS = Page.read(DOCS / "tutorial.rst").sections()

#: The command that serves; all others end by themselves.
SERVE = ".venv/bin/python chat.py"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Learner:
    """Somebody who does what the tutorial says, in an empty folder, and changes nothing but the port.

    ``pip`` finds the wheel in a folder instead of a registry, and what that depends on is here already.
    """

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder = folder / "chat"
        self.folder.mkdir()
        self.port = free_port()
        self.log = folder / "chat.log"
        self.env = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONPATH": str(_dependencies(folder)),
        }
        self.program: Process | None = None
        self.done: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reach(self, title: str) -> None:
        """Follow the tutorial until this step is done."""
        while title not in self.done:
            step = next(step for step in STEPS if step not in self.done)
            self.done.append(step)
            self.follow(STEPS[step])

    def follow(self, step: Page) -> None:
        """Write the files of a step, and give its commands."""
        for name, text in step.files().items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.replace("8000", str(self.port)), encoding="utf-8")
        for block in step.blocks("console"):
            for line in block.splitlines():
                command = line.removeprefix("$ ")
                assert command != line, f"not a command: {line}"
                if command != SERVE:
                    self.do(command)

    def do(self, command: str) -> None:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env={
                **os.environ,
                **self.env,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start the program again."""
        self.stop()
        command = shlex.join(["cd", str(self.folder)]) + f" && exec {SERVE}"
        self.program = Process(["bash", "-c", command], self.log, self.env)
        while True:  # until it listens
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert self.program.popen.poll() is None, self.program.errors

    def stop(self) -> None:
        """Ctrl-C."""
        if self.program is not None:
            self.program.popen.send_signal(signal.SIGINT)
            assert self.program.wait() == 0, self.program.errors
            assert "Traceback" not in self.program.errors
            self.program = None


def _dependencies(folder: Path) -> Path:
    """What is installed here, but for webpy_socketio."""
    dependencies = folder / "dependencies"
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "webpy_socketio" not in entry.name and entry.suffix != ".pth":
            (dependencies / entry.name).symlink_to(entry)
    return dependencies


@pytest.fixture(scope="module")
def learner(tmp_path_factory, wheel):
    learner = Learner(tmp_path_factory.mktemp("tutorial"), wheel.parent)
    yield learner
    if learner.program is not None:
        learner.program.kill()


class Visitors(Windows):
    """Windows of a site that has no icon, which Chromium asks for by itself."""

    def _console(self, message):
        if not message.location["url"].endswith("/favicon.ico"):
            super()._console(message)


@pytest.fixture
def windows(chromium, learner):
    windows = Visitors(chromium, learner.url)
    yield windows
    windows.close()


def lines(page):
    return page.locator("#log li")


def say(page, text):
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def join(page, name):
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()
    expect(page.locator("#state")).to_have_text(f"here as {name}")


def test_1_an_empty_folder(learner):
    learner.reach("1. An empty folder")
    where = "import webpy_socketio; print(webpy_socketio.__file__)"
    learner.do(f"cd / && {learner.folder}/.venv/bin/python -c '{where}' | grep /.venv/")


def test_2_a_page(learner, windows):
    learner.reach("2. A page")
    learner.start()
    page = windows.open("/")
    expect(page.locator("#state")).to_have_text("connected")
    learner.stop()
    expect(page.locator("#state")).to_have_text("not connected")
    learner.start()
    expect(page.locator("#state")).to_have_text("connected")


def test_3_everybody_hears_everybody(learner, windows):
    learner.reach("3. Everybody hears everybody")
    learner.start()
    ann, bob = windows.open("/"), windows.open("/")
    for page in (ann, bob):
        expect(page.locator("#state")).to_have_text("connected")
    say(ann, "hello")
    for page in (ann, bob):
        expect(lines(page)).to_have_text(["hello"])


def test_4_rooms(learner, windows):
    learner.reach("4. Rooms")
    learner.start()
    ann, bob, eve = windows.open("/"), windows.open("/"), windows.open("/")
    for page, room in ((ann, "Lobby"), (bob, "Lobby"), (eve, "Kitchen")):
        page.get_by_role("link", name=room).click()
        expect(page.locator("h1")).to_have_text(room)
        assert page.evaluate("socket.subscribe(document.body.dataset.channel)") == {"ok": True}
    say(ann, "hello")
    expect(lines(bob)).to_have_text(["hello"])
    say(eve, "nobody here?")
    expect(lines(eve)).to_have_text(["nobody here?"])
    expect(lines(ann)).to_have_text(["hello"])
    assert eve.evaluate("socket.subscribe('room-attic')") == {
        "ok": False,
        "error": "There is no such room.",
    }


def test_5_names(learner, windows):
    learner.reach("5. Names")
    learner.start()
    ann, bob = windows.open("/room-lobby"), windows.open("/room-lobby")
    assert ann.evaluate("socket.emitWithAck('message', 'too early')") == {
        "ok": False,
        "error": "Join first.",
    }
    join(ann, "Ann")
    join(bob, "Bob")
    say(ann, "hello")
    expect(lines(bob)).to_have_text(["Ann: hello"])
    say(ann, "x" * 2001)
    expect(ann.locator("#state")).to_have_text("A message has 1 to 2000 characters.")
    assert bob.evaluate("socket.emitWithAck('join', {})")["ok"] is False


def test_6_who_is_here(learner, windows):
    learner.reach("6. Who is here")
    learner.start()
    ann, bob = windows.open("/room-lobby"), windows.open("/room-lobby")
    join(ann, "Ann")
    join(bob, "Bob")
    for page in (ann, bob):
        expect(page.locator("#people li")).to_have_text(["Ann", "Bob"])
    learner.stop()
    for page in (ann, bob):
        expect(page.locator("#state")).to_have_text("not connected")
    learner.start()
    for page in (ann, bob):
        expect(page.locator("#people li")).to_have_text(["Ann", "Bob"])
        expect(page.locator("#state")).to_have_text(re.compile("here as"))
    assert 'Socket.IO join: Ann"' in learner.program.errors
    bob.close()
    expect(ann.locator("#people li")).to_have_text(["Ann"])


def test_7_from_a_page(learner, windows):
    learner.reach("7. From a page")
    learner.start()
    ann, bob = windows.open("/room-lobby"), windows.open("/room-lobby")
    join(ann, "Ann")
    join(bob, "Bob")
    say(ann, "hello")
    expect(lines(bob)).to_have_text(["Ann: hello"])
    ringing = windows.open("/")
    ringing.get_by_role("button", name="Ring the bell").click()
    expect(ringing.locator("body")).to_have_text("Heard in: Lobby")
    for page in (ann, bob):
        expect(lines(page)).to_have_text(["Ann: hello", "The bell rings."])


def test_what_now(learner):
    learner.stop()
    learner.reach("What now")


def test_every_step_is_here():
    assert [title[:1] for title in STEPS][1:] == [*"1234567", "W"]
