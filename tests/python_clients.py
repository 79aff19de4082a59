"""Clients of python-socketio for programs that tests start."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import socketio

__all__ = ["python_client"]


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
        client.disconnect()
        program.terminate()
        status = program.wait()
    assert status == 0
