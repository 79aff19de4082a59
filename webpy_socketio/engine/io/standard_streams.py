"""Protection against standard streams that are closed or whose reader has exited."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["protect_standard_streams"]


def protect_standard_streams() -> None:
    """Make ``sys.stdout`` and ``sys.stderr`` discard what cannot be written.

    A server may outlive the terminal or the pipe that it was started with. Without this, ``print``
    in a handler, the access log and gevent's error reports raise once the reader has exited.

    Idempotent: a further call protects streams that were assigned since.
    """
    for descriptor in (0, 1, 2):
        _occupy(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the interpreter was started with the descriptor closed
            discarding = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until exit
            setattr(sys, name, discarding)
        else:
            _protect(stream)


def _occupy(descriptor: int) -> None:
    """Open /dev/null under a closed standard descriptor.

    Otherwise the next connection gets this number, and C code or a child process that writes to
    standard error writes to that client.
    """
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)


def _protect(stream: Any) -> None:
    """Replace the methods that write.

    The stream object itself must stay: logging handlers and other modules reference it.
    """
    attributes = getattr(stream, "__dict__", None)
    if attributes is None or "_webpy_socketio_protected" in attributes:
        return
    stream._webpy_socketio_protected = True
    for name in ("write", "writelines", "flush"):
        method = getattr(stream, name, None)
        if method is not None:
            setattr(stream, name, _discarding(stream, method))


def _discarding(stream: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    def write(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except OSError:  # such as EPIPE, EIO of a closed terminal, ENOSPC
            pass
        except ValueError:
            if not stream.closed:  # UnicodeEncodeError must reach the caller
                raise
        return len(arguments[0]) if arguments and isinstance(arguments[0], str) else None

    return write
