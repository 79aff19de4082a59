"""Run the command line in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["APP", "Done", "command", "run"]

#: Seconds after which a command fails its test.
TIMEOUT = 60

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


def command(*words: str) -> list[str]:
    """Return a command line of this interpreter, with warnings as errors."""
    return [sys.executable, "-W", "error", "-m", "webpy_socketio", *words]


def run(*words: str, cwd: Path, before: tuple[str, ...] = (), **env: str) -> Done:
    """Run a command until it ends; `before` is a prefix of its command line."""
    done = subprocess.run(
        [*before, *command(*words)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
