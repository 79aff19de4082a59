"""The command line, run as a user runs it: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["APP", "Done", "command", "run"]

#: Seconds until a command that never ends fails its test.
TIMEOUT = 60

#: A small application with everything in its place.
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
    """What a command left behind."""

    status: int
    out: str
    err: str


def command(*words: str) -> list[str]:
    """The command line, by the interpreter that runs the tests; its warnings are errors there too."""
    return [sys.executable, "-W", "error", "-m", "webpy_socketio", *words]


def run(*words: str, cwd: Path, before: tuple[str, ...] = (), **env: str) -> Done:
    """Run a command to its end; `before` are words that are put in front of it."""
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
