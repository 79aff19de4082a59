"""Runs a server of this folder, after printing its port.

``python SERVER [PORT [WORKERS]]`` starts the given number of processes that share the port.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import gevent.event
from gevent import socket

from webpy_socketio.engine import EngineConfig, EngineServer, PeerWorkers

#: Creates a server for an address or a listening socket.
Make = Callable[[Any, EngineConfig, "PeerWorkers | None"], EngineServer]

_WORKER = "CONFORMANCE_WORKER"


def run(make: Make, config: EngineConfig, port: int = 3000, workers: int = 1) -> None:
    """Start the server, print ``PORT <port>``, and serve until a signal ends the process."""
    # The suites send invalid requests on purpose; the log lines are tested elsewhere.
    logging.getLogger("webpy_socketio.engine.io.throttled_log").disabled = True
    if _WORKER in os.environ:
        descriptor, name, folder = os.environ[_WORKER].split(":", 2)
        peers = PeerWorkers(folder, int(name))
        _serve(make(socket.socket(fileno=int(descriptor)), config, peers))
    elif workers == 1:
        _serve(make(("127.0.0.1", port), config, None))
    else:
        _share(port, workers)


def _serve(server: EngineServer) -> None:
    server.start()
    sys.stdout.write(f"PORT {server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


def _share(port: int, workers: int) -> None:
    ended = gevent.event.Event()
    gevent.signal_handler(signal.SIGTERM, ended.set)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        listener = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=256))
        for name in range(1, workers + 1):
            worker = subprocess.Popen(
                [sys.executable, *sys.argv],
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=[listener.fileno()],
                env={**os.environ, _WORKER: f"{listener.fileno()}:{name}:{folder}"},
            )
            stack.callback(worker.wait)
            stack.callback(worker.terminate)
            assert worker.stdout is not None
            line = worker.stdout.readline()
        sys.stdout.write(line)
        sys.stdout.flush()
        ended.wait()


def start(make: Make, config: EngineConfig) -> None:
    """Run a server with the arguments of the command line."""
    run(make, config, *(int(argument) for argument in sys.argv[1:]))
