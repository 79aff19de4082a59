"""The command line: its arguments, exit statuses, and modules that cannot be imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import webpy_socketio
from tests.commands import APP, command, run
from tests.servers import Process
from webpy_socketio import ConfigurationError
from webpy_socketio.cli import COMMANDS, main, named_application

pytestmark = pytest.mark.time_limit(90)


class TestArguments:
    def test_version_option_prints_version(self, tmp_path: Path) -> None:
        done = run("--version", cwd=tmp_path)
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith(f"webpy-socketio {webpy_socketio.__version__} (Python 3.")

    def test_help_lists_every_command(self, tmp_path: Path) -> None:
        done = run("--help", cwd=tmp_path)
        assert done.status == 0
        assert all(f"    {name} " in done.out for name in COMMANDS)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_command_help_has_an_example(self, name: str, capsys: Any) -> None:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        assert f"example: webpy-socketio {name} " in capsys.readouterr().out

    def test_invalid_arguments_exit_with_status_2(self, tmp_path: Path) -> None:
        done = run("servee", cwd=tmp_path)
        assert done.status == 2
        assert done.err.startswith("usage: webpy-socketio ")
        assert "invalid choice: 'servee'" in done.err
        assert "Traceback" not in done.err

    def test_installed_script_runs_the_command_line(self, tmp_path: Path) -> None:
        script = Path(sysconfig.get_path("scripts")) / "webpy-socketio"
        done = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0
        assert done.stdout.startswith(b"webpy-socketio ")

    def test_file_that_hides_a_package_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "web.py").write_text("raise SystemExit('the wrong one')\n")
        script = Path(sysconfig.get_path("scripts")) / "webpy-socketio"
        done = subprocess.run([script, "doctor"], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 1
        assert b"web.py in this folder hides the package of that name: rename it" in done.stderr


class TestExit:
    def test_closed_pipe_ends_command_without_message(self, tmp_path: Path) -> None:
        (tmp_path / "chat.py").write_text(APP)
        reader, writer = os.pipe()
        os.close(reader)  # as head does after its last line
        with os.fdopen(writer, "wb") as stdout:
            done = subprocess.run(
                command("routes", "chat:app"),
                cwd=tmp_path,
                stdout=stdout,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert (done.returncode, done.stderr) == (141, b"")

    def test_ctrl_c_ends_command_without_traceback(self, tmp_path: Path) -> None:
        slow = "import time\nprint('READY', flush=True)\ntime.sleep(600)\n"
        (tmp_path / "slow.py").write_text(slow)
        process = Process(command("routes", str(tmp_path / "slow.py")), tmp_path / "log")
        try:
            process.wait_for("READY")
            process.popen.send_signal(signal.SIGINT)
            assert process.wait() == 130
        finally:
            process.kill()
        assert process.errors == ""


#: Sources of modules, and the messages about them. Tracebacks contain no frames of the package.
MODULES = {
    "serves": (
        APP.replace('if __name__ == "__main__":\n    ', ""),
        "serves.py:7: the module starts a server while it is imported; move that line, "
        'and everything else that only `python` should run, under `if __name__ == "__main__":`',
    ),
    "starts": (
        APP.replace('if __name__ == "__main__":\n    ', "").replace("serve_forever", "start"),
        "starts.py:7: the module starts a server",
    ),
    "runs": (
        APP.partition("if __name__")[0] + "app.run()\n",
        "runs.py:7: the module starts a server",
    ),
    "others": (
        "from gevent.pywsgi import WSGIServer\n"
        "try:\n"
        "    WSGIServer(('127.0.0.1', 0), None).serve_forever()\n"
        "except Exception:\n"
        "    app = None\n",
        "others.py:3: the module starts a server",
    ),
    "spawns": (
        "import gevent, socket\n"
        "def listen():\n"
        "    socket.create_server(('127.0.0.1', 0))\n"
        "gevent.spawn(listen)\n"
        "gevent.sleep(0)\n",
        "spawns.py:3: the module starts a server",
    ),
    "raises": (
        "def fail():\n    return 1 / 0\n\nfail()\n",
        "raises.py:2: the module cannot be imported: ZeroDivisionError: division by zero",
    ),
    "chained": (
        "from importlib import import_module as load\n"
        "try:\n    load('nothere')\nexcept ImportError as error:\n"
        "    raise RuntimeError('so') from error\n",
        "chained.py:5: the module cannot be imported: RuntimeError: so",
    ),
    "needs": ("import nothere\n", "needs.py:1: the module cannot be imported: ModuleNotFoundError"),
    "syntax": ("def x(:\n", "syntax.py:1: the module cannot be imported: SyntaxError"),
    "exits": ("import sys\nsys.exit()\n", "exits.py:2: the module exits the program"),
    "event": (
        "from webpy_socketio import on_connect\n"
        "@on_connect(channel='x')\n"
        "def hello(request, socket, context): ...\n",
        # Python 3.10 reports the line of the decorated function.
        f"event.py:{2 if sys.version_info >= (3, 11) else 3}: "
        "@on_connect(channel=…) on hello: a connecting socket has no channels yet",
    ),
    "words": ("import sys\nassert sys.argv == [''], sys.argv\n", "the module 'words' has no 'app'"),
    "site": (
        "app = 1\n",
        "'site' is the name of a module of Python or of a package: rename site.py",
    ),
}

#: Number of tracebacks; a syntax error has none.
TRACEBACKS = {"raises": 1, "chained": 2, "needs": 1}

#: Targets on the command line, in a folder with a chat.py that defines `app`, and the messages.
TARGETS = {
    "caht:app": "there is no module 'caht' here; did you mean chat?",
    "nothing": "there is no module 'nothing' here: name the application as module:name",
    "chat.app": "there is no module 'chat.app'; did you mean chat:app?",
    "chat:ap": "the module 'chat' has no 'ap'; did you mean chat:app?",
    "chap.py": "there is no file chap.py; did you mean chat?",
    "../chat": "'../chat' is not the name of a module: name the application as module:name",
    ":app": "'' is not the name of a module",
}


#: Names that are no applications, their sources, and the messages.
WRONG = {
    "number": ("number = 5", "expected a web.application, not an object of type int"),
    "make": (
        "def make(): ...",
        "make (wrong.py:1) is no WSGI application: it takes (), and is called with (environ, start",
    ),
    "Page": (
        "class Page:\n    def GET(self): ...",
        "Page is no WSGI application: it takes (), and is called with (environ, start_response)",
    ),
    "nested": (
        "import web\nfrom webpy_socketio import socketio_urls\n"
        "nested = web.application(('/', 'x', socketio_urls), {}, autoreload=False)",
        "not pairs of a pattern and a class; add a tuple to them, urls = (...) + socketio_urls",
    ),
    "between": (
        "import web\nfrom webpy_socketio import socketio_urls\n"
        "between = web.application(('/', 'x', socketio_urls, '/y'), {}, autoreload=False)",
        "urls = (...) + socketio_urls",
    ),
    "odd": (
        "import web\nodd = web.application(('/', 'x', '/y'), {}, autoreload=False)",
        "the urls of the application are not pairs of a pattern and a class",
    ),
    "nothing": ("", "the module 'wrong' has no 'nothing': name it as wrong:name"),
}

RIGHT = """
def function(environ, start): ...
def counted(count, environ, start_response): ...
made = functools.partial(counted, 1)
class Answer:
    def __init__(self, environ, start_response): ...
