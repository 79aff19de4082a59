"""Run the command line or a program in a new process, which starts by a fork if possible."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from . import preloaded

__all__ = ["APP", "PYTEST", "Done", "command", "run", "run_python"]

#: Seconds after which a command fails its test.
TIMEOUT = 60

#: Arguments of an interpreter that run the tests of a user. pytest-rerunfailures starts a thread,
#: after which a test module cannot patch the standard library any more.
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:rerunfailures")

#: A small correct application.
APP = """\
from gevent import monkey; monkey.patch_all()
import web
from webpy_socketio import *
web.config.debug = False
urls = ("/", "index") + socketio_urls
app = web.application(urls, globals())
if __name__ == "__main__":
    SocketIOServer(None, app.wsgifunc()).serve_forever()
"""


class Done(NamedTuple):
    """The result of a command."""

    status: int
    out: str
    err: str


def command(*words: str, strict: bool = True) -> list[str]:
    """Return a command line of this interpreter; `strict` makes warnings errors."""
    options = preloaded.STRICT if strict else []
    return [sys.executable, *options, *preloaded.COMMAND_LINE, *words]


def run(
    *words: str,
    cwd: Path,
    before: tuple[str, ...] = (),
    fork: bool = True,
    strict: bool = True,
    **env: str,
) -> Done:
    """Run a command until it ends; `before` is a prefix of its command line."""
    return _run(command(*words, strict=strict), cwd, env, before, fork)


def run_python(*words: str, cwd: Path, **env: str) -> Done:
    """Run ``python`` with these arguments until it ends; the program must patch with gevent."""
    return _run([sys.executable, *words], cwd, env)


def _run(
    line: list[str], cwd: Path, env: dict[str, str], before: tuple[str, ...] = (), fork: bool = True
) -> Done:
    whole = {**os.environ, **env}
    if fork and not before and preloaded.can_run(line, env):
        done = preloaded.run(line, whole, cwd, TIMEOUT)
    else:
        done = subprocess.run(
            [*before, *line],
            cwd=cwd,
            env=whole,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=TIMEOUT,
            check=False,
        )
    return Done(done.returncode, done.stdout, done.stderr)
