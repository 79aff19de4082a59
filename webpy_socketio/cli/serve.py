"""``serve module:app``: the application on one address."""

from __future__ import annotations

import argparse

from webpy_socketio.cli import target
from webpy_socketio.server import SocketIOServer

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "run"]

NAME = "serve"
HELP = "serve an application, its pages and its sockets"
EXAMPLE = "serve chat:app --port 8001"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what it takes."""
    parser.add_argument("application", help="module:name of the web.py application")
    parser.add_argument("--host", help="address to listen on (SOCKETIO_HOST)")
    parser.add_argument("--port", type=int, help="port to listen on (SOCKETIO_PORT)")


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    application = target.load(arguments.application)
    given = {
        name: value for name in ("host", "port") if (value := getattr(arguments, name)) is not None
    }
    SocketIOServer(None, target.wsgi(application), **given).serve_forever()
    return 0
