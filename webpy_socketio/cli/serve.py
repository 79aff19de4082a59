"""``serve module:app``: the application on one address, in one process or in several."""

from __future__ import annotations

import argparse
import socket
import sys

import gevent

from webpy_socketio.cli import app_factory, streams, supervisor, worker
from webpy_socketio.exceptions import ConfigurationError

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "run"]

NAME = "serve"
HELP = "serve an application, its pages and its sockets"
EXAMPLE = "serve chat:app --port 8001"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what it takes."""
    parser.add_argument("application", help="module:name of the web.py application")
    parser.add_argument("--host", help="address to listen on (SOCKETIO_HOST)")
    parser.add_argument("--port", type=int, help="port to listen on (SOCKETIO_PORT)")
    parser.add_argument("--settings", metavar="MODULE", help="module of SOCKETIO_* settings")
    parser.add_argument("--certfile", metavar="FILE", help="certificates, for TLS")
    parser.add_argument("--keyfile", metavar="FILE", help="key, if it is not in the same file")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that share the address"
    )
    parser.add_argument(
        "--reload", action="store_true", help="begin anew when a source file has changed"
    )
    parser.add_argument("--quiet", action="store_true", help="no line for each request")
    # How a supervisor starts a worker.
    parser.add_argument("--as-worker", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    streams.make_tolerant()
    if arguments.as_worker is not None:
        return worker.run(arguments)
    if arguments.workers < 1:
        raise ConfigurationError("--workers has to be 1 or more")
    if arguments.workers > 1 or arguments.reload:
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigurationError(
                "--workers and --reload need Unix sockets, which this system has not"
            )
        return supervisor.run(arguments)
    server = app_factory.make(arguments, app_factory.load(arguments))
    server.start()
    banner = app_factory.banner(arguments, server.address, server.settings.plugins)
    gevent.spawn(_say, banner)  # when a signal that follows is heard
    server.serve_forever()
    return 0


def _say(banner: str) -> None:
    sys.stdout.write(banner)
    sys.stdout.flush()
