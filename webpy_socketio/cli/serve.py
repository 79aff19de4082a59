"""``serve module:app``: the application on one address, in one process or in several."""

from __future__ import annotations

import argparse
import socket
import sys

import gevent

from webpy_socketio.cli import app_factory, json_logs, supervisor, worker
from webpy_socketio.cli.systemd import Notifier, take_listener
from webpy_socketio.engine.io.standard_streams import protect_standard_streams
from webpy_socketio.exceptions import ConfigurationError

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "run"]

NAME = "serve"
HELP = "serve an application: its pages and its sockets"
EXAMPLE = "serve chat:app --port 8001"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("application", help="module:name of the web.py application")
    parser.add_argument("--host", help="address to listen on (SOCKETIO_HOST)")
    parser.add_argument("--port", type=int, help="port to listen on (SOCKETIO_PORT)")
    parser.add_argument("--settings", metavar="MODULE", help="module of SOCKETIO_* settings")
    parser.add_argument("--certfile", metavar="FILE", help="TLS certificate chain (PEM)")
    parser.add_argument("--keyfile", metavar="FILE", help="private key, if it is in another file")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="number of processes that share the address",
    )
    parser.add_argument("--reload", action="store_true", help="restart when a source file changes")
    parser.add_argument("--quiet", action="store_true", help="no access log")
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json writes all log records and the access log as JSON (default text)",
    )
    # Set by the supervisor.
    parser.add_argument("--as-worker", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends the process."""
    protect_standard_streams()
    if arguments.log_format == "json":
        json_logs.configure()
    if arguments.as_worker is not None:
        return worker.run(arguments)
    if arguments.workers < 1:
        raise ConfigurationError("--workers must be 1 or more")
    notifier, listener = Notifier(), take_listener()
    if listener is not None and (arguments.host is not None or arguments.port is not None):
        raise ConfigurationError(
            "systemd has passed a listening socket, so --host and --port have no effect: remove "
            "them, and set the address in the socket unit (ListenStream=)"
        )
    if arguments.workers > 1 or arguments.reload:
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigurationError(
                "--workers and --reload need Unix sockets, which this system does not support"
            )
        return supervisor.run(arguments, listener, notifier)
    server = app_factory.make(arguments, app_factory.load(arguments), listener)
    server.on_stopping = notifier.stopping
    server.start()
    banner = app_factory.banner(arguments, server.address, server.settings.plugins)
    gevent.spawn(_report_ready, notifier, banner)  # once signal handlers are installed
    server.serve_forever()
    return 0


def _report_ready(notifier: Notifier, banner: str) -> None:
    notifier.ready()
    sys.stdout.write(banner)
    sys.stdout.flush()
