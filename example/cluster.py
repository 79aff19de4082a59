"""The chat on two workers that share a port and a Redis: `python example/cluster.py`.

The Redis server is started on a free port, stores nothing on disk, and ends with the chat.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import messages
import people
import rooms
import settings

WORKERS = 2


@contextlib.contextmanager
def redis():
    """Run a Redis server; yields its URL."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemExit("This needs redis-server, which is not installed.")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder]
        # Ctrl-C must not reach Redis: the workers need it until they have ended.
        process = subprocess.Popen(
            [program, *options, "--loglevel", "warning"], start_new_session=True
        )
        try:
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def main():
    settings.DATA.mkdir(parents=True, exist_ok=True)
    for module in (rooms, messages, people):
        module.create()  # once, before both workers start
    command = [sys.executable, "-m", "webpy_socketio", "serve", "main_app:app"]
    with redis() as address:
        env = {**os.environ, "BACKPLANE": address}
        chat = subprocess.Popen(
            [*command, "--workers", str(WORKERS), "--quiet"], env=env, cwd=settings.HERE
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, frame: chat.send_signal(number))
        return chat.wait()


if __name__ == "__main__":
    sys.exit(main())