class Middleware:
    def __call__(self, *args): ...
wrapped = Middleware()
"""


class TestTargets:
    @pytest.fixture
    def here(self, tmp_path: Path, monkeypatch: Any) -> Iterator[Path]:
        """The current folder; modules imported from it are removed afterwards."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        known = set(sys.modules)
        yield tmp_path
        for name in set(sys.modules) - known:
            del sys.modules[name]

    @pytest.mark.parametrize("name", MODULES)
    def test_failing_module_is_reported_once(self, name: str, here: Path, capsys: Any) -> None:
        source, message = MODULES[name]
        (here / f"{name}.py").write_text(source)
        assert main(["routes", f"{name}:app"]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"webpy-socketio: {message}")
        assert err.count("Traceback") == TRACEBACKS.get(name, 0)
        assert "webpy_socketio/cli" not in err
        assert "importlib" not in err

    @pytest.mark.parametrize("name", ["serves", "runs", "raises"])
    def test_failing_module_is_reported_by_the_process(self, name: str, tmp_path: Path) -> None:
        source, message = MODULES[name]
        (tmp_path / f"{name}.py").write_text(source)
        done = run("serve", f"{name}:app", cwd=tmp_path)
        assert done.status == 1
        assert done.err.startswith(f"webpy-socketio: {message}")
        assert done.err.count("Traceback") == TRACEBACKS.get(name, 0)

    @pytest.mark.parametrize("written", TARGETS)
    def test_missing_target_is_reported_in_one_line(self, written: str, here: Path) -> None:
        (here / "chat.py").write_text(APP)
        with pytest.raises(ConfigurationError) as raised:
            named_application.find(written)
        assert str(raised.value).startswith(TARGETS[written])
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("name", WRONG)
    def test_object_that_is_no_application_is_rejected(self, name: str, here: Path) -> None:
        (here / "wrong.py").write_text(WRONG[name][0])
        with pytest.raises(ConfigurationError) as raised:
            named_application.wsgi(named_application.load(f"wrong:{name}"))
        assert WRONG[name][1] in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_wsgi_callables_are_accepted(self, here: Path) -> None:
        (here / "right.py").write_text(f"import functools\n{APP}{RIGHT}")
        for name in ("app", "function", "made", "Answer", "wrapped"):
            assert callable(named_application.wsgi(named_application.load(f"right:{name}")))

    @pytest.mark.parametrize("command", ["serve", "routes", "doctor"])
    def test_nested_urls_are_rejected(self, command: str, here: Path, capfd: Any) -> None:
        (here / "nested.py").write_text(WRONG["nested"][0])
        assert main([command, "nested:nested"]) == 1
        output = capfd.readouterr()
        assert "urls = (...) + socketio_urls" in output.out + output.err
        assert "Traceback" not in output.out + output.err

    def test_file_name_is_accepted_as_target(self, tmp_path: Path) -> None:
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "beside.py").write_text("")
        (folder / "my-chat.py").write_text(f"import beside\n{APP}")
        done = run("routes", "site/my-chat.py:app", cwd=tmp_path)
        assert (done.status, done.err) == (0, "")
