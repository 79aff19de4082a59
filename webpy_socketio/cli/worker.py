"""A worker: a process of several that serve one application on one address.

Its supervisor does not import the application; so it is the worker who tells where to listen, and is
given the listening socket.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
from contextlib import nullcontext

import gevent
from gevent import socket

from webpy_socketio import loggers
from webpy_socketio.cli import app_factory, reload
from webpy_socketio.cli.ipc import ControlChannel
from webpy_socketio.engine import PeerWorkers
from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.server import SocketIOServer

__all__ = ["HEARTBEAT", "run"]

#: Seconds between two heartbeats, with which a worker shows its supervisor that its loop runs.
HEARTBEAT = 0.5


def run(arguments: argparse.Namespace) -> int:
    """Serve until the supervisor says otherwise, or is gone; returns the exit status."""
    descriptor, name, slot, folder = arguments.as_worker.split(":", 3)
    control = ControlChannel(socket.socket(fileno=int(descriptor)))
    # Workers start alike: only the first one logs warnings about the application.
    quiet = nullcontext() if slot == "0" else loggers.silenced()
    try:
        with quiet:
            server = _start(arguments, control, folder, int(name))
    except ConfigurationError as error:
        control.send(failure=str(error))  # the supervisor prints it, once for all workers
        control.receive()
        return 1
    if server is None:
        return 0  # the supervisor is gone, or has refused

    def until_alone() -> None:
        control.send(serving=True)  # and would hear a signal that follows
        while control.receive() is not None:
            pass
        server.close()

    faulthandler.enable()  # SIGABRT, which a worker that stalls is sent, writes where it stands
    gevent.spawn(until_alone)
    gevent.spawn(_beat, control)
    if arguments.reload:
        gevent.spawn(_tell_files, control)
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
            control.send(files=[*reload.loaded(), *reload.behind(error)])
        raise
    if arguments.workers > 1 and settings.backplane is None:
        raise ConfigurationError(
            f"--workers {arguments.workers} needs SOCKETIO_BACKPLANE, such as "
            '"redis://127.0.0.1:6379": without it nobody would hear what is sent in another worker'
        )
    control.send(
        host=settings.host,
        port=settings.port,
        plugins=list(settings.plugins),
        drain=settings.drain_time,
        timeout=None if arguments.reload else settings.worker_timeout,
    )
    answer = control.receive()
    if answer is None:
        return None
    with socket.socket(fileno=answer["descriptor"]) as listener:
        peers = PeerWorkers(folder, name)
        # A copy: a server closes its own when it stops accepting.
        server = app_factory.make(arguments, application, listener.dup(), peers=peers)
    server.start()
    return server


def _beat(control: ControlChannel) -> None:
    """Send a heartbeat for as long as the event loop runs."""
    while True:
        control.send(alive=True)
        gevent.sleep(HEARTBEAT)


def _tell_files(control: ControlChannel) -> None:
    known = 0
    while True:
        if len(sys.modules) != known:  # some are imported late
            known = len(sys.modules)
            control.send(files=reload.loaded())
        gevent.sleep(1.0)
