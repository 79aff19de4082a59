"""Clients of python-socketio for programs that tests start."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import socketio

__all__ = ["close_client", "disconnect_client", "python_client"]


def disconnect_client(client: socketio.Client) -> None:
    """Wait until a client has no POST in progress, and disconnect it.

    While the client waits for the response to a POST, its method ``disconnect`` sends nothing. The
    method then waits for the response to the GET, until the server sends a ping.
    """
    connection = client.eio
    if connection.state == "connected" and connection.transport() == "polling":
        connection.queue.join()
    client.disconnect()


def close_client(client: socketio.Client) -> None:
    """Disconnect a client, and close all connections that it leaves open."""
    session = client.eio.http
    if client.connected:
        disconnect_client(client)
    client.shutdown()  # ends its attempts to reconnect
    if client.eio.ws is not None:
        client.eio.ws.shutdown()
    if session is not None:
        session.close()


@contextlib.contextmanager
def python_client(
    arguments: Sequence[str], folder: Path, port: int, env: Mapping[str, str]
) -> Iterator[socketio.Client]:
    """Run a Python program, and connect to it as soon as it listens; it must end with status 0."""
    program = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **env},
        stderr=subprocess.DEVNULL,
    )
    client = socketio.Client()
    try:
        while True:
            try:
                client.connect(f"http://127.0.0.1:{port}")
                break
            except socketio.exceptions.ConnectionError:
                assert program.poll() is None
        yield client
    finally:
        close_client(client)
        program.terminate()
        status = program.wait()
    assert status == 0
