"""Programs that start by a fork, in a tenth of the time of a new interpreter.

A process imports the libraries of the tests' servers once, and forks for each program. In the new
process a script runs as it does in ``python script.py``, and the command line as it does in
``python -m webpy_socketio``, but both find these modules imported. The workers of a supervisor
start by a fork of the same process.

``python tests/preloaded.py`` is that process. Its standard input is a Unix socket for requests.
"""

from __future__ import annotations

import _socket
import atexit
import contextlib
import fcntl
import functools
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from gevent.fileobject import FileObject

#: Maximum size of a request in bytes; it contains the environment of a program.
REQUEST_SIZE = 1024 * 1024

#: Maximum number of descriptors in a request: the streams, a pipe for the status, and others.
DESCRIPTORS = 8

#: Lowest number to which a new process moves its descriptors before it gives them their numbers.
HIGH = 100

#: A process id or an exit status, as the process that forks reports it.
NUMBER = struct.Struct("i")

#: Modules that most servers of the tests import.
MODULES = [
    *("web", "webpy_socketio", "webpy_socketio.plugins.history", "webpy_socketio.plugins.presence"),
    *("mako.template", "mako.lookup", "web.contrib.template", "redis", "sqlite3"),
    *(f"webpy_socketio.cli.{name}" for name in ("doctor", "load", "new", "routes", "serve")),
]

#: The words of a command that make warnings errors.
STRICT = ["-W", "error"]

#: The words of a command that runs the command line.
COMMAND_LINE = ["-m", "webpy_socketio"]


def prepare() -> None:
    """Start the process that forks; the first program then need not wait for it."""
    if hasattr(os, "pidfd_open"):
        _server()


