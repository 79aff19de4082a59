"""A module that starts a server while it is imported raises an error and does not block."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import APP

pytestmark = pytest.mark.time_limit(60)

#: The application in debug mode of web.py, whose reloader imports the main script again.
DEBUG = APP.replace("web.config.debug = False\n", "").partition("if __name__")[0]

#: Ways to start a server without a guard.
RUN = "app.run()\n"
RUNSIMPLE = 'import web.httpserver\nweb.httpserver.runsimple(app.wsgifunc(), ("127.0.0.1", 0))\n'
SERVE = 'SocketIOServer(("127.0.0.1", 0), app.wsgifunc()).serve_forever()\n'

FAILS = "the module starts a server while it is imported"


def run(folder: Path, *command: str) -> tuple[int, str]:
    """Run a program to its end; return its status and output."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout


class TestSecondImport:
    """``python chat.py``, which the reloader of web.py imports again under its own name."""

    @pytest.mark.quoted("the module starts a server while it is imported")
    def test_run_without_guard_has_the_quoted_message(
        self, tmp_path: Path, match_quote: Callable[[str], None]
    ) -> None:
        (tmp_path / "chat.py").write_text(DEBUG + RUN)
        match_quote(run(tmp_path, "chat.py", "127.0.0.1:0")[1])

    @pytest.mark.parametrize("start", [RUN, RUNSIMPLE], ids=["run", "runsimple"])
    def test_web_py_server_without_guard_fails_with_message(
        self, start: str, tmp_path: Path
    ) -> None:
        (tmp_path / "chat.py").write_text(DEBUG + start)
        status, output = run(tmp_path, "chat.py", "127.0.0.1:0")
        assert status == 1
        *_, last = output.splitlines()
        assert FAILS in last
        assert 'SocketIOServer(("127.0.0.1", 8000), app.wsgifunc()).serve_forever()' in last
        assert "chat.py" in output  # the traceback names the line

    def test_application_without_socketio_urls_fails_too(self, tmp_path: Path) -> None:
        source = DEBUG.replace(" + socketio_urls", "").replace('("/", "index")', '("/", "index")')
        (tmp_path / "chat.py").write_text(source + RUN)
        status, output = run(tmp_path, "chat.py", "127.0.0.1:0")
        assert (status, FAILS in output) == (1, True)


class TestJobs:
    """Background jobs in debug mode: docs/how-to/background.rst lists those that run twice."""

    JOB = "import os; os.write(1, b'job ')\n"

    #: Starts the server and stops it.
    MAIN = """
if __name__ == "__main__":
    server = SocketIOServer(("127.0.0.1", 0), app.wsgifunc(), plugins=["ticker"])
    server.start()
    server.stop()
"""

    def count(self, folder: Path, source: str, plugin: str) -> int:
        (folder / "ticker.py").write_text(f"def install(settings):\n    {plugin}\n")
        (folder / "chat.py").write_text(source + self.MAIN)
        status, output = run(folder, "chat.py")
        assert status == 0, output
        return output.count("job")

    def test_job_at_module_level_runs_twice(self, tmp_path: Path) -> None:
        assert self.count(tmp_path, DEBUG + self.JOB, "pass") == 2

    def test_job_of_a_plugin_runs_once(self, tmp_path: Path) -> None:
        assert self.count(tmp_path, DEBUG, self.JOB) == 1


class TestImportByOtherPrograms:
    """Another program, such as a test or gunicorn, imports the module."""

    def test_run_of_an_application_with_socketio_urls_fails(self, tmp_path: Path) -> None:
        (tmp_path / "chat.py").write_text(APP.partition("if __name__")[0] + RUN)
        status, output = run(tmp_path, "-c", "import chat")
        assert (status, FAILS in output) == (1, True)

    def test_run_of_an_application_with_a_mounted_one_fails(self, tmp_path: Path) -> None:
        outer = 'app = web.application(("/chat", app), globals())\n'
        (tmp_path / "chat.py").write_text(APP.partition("if __name__")[0] + outer + RUN)
        status, output = run(tmp_path, "-c", "import chat")
        assert (status, FAILS in output) == (1, True)

    def test_run_of_an_application_without_socketio_urls_serves(self, tmp_path: Path) -> None:
        source = APP.partition("if __name__")[0].replace(" + socketio_urls", "")
        served = "import web.httpserver\nweb.httpserver.WSGIServer = lambda *args: 1 / 0\n"
        (tmp_path / "chat.py").write_text(source + served + RUN)
        status, output = run(tmp_path, "-c", "import chat")
        assert (status, "ZeroDivisionError" in output) == (1, True)

    @pytest.mark.parametrize("start", [RUN, SERVE], ids=["run", "serve_forever"])
    def test_gunicorn_fails_with_message(self, start: str, tmp_path: Path) -> None:
        source = APP.partition("if __name__")[0] + "wsgi = app.wsgifunc()\n"
        (tmp_path / "chat.py").write_text(source + start)
        words = ["-k", "webpy_socketio.gunicorn.Worker", "-b", "127.0.0.1:0", "chat:wsgi"]
        status, output = run(tmp_path, "-m", "gunicorn", *words)
        assert status == 3
        assert FAILS in output


def test_guarded_run_serves_pages(tmp_path: Path) -> None:
    """With a guard, ``app.run()`` calls web.py's server, which the test replaces."""
    served = "import web.httpserver\nweb.httpserver.WSGIServer = lambda *args: sys.exit('served')\n"
    guarded = 'if __name__ == "__main__":\n    app.run()\n'
    (tmp_path / "chat.py").write_text("import sys\n" + DEBUG + served + guarded)
    status, output = run(tmp_path, "chat.py", "127.0.0.1:0")
    assert (status, output.splitlines()[-1]) == (1, "served")
