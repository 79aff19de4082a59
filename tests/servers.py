"""Real servers for the tests: a web.py application in a process of its own.

Its output is read line by line; nothing here sleeps: what is awaited is a line.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

#: Seconds until something that never happens fails the test. No test depends on its length.
TIMEOUT = 30

_BEGINNING = """\
from gevent import monkey; monkey.patch_all()
import os, sys
import web
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
say("PORT", server.server_port)
server.serve_forever()
"""


def application_source(body: str) -> str:
    """Return the source of a server whose handlers are ``body``.

    ``body`` finds ``web`` and the package's public names imported; it may set ``urls`` (a tuple of
    its own pages) and ``OPTIONS`` (a dict, the keywords of ``SocketIOServer``), and call
    ``say(words)`` for the test to wait for (`Process.wait_for`).
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


class Process:
    """A program whose output is awaited line by line."""

    def __init__(
        self,
        command: list[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._log = log
        with log.open("ab") as errors:
            self.popen = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
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
        """All that was written to standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def next_line(self) -> str:
        """Return the next line of output; fails the test at the end of it, or after `TIMEOUT`."""
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
        """Skip to the next line that begins like this, and return the rest of it."""
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
        """Return the exit status, once the program has ended."""
        status = self.popen.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()
        return status

    def kill(self) -> None:
        """End it at once, if it has not ended, and free what it held."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()


class Served:
    """An application that the command line serves, or gunicorn: workers on one port.

    ``command`` is what comes behind ``python -m``; it has to say where it listens.
    """

    def __init__(
        self, command: list[str], folder: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._log = folder / "served.log"
        self.process = Process([sys.executable, "-m", *command], self._log, env, folder)
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def errors(self) -> str:
        """All that was written to standard error."""
        return self.process.errors

    def ready(self) -> None:
        """Wait until it says that it serves."""
        try:
            self.port = int(self.process.wait_for("Serving ").rpartition(":")[2].strip("/"))
        except BaseException:
            self.process.kill()
            raise

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started."""
        self.process.popen.send_signal(number)

    def stop(self) -> None:
        """Stop it as a service manager does; it must end by itself, with status 0."""
        self.signal(signal.SIGTERM)
        status = self.process.wait()
        assert status == 0, f"exit status {status}; stderr:\n{self.errors}"

    def close(self) -> None:
        """Stop it if it runs: the end of a fixture."""
        if self.process.popen.poll() is None:
            try:
                self.stop()
            finally:
                self.process.kill()
        else:
            self.process.wait()


class ServerProcess:
    """A server on a port of its own, which it keeps when restarted.

    ``source`` is a whole program (see `application_source`): it listens on 127.0.0.1 and the port
    of the environment variable ``PORT`` (0: any), and says ``PORT n`` when it does.
    """

    def __init__(self, source: str, folder: Path, env: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._script = folder / "server.py"
        self._script.write_text(source, encoding="utf-8")
        self._log = folder / "server.log"
        self._env = dict(env or {})
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def errors(self) -> str:
        """All that it wrote to standard error, over its restarts."""
        return self.process.errors

    def start(self) -> None:
        """Start, and wait until it listens."""
        env = {**self._env, "PORT": str(self.port)}
        self.process = Process([sys.executable, str(self._script)], self._log, env)
        try:
            self.port = int(self.process.wait_for("PORT "))
        except BaseException:
            self.process.kill()
            raise

    def wait_for(self, beginning: str) -> str:
        """Return the rest of the next line of its output that begins like this."""
        return self.process.wait_for(beginning)

    def stop(self) -> None:
        """Stop it as a service manager does; it must end by itself, with status 0."""
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
        """Stop it if it runs: the end of a fixture."""
        if self.process.popen.poll() is None:
            self.stop()
        else:
            self.process.kill()