def can_run(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Return whether a command can start by a fork, with these additional variables.

    The program must patch with gevent first. Variables of the interpreter, of gevent and of the
    package are read when these are imported.
    """
    target = _target(command)
    return (
        hasattr(os, "pidfd_open")
        and command[0] == sys.executable
        and (target[0][0] != "-" or target[0] == "-c" or target[:2] == COMMAND_LINE)
        and not any(
            name.startswith(("GEVENT", "PYTHON", "WEBPY_SOCKETIO")) and name != "PYTHONPATH"
            for name in env
        )
    )


def _target(command: Sequence[str]) -> list[str]:
    """Return the words of a command that follow the options of the interpreter."""
    words = list(command[1:])
    return words[len(STRICT) :] if words[: len(STRICT)] == STRICT else words


class Program:
    """A running program, with the part of `subprocess.Popen` that the tests use.

    ``streams`` are the descriptors of its standard streams.
    """

    def __init__(
        self,
        command: Sequence[str],
        streams: tuple[int, int, int],
        env: Mapping[str, str],
        cwd: Path | None,
        *,
        requests: Any = None,
        passed: Sequence[int] = (),
    ) -> None:
        self.args = list(command)
        self.returncode: int | None = None
        self.stdin: Any = None
        self.stdout: Any = None
        self._status, status = os.pipe()
        request = {
            "command": self.args,
            "env": dict(env),
            "cwd": str(cwd or Path.cwd()),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "passed": list(passed),
        }
        descriptors = [*streams, status, *passed]
        try:
            socket.send_fds(requests or _server(), [json.dumps(request).encode()], descriptors)
        finally:
            os.close(status)
        self.pid = self._read()

    @classmethod
    def piped(
        cls, command: Sequence[str], errors: IO[bytes], env: Mapping[str, str], cwd: Path | None
    ) -> Program:
        """Start a program whose input and output are pipes."""
        stdin, into = os.pipe()
        out, stdout = os.pipe()
        try:
            program = cls(command, (stdin, stdout, errors.fileno()), env, cwd)
        finally:
            for descriptor in (stdin, stdout):
                os.close(descriptor)
        # Cooperative, as the pipes of gevent's `subprocess`.
        program.stdin = FileObject(into, "w", encoding="utf-8")
        program.stdout = FileObject(out, "r", encoding="utf-8")
        return program

    def poll(self) -> int | None:
        """Return the exit status, or None while the program runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the program has ended, and return its exit status."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            if self.returncode is None:  # another greenlet may have called `poll`
                self._end()
        assert self.returncode is not None
        return self.returncode

    def _end(self) -> None:
        self.returncode = self._read()
        os.close(self._status)

    def _read(self) -> int:
        data = os.read(self._status, NUMBER.size)
        assert data, "the process that forks has ended"
        return int(NUMBER.unpack(data)[0])

    def send_signal(self, number: int) -> None:
        """Send a signal unless the program has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # ended since
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a program until it ends, without input, and return its output."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with Path(os.devnull).open("rb") as nothing:
            streams = (nothing.fileno(), out.fileno(), err.fileno())
            program = Program(command, streams, env, cwd)
        try:
            status = program.wait(timeout)
        finally:
            program.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(
            program.args, status, out.read().decode(), err.read().decode()
        )


@functools.cache
def _server() -> socket.socket:
    """Start the process that forks; it ends with this one."""
    global _pid
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    atexit.register(ours.close)
    command = [sys.executable, __file__]
    with theirs:
        _pid = subprocess.Popen(
            command, stdin=theirs.fileno(), env={**os.environ, "PYTHONUNBUFFERED": "1"}
        ).pid
    return ours


#: The id of the process that forks; 0 before it is started.
_pid = 0


def workers(pid: int) -> set[int]:
    """Return the ids of the workers, started by a fork, of a supervisor that runs.

    They are no children of the supervisor, but have its current folder.
    """
    if not _pid:
        return set()
    forked = {int(word) for word in Path(f"/proc/{_pid}/task/{_pid}/children").read_text().split()}
    return {each for each in forked - {pid} if _folder(each) == _folder(pid) != ""}


def _folder(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:  # it has ended
        return ""


def _serve() -> dict[str, Any]:
    """Fork for each request, and report exit statuses; return the request in a new process."""
    from gevent import monkey

    # Native functions: gevent's would create a hub, which cannot be shared with a fork.
    native: Any = monkey.get_original("socket", "socket")
    poll: Any = monkey.get_original("select", "poll")
    fork, waitpid = monkey.get_original("os", ["fork", "waitpid"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and then this process
    control = native(fileno=0)
    control.setblocking(True)
    #: Sockets for requests, of the tests and of supervisors, by descriptor.
    sources: dict[int, Any] = {0: control}
    waiting = poll()
    waiting.register(0, select.POLLIN)
    children: dict[int, tuple[int, int]] = {}
    while True:
        for ready, _ in waiting.poll():
            if ready in children:
                pid, status = children.pop(ready)
                waiting.unregister(ready)
                os.close(ready)
                _report(status, os.waitstatus_to_exitcode(waitpid(pid, 0)[1]))
                os.close(status)
                continue
            source = sources[ready]
            data, descriptors, _, _ = socket.recv_fds(source, REQUEST_SIZE, DESCRIPTORS)
            if not data:
                if source is control:
                    os._exit(0)
                waiting.unregister(ready)
                del sources[ready]
                source.close()
                continue
            request = json.loads(data)
            status = descriptors.pop(3)
            pair = []
            if _target(request["command"])[:2] == COMMAND_LINE:  # it may start workers
                pair = _socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = fork()
            if pid == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                control.detach()  # its descriptor is the standard input
                for each in (*pair[:1], *sources.values()):
                    each.close()
                for descriptor in (status, *children, *(s for _, s in children.values())):
                    os.close(descriptor)
                if pair:
                    request["requests"] = pair[1].detach()
                if source is not control:  # a worker
                    os.setsid()
                _arrange(dict(zip([0, 1, 2, *request["passed"]], descriptors, strict=True)))
                return dict(request)
            for descriptor in descriptors:
                os.close(descriptor)
            _report(status, pid)
            watched = os.pidfd_open(pid)
            children[watched] = pid, status
            waiting.register(watched, select.POLLIN)
            if pair:
                pair[1].close()
                sources[pair[0].fileno()] = pair[0]
                waiting.register(pair[0], select.POLLIN)


def _arrange(descriptors: dict[int, int]) -> None:
    """Give descriptors their numbers."""
    for number, descriptor in descriptors.items():
        descriptors[number] = fcntl.fcntl(descriptor, fcntl.F_DUPFD, HIGH)
        os.close(descriptor)
    for number, descriptor in descriptors.items():
        os.dup2(descriptor, number)
        os.close(descriptor)


def _start_worker(
    requests: int, command: Sequence[str], *, pass_fds: Sequence[int], start_new_session: bool
) -> Program:
    """Start a worker in place of `subprocess.Popen`; `requests` is a descriptor."""
    assert start_new_session
    sock = monkey.get_original("socket", "socket")(fileno=requests)
    try:
        return Program(command, (0, 1, 2), os.environ, None, requests=sock, passed=pass_fds)
    finally:
        sock.detach()  # an object that is never closed would cause a warning


def _report(descriptor: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test did not wait
        os.write(descriptor, NUMBER.pack(number))


def _become(request: dict[str, Any]) -> tuple[types.CodeType, dict[str, Any]]:
    """Prepare this process for a command; return the code of its program and the namespace."""
    resource.setrlimit(resource.RLIMIT_NOFILE, tuple(request["files"]))
    os.chdir(request["cwd"])
    folders = request["env"].get("PYTHONPATH", "")
    if folders != os.environ.get("PYTHONPATH", ""):
        sys.path[1:1] = folders.split(os.pathsep)
    os.environ.clear()
    os.environ.update(request["env"])
    command = request["command"]
    target = _target(command)
    options = command[1 : len(command) - len(target)]
    if options == STRICT:
        sys.warnoptions[:] = ["error"]
        warnings.simplefilter("error")
    if target[:2] == COMMAND_LINE:
        start = functools.partial(_start_worker, request["requests"])
        supervisor.subprocess = types.SimpleNamespace(Popen=start)
        target = ["-c", cli._PATCHED, *target[2:]]  # as `webpy_socketio.cli.start` does
    sys.orig_argv[:] = [sys.executable, *options, *target]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    if target[0] == "-c":
        _, source, *words = target
        sys.argv[:], sys.path[0] = ["-c", *words], ""
        return compile(source, "<string>", "exec", dont_inherit=True), vars(main)
    script = str(Path(target[0]).absolute())
    sys.argv[:], sys.path[0] = target, str(Path(script).parent)
    main.__file__ = script
    return compile(Path(script).read_bytes(), script, "exec", dont_inherit=True), vars(main)


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    for name in MODULES:
        with contextlib.suppress(ImportError):  # an optional dependency
            __import__(name)
    from webpy_socketio import cli
    from webpy_socketio.cli import supervisor

    gc.freeze()  # a collection in a new process would copy the shared memory
    # Not in a function: at its end, the interpreter exits as after any script.
    exec(*_become(_serve()))
