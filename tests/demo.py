"""The demo in ``example/``, in processes of its own."""

import os
import signal
import sys
import textwrap
from pathlib import Path

from . import preloaded
from .servers import Process, free_port

MAIN_APP = Path(__file__).resolve().parents[1] / "example" / "main_app.py"

PAGES = ["/", "/room/lobby", "/room/admins", "/login", "/sysmsg"]
PASSWORD = "let me in"


class Chat:
    """The demo as a process with its own data folder. A restart keeps the port."""

    def __init__(self, folder, **env):
        self.folder = folder
        self.port = free_port()
        self.env = {"CHAT_DATA": str(folder / "data"), **env}
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        self.folder.mkdir(exist_ok=True)
        env = {**self.env, "PORT": str(self.port)}
        command = [sys.executable, str(MAIN_APP)]
        self.process = Process(command, self.folder / "chat.log", env, fork=True)
        try:
            address = self.process.wait_for("Serving on http://127.0.0.1:").partition(" ")[0]
        except BaseException:
            self.process.kill()
            raise
        self.port = int(address.rstrip("/"))

    def stop(self):
        """Stop it as a service manager does: it must exit with status 0 and empty stderr."""
        if self.process.popen.returncode is not None:
            return
        self.process.popen.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait() == 0
        finally:
            self.process.kill()
        assert "Traceback" not in self.process.errors


def example(folder, program):
    """Run a program with the example's modules, and return the lines that it prints."""
    beginning = (
        "from gevent import monkey; monkey.patch_all()\nimport sys\n"
        "def say(*words): sys.stdout.write(' '.join(map(str, words)) + '\\n')\n"
    )
    command = [sys.executable, "-c", beginning + textwrap.dedent(program)]
    done = preloaded.run(command, {**os.environ, "CHAT_DATA": str(folder)}, MAIN_APP.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
