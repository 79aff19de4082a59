"""Batches of the native core in processes: io_uring, forks, threads, and systems without it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from webpy_socketio.engine import NATIVE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NATIVE, reason="the native core is not built here"),
]

#: `send(text)` sends to eight sockets and checks that each has received the text once. `rings()`
#: returns the number of open rings, and `submitted()` the number of sends that the only one got.
BEGINNING = """\
import os, resource, socket, sys, threading
from pathlib import Path
from webpy_socketio.engine.io import _native

class Outbox(_native.OutboxState):
    __slots__ = ()

def outbox_with(try_send):
    outbox = Outbox()
    outbox.try_send, outbox.pending, outbox.unsent, outbox.closed = try_send, (), 0, False
    return outbox

pairs = [socket.socketpair() for _ in range(8)]
outboxes = []
for ours, theirs in pairs:
    ours.setblocking(False)
    outboxes.append(outbox_with(_native.open_sender(ours)))

def send(text):
    assert list(_native.send_to_all(outboxes, text, None)) == []
    assert [theirs.recv(99) for _, theirs in pairs] == [text] * 8

def ring_descriptors():
    paths = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [int(path.name) for path in paths if "io_uring" in os.readlink(path)]

def rings():
    return len(ring_descriptors())

def submitted():
    [ring] = ring_descriptors()
    lines = Path(f"/proc/self/fdinfo/{ring}").read_text().splitlines()
    [tail] = [line.split()[1] for line in lines if line.startswith("SqTail:")]
    return int(tail)

"""


def run(program: str, **env: str) -> list[str]:
    """Run a program in a new process, and return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + program],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def _has_io_uring() -> None:
    if run("send(b'one'); print(rings())") != ["1"]:
        pytest.skip("io_uring is not available here (Linux 6.1 or later, and not forbidden)")


@pytest.mark.usefixtures("_has_io_uring")
class TestRing:
    def test_environment_variable_disables_it(self) -> None:
        assert run("send(b'one'); print(rings())", WEBPY_SOCKETIO_IO_URING="0") == ["0"]

    def test_sends_work_if_it_cannot_be_opened(self) -> None:
        program = """
used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1, used - 1))
send(b"one")
print("sent")
"""
        assert run(program) == ["sent"]

    def test_forked_process_opens_its_own(self) -> None:
        program = """
send(b"parent")
child = os.fork()
if child == 0:
    send(b"child")
    os._exit(rings())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
send(b"parent again")
print(rings())
"""
        assert run(program) == ["1"]

    def test_program_started_by_the_process_does_not_inherit_it(self) -> None:
        program = """
import subprocess
send(b"one")
listing = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True)
print(listing.stdout.count("io_uring"))
"""
        assert run(program) == ["0"]

    def test_other_thread_sends_without_it(self) -> None:
        program = """
send(b"main")
thread = threading.Thread(target=send, args=(b"other",))
thread.start()
thread.join()
send(b"main again")
print(rings())
"""
        assert run(program) == ["1"]

    def test_process_forked_while_sending_does_not_use_the_ring_of_its_parent(self) -> None:
        program = """
def fork(data):
    global child
    child = os.fork()
    return len(data)

send(b"before")
left = _native.send_to_all([*outboxes[:4], outbox_with(fork), *outboxes[4:]], b"4a", None)
if child == 0:
    os._exit(len(left))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert list(left) == []
print(*[theirs.recv(99).decode() for _, theirs in pairs])
send(b"after")
"""
        assert run(program) == ["4a"] * 4 + ["4a4a"] * 4

    def test_ring_that_fails_while_sending_is_not_used_again(self) -> None:
        program = """
def fail(data):
    [ring] = ring_descriptors()
    os.close(ring)
    left.extend(_native.send_to_all(outboxes, b"4b", None))
    return len(data)

left = []
send(b"before")
left.extend(_native.send_to_all([*outboxes[:4], outbox_with(fail), *outboxes[4:]], b"4a", None))
assert left == [(outbox, 0) for outbox in outboxes]
print(*[theirs.recv(99).decode() for _, theirs in pairs])
send(b"after")
"""
        assert run(program) == ["4a"] * 8

    def test_ring_of_an_ended_thread_is_replaced(self) -> None:
        program = """
for _ in range(2):
    thread = threading.Thread(target=send, args=(b"thread",))
    thread.start()
    thread.join()
    while len(os.listdir("/proc/self/task")) > 1:  # join() returns before the thread has ended
        os.sched_yield()
    print(submitted())
send(b"main")
send(b"main")
print(submitted())
"""
        assert run(program) == ["8", "8", "16"]
