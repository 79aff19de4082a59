"""The tutorial, step by step: its files, its commands, and two browsers after each step."""

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

from tests.servers import Process, free_port
from tests.snippets import DOCS, Page
from tests.windows import Visitors, expect

STEPS = Page.read(DOCS / "start" / "tutorial.rst").sections()

#: The command that starts the server; all others terminate.
SERVE = ".venv/bin/python chat.py"


class TutorialRun:
    """Follows the tutorial in an empty folder, and changes only the port.

    ``pip`` finds the wheel in a local folder; its dependencies are on ``PYTHONPATH``.
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
        """Follow the tutorial up to and including a step."""
        while title not in self.done:
            step = next(step for step in STEPS if step not in self.done)
            self.follow(STEPS[step])
            self.done.append(step)  # after it has succeeded: a repeated test repeats its step

    def follow(self, step: Page) -> None:
        """Write the files of a step, and run its commands."""
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
        """Restart the program."""
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
        """Stop the program with SIGINT."""
        if self.program is not None:
            self.program.popen.send_signal(signal.SIGINT)
            assert self.program.wait() == 0, self.program.errors
            assert "Traceback" not in self.program.errors
            self.program = None


def _dependencies(folder: Path) -> Path:
    """Return a folder of links to all installed packages that the tutorial needs.

    Without webpy_socketio, which the tutorial installs, and without pytest-rerunfailures, which
    starts a thread, after which a test module cannot patch the standard library.
    """
    dependencies = folder / "dependencies"
    dependencies.mkdir()
    excluded = ("webpy_socketio", "pytest_rerunfailures")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and not any(name in entry.name for name in excluded):
            (dependencies / entry.name).symlink_to(entry)
    return dependencies


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory, wheel):
    tutorial = TutorialRun(tmp_path_factory.mktemp("tutorial"), wheel.parent)
    yield tutorial
    if tutorial.program is not None:
        tutorial.program.kill()


@pytest.fixture
def windows(chromium, tutorial):
    windows = Visitors(chromium, tutorial.url)
    yield windows
    windows.close()


def lines(page):
    return page.locator("#log li")


def send_message(page, text):
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def join(page, name):
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()
    expect(page.locator("#state")).to_have_text(f"here as {name}")


def test_step_1_installs_the_wheel(tutorial):
    tutorial.reach("1. An empty folder")
    where = "import webpy_socketio; print(webpy_socketio.__file__)"
    tutorial.do(f"cd / && {tutorial.folder}/.venv/bin/python -c '{where}' | grep /.venv/")


def test_step_2_page_reconnects(tutorial, windows):
    tutorial.reach("2. A page")
    tutorial.start()
    page = windows.open("/")
    expect(page.locator("#state")).to_have_text("connected")
    tutorial.stop()
    expect(page.locator("#state")).to_have_text("not connected")
    tutorial.start()
    expect(page.locator("#state")).to_have_text("connected")


def test_step_3_message_reaches_both_windows(tutorial, windows):
    tutorial.reach("3. Messages")
    tutorial.start()
    ann, bob = windows.open("/"), windows.open("/")
    for page in (ann, bob):
        expect(page.locator("#state")).to_have_text("connected")
    send_message(ann, "hello")
    for page in (ann, bob):
        expect(lines(page)).to_have_text(["hello"])


def test_step_4_message_stays_in_its_room(tutorial, windows):
    tutorial.reach("4. Rooms")
    tutorial.start()
    ann, bob, eve = windows.open("/"), windows.open("/"), windows.open("/")
    for page, room in ((ann, "Lobby"), (bob, "Lobby"), (eve, "Kitchen")):
        page.get_by_role("link", name=room).click()
        expect(page.locator("h1")).to_have_text(room)
        page.wait_for_load_state()  # the heading is there before the scripts have run
        assert page.evaluate("socket.subscribe(document.body.dataset.channel)") == {"ok": True}
    send_message(ann, "hello")
    expect(lines(bob)).to_have_text(["hello"])
    send_message(eve, "is this the kitchen?")
    expect(lines(eve)).to_have_text(["is this the kitchen?"])
    expect(lines(ann)).to_have_text(["hello"])
    assert eve.evaluate("socket.subscribe('room-attic')") == {
        "ok": False,
        "error": "There is no such room.",
    }


def test_step_5_messages_need_a_name(tutorial, windows):
    tutorial.reach("5. Names")
    tutorial.start()
    ann, bob = windows.open("/room-lobby"), windows.open("/room-lobby")
    assert ann.evaluate("socket.emitWithAck('message', 'too early')") == {
        "ok": False,
        "error": "Join first.",
    }
    join(ann, "Ann")
    join(bob, "Bob")
    send_message(ann, "hello")
    expect(lines(bob)).to_have_text(["Ann: hello"])
    send_message(ann, "x" * 2001)
    expect(ann.locator("#state")).to_have_text("A message has 1 to 2000 characters.")
    assert bob.evaluate("socket.emitWithAck('join', {})")["ok"] is False


def test_step_6_presence_survives_restart(tutorial, windows):
    tutorial.reach("6. Presence")
    tutorial.start()
    ann, bob = windows.open("/room-lobby"), windows.open("/room-lobby")
    join(ann, "Ann")
    join(bob, "Bob")
    for page in (ann, bob):
        expect(page.locator("#people li")).to_have_text(["Ann", "Bob"])
    tutorial.stop()
    for page in (ann, bob):
        expect(page.locator("#state")).to_have_text("not connected")
    tutorial.start()
    for page in (ann, bob):
        expect(page.locator("#people li")).to_have_text(["Ann", "Bob"])
        expect(page.locator("#state")).to_have_text(re.compile("here as"))
    assert 'Socket.IO join: Ann"' in tutorial.program.errors
    bob.close()
    expect(ann.locator("#people li")).to_have_text(["Ann"])


def test_step_7_page_broadcasts_to_rooms(tutorial, windows):
    tutorial.reach("7. Messages from a page")
    tutorial.start()
    ann, bob = windows.open("/room-lobby"), windows.open("/room-lobby")
    join(ann, "Ann")
    join(bob, "Bob")
    send_message(ann, "hello")
    expect(lines(bob)).to_have_text(["Ann: hello"])
    ringing = windows.open("/")
    ringing.get_by_role("button", name="Ring the bell").click()
    expect(ringing.locator("body")).to_have_text("Rang in: Lobby")
    for page in (ann, bob):
        expect(lines(page)).to_have_text(["Ann: hello", "The bell rings."])


def test_last_section_test_passes(tutorial):
    tutorial.stop()
    tutorial.reach("What next")


def test_every_step_is_tested():
    assert [title[:1] for title in STEPS][1:] == [*"1234567", "W"]
