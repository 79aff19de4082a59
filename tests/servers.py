"""Real servers for the tests: a web.py application in a process of its own.

The output of a process is read line by line. Tests wait for lines and never sleep.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from . import preloaded

#: Seconds after which a missing line or exit fails the test; does not slow down passing tests.
TIMEOUT = 30

#: Ports of `free_port`: below those that the system assigns, which begin at 32,768 on Linux.
_PORTS = range(20_000, 32_000)

#: The file with the last port. Chosen at import: a test may set another temporary folder.
_LAST_PORT = Path(tempfile.gettempdir()) / f"last-free-port-{os.getuid()}"

_BEGINNING = """\
from gevent import monkey; monkey.patch_all()
import os, sys
import gevent, web
from webpy_socketio import *
web.config.debug = False
OPTIONS = {}
urls = ()

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

"""

_END = """

application = web.application(urls + socketio_urls, globals())
server = SocketIOServer(("127.0.0.1", int(os.environ["PORT"])), application.wsgifunc(), **OPTIONS)
server.start()
gevent.spawn(say, "PORT", server.server_port)  # once it runs, and stops on SIGTERM
server.serve_forever()
"""


def application_source(body: str) -> str:
    """Return the source of a server whose handlers are ``body``.

    ``web`` and the public names of the package are imported. ``body`` may set ``urls``, a tuple of
    pages, and ``OPTIONS``, a dict of keywords of ``SocketIOServer``. It may call ``say(words)`` to
    print a line that the test waits for (`Process.wait_for`).
    """
    return _BEGINNING + body + _END


def module_source(body: str) -> str:
    """Return the source of a module with an ``application``, for the command line to serve.

    ``body`` is as for `application_source`.
    """
    return (
        _BEGINNING.removeprefix("from gevent import monkey; monkey.patch_all()\n")
        + body
        + """
configure({"SOCKETIO_" + name.upper(): value for name, value in OPTIONS.items()})
application = web.application(urls + socketio_urls, globals())
"""
    )


def free_port() -> int:
    """Return a TCP port of the loopback address that no program uses, a new one in each call.

    The system does not assign these ports to other sockets. They stay free until a program listens
    on them, and while it restarts. The last one is in a file that all processes share.
    """
    with _LAST_PORT.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        port = int(file.read() or 0)
        while True:
            port = port + 1 if port + 1 in _PORTS else _PORTS[0]
            with socket.socket() as sock, contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                break
        file.truncate(0)
        file.write(str(port))
    return port


class Process:
    """A program whose output is awaited line by line.

    With ``fork``, the Python program ``command`` starts by a fork, see `preloaded`. The first
    statement of a script must be ``from gevent import monkey; monkey.patch_all()``.
    """

    def __init__(
        self,
        command: list[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        *,
        fork: bool = False,
    ) -> None:
        self._log = log
        # With CI set, tools of Node.js colour their output even in a pipe.
        whole = {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", **(env or {})}
        self.popen: Any
        with log.open("ab") as errors:
            if fork and preloaded.can_run(command, env or {}):
                self.popen = preloaded.Program.piped(command, errors, whole, cwd)
            else:
                self.popen = subprocess.Popen(
                    command,
                    env=whole,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=cwd,
                    text=True,
                    encoding="utf-8",
                )
        self._lines: queue.Queue[str | None] = queue.Queue()
        assert self.popen.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.popen.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    @property
    def errors(self) -> str:
        """The output on standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def next_line(self) -> str:
        """Return the next line of output; fail at the end of the output, or after `TIMEOUT`."""
        try:
            line = self._lines.get(timeout=TIMEOUT)
        except queue.Empty:
            raise AssertionError(f"no output for {TIMEOUT} s; stderr:\n{self.errors}") from None
        if line is None:
            self._lines.put(None)  # later calls must see the end too
            status = self.popen.wait(TIMEOUT)
            raise AssertionError(f"ended with status {status}; stderr:\n{self.errors}")
        return line

    def wait_for(self, beginning: str) -> str:
        """Skip lines until one starts with `beginning`, and return the rest of it."""
        while True:
            line = self.next_line()
            if line.startswith(beginning):
                return line[len(beginning) :].strip()

    def say(self, line: str) -> None:
        """Write a line to the program's standard input."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def wait(self) -> int:
        """Wait until the program has ended, and return its exit status."""
        status = self.popen.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()
        return status

    def kill(self) -> None:
        """Kill the program if it runs, and release its pipes."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()


class Served:
    """An application served by the command line or by gunicorn: workers on one port.

    ``command`` are the arguments of ``python -m``. The program must print its address. The command
    line and its workers start by a fork, unless `fork` is False.
    """

    def __init__(
        self,
        command: list[str],
        folder: Path,
        env: Mapping[str, str] | None = None,
        *,
        fork: bool = True,
    ) -> None:
        self.folder = folder
        self._log = folder / "served.log"
        fork = fork and command[0] == preloaded.COMMAND_LINE[1]
        self.process = Process([sys.executable, "-m", *command], self._log, env, folder, fork=fork)
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def errors(self) -> str:
        """The output on standard error."""
        return self.process.errors

    def ready(self) -> None:
        """Wait until the program prints its address."""
        try:
            self.port = int(self.process.wait_for("Serving ").rpartition(":")[2].strip("/"))
        except BaseException:
            self.process.kill()
            raise

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started."""
        self.process.popen.send_signal(number)

    def stop(self) -> None:
        """Stop as a service manager does: the program must exit with status 0 on SIGTERM."""
        self.signal(signal.SIGTERM)
        status = self.process.wait()
        assert status == 0, f"exit status {status}; stderr:\n{self.errors}"

    def close(self) -> None:
        """Stop the program if it runs, at the end of a fixture."""
        if self.process.popen.poll() is None:
            try:
                self.stop()
            finally:
                self.process.kill()
        else:
            self.process.wait()


class ServerProcess:
    """A server on a port of its own, which it keeps when restarted.

    ``source`` is a complete program, as returned by `application_source`. It listens on 127.0.0.1
    and the port in the environment variable ``PORT``, and then prints ``PORT n``.
    """

    def __init__(self, source: str, folder: Path, env: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._script = folder / "server.py"
        self._script.write_text(source, encoding="utf-8")
        self._log = folder / "server.log"
        self._env = dict(env or {})
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def errors(self) -> str:
        """The output on standard error, including that of earlier starts."""
        return self.process.errors

    def start(self) -> None:
        """Start the program, and wait until it listens."""
        env = {**self._env, "PORT": str(self.port)}
        self.process = Process([sys.executable, str(self._script)], self._log, env, fork=True)
        try:
            self.port = int(self.process.wait_for("PORT "))
        except BaseException:
            self.process.kill()
            raise

    def wait_for(self, beginning: str) -> str:
        """Skip lines until one starts with `beginning`, and return the rest of it."""
        # Delegates to the current process, which `restart` replaces.
        return self.process.wait_for(beginning)

    def stop(self) -> None:
        """Stop as a service manager does: the program must exit with status 0 on SIGTERM."""
        self.process.popen.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"did not stop on SIGTERM; stderr:\n{self.errors}") from None
        assert status == 0, f"exit status {status}; stderr:\n{self.errors}"

    def restart(self) -> None:
        """Stop and start again, on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the program if it runs, at the end of a fixture."""
        if self.process.popen.poll() is None:
            self.stop()
        else:
            self.process.kill()
