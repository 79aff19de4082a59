"""A worker: one of several processes that serve an application on one address.

The supervisor does not import the application. The worker therefore reports the address to listen
on, and receives the listening socket.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
from contextlib import nullcontext
from typing import Any

import gevent
from gevent import socket

from webpy_socketio import loggers
from webpy_socketio.cli import app_factory, reload
from webpy_socketio.cli.ipc import ControlChannel
from webpy_socketio.cli.worker_metrics import METRICS_LIMITS
from webpy_socketio.engine import PeerWorkers
from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.runtime import default_runtime
from webpy_socketio.server import SocketIOServer

__all__ = ["HEARTBEAT", "run"]

#: Seconds between two heartbeats, which show the supervisor that the event loop runs.
HEARTBEAT = 0.5


def run(arguments: argparse.Namespace) -> int:
    """Serve until the supervisor stops the worker or ends; return the exit status."""
    descriptor, name, slot, folder = arguments.as_worker.split(":", 3)
    control = ControlChannel(socket.socket(fileno=int(descriptor)))
    # All workers import the same application: only the first one logs warnings about it.
    quiet = nullcontext() if slot == "0" else loggers.silenced()
    try:
        with quiet:
            server = _start(arguments, control, folder, int(name))
    except ConfigurationError as error:
        control.send(failure=str(error))  # the supervisor prints it once for all workers
        control.receive()
        return 1
    if server is None:
        return 0  # the supervisor has ended, or could not listen

    def stop_without_supervisor() -> None:
        # From here on, signals are handled.
        control.send(serving=True, metrics=_metrics_endpoint(server))
        while (message := control.receive()) is not None:
            if "draining" in message:
                server.begin_draining()
        server.close()

    faulthandler.enable()  # a stalled worker receives SIGABRT, and dumps its stack
    gevent.spawn(stop_without_supervisor)
    gevent.spawn(_beat, control, server)
    if arguments.reload:
        gevent.spawn(_report_files, control)
    server.serve_forever()
    return 0


def _start(
    arguments: argparse.Namespace, control: ControlChannel, folder: str, name: int
) -> SocketIOServer | None:
    try:
        application = app_factory.load(arguments)
        settings = app_factory.settings_of(arguments)
    except BaseException as error:
        if arguments.reload:
            control.send(files=[*reload.loaded(), *reload.involved(error)])
        raise
    if arguments.workers > 1 and settings.backplane is None:
        raise ConfigurationError(
            f"--workers {arguments.workers} needs SOCKETIO_BACKPLANE, such as "
            '"redis://127.0.0.1:6379": without it, messages do not reach clients of other workers'
        )
    control.send(
        host=settings.host,
        port=settings.port,
        plugins=list(settings.plugins),
        drain=settings.drain_time,
        drain_delay=settings.drain_delay,
        timeout=None if arguments.reload else settings.worker_timeout,
    )
    answer = control.receive()
    if answer is None:
        return None
    with socket.socket(fileno=answer["descriptor"]) as listener:
        peers = PeerWorkers(folder, name)
        default_runtime.is_supervised = True
        # A copy, because a server closes its listener when it stops accepting.
        server = app_factory.make(arguments, application, listener.dup(), peers=peers)
    server.start()
    return server


def _metrics_endpoint(server: SocketIOServer) -> dict[str, Any] | None:
    """Return where the supervisor serves the metrics of all workers, and its limits; or None."""
    settings = server.settings
    if settings.metrics_port is None or not default_runtime.answers("metrics"):
        return None
    limits = {name: getattr(settings, name) for name in METRICS_LIMITS}
    return {"host": settings.metrics_host, "port": settings.metrics_port, "limits": limits}


def _beat(control: ControlChannel, server: SocketIOServer) -> None:
    """Send heartbeats while the event loop runs."""
    while True:
        control.send(alive=True, released=server.released_sessions)
        gevent.sleep(HEARTBEAT)


def _report_files(control: ControlChannel) -> None:
    known = 0
    while True:
        if len(sys.modules) != known:  # modules may be imported later
            known = len(sys.modules)
            control.send(files=reload.loaded())
        gevent.sleep(1.0)
