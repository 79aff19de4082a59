"""Import of the application's module, without letting it start a server."""

from __future__ import annotations

import importlib
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from gevent import GreenletExit

from webpy_socketio.exceptions import ConfigurationError

__all__ = ["ImportFailed", "import_module", "refusing_servers", "shorten"]

_PACKAGE = str(Path(__file__).resolve().parent.parent)

#: Frames of importlib: its Python files and its frozen part.
_IMPORTLIB = ("<frozen importlib", str(Path(importlib.__file__).parent))


class ImportFailed(ConfigurationError):
    """A module raised during its import; `summary` is one line, `details` the traceback."""

    def __init__(self, summary: str, details: str = "") -> None:
        super().__init__(f"{summary}\n{details}".rstrip())
        self.summary = summary
        self.details = details


def import_module(name: str) -> ModuleType:
    """Import a module of the application.

    ``sys.argv`` is empty during the import, because it contains the arguments of this command.
    A module that starts a server is rejected: the import would never return.

    Raises:
        ImportFailed: The module raised, or tried to start a server.
        ModuleNotFoundError: There is no module `name`.
    """
    argv, sys.argv = sys.argv, [""]
    try:
        with refusing_servers():
            module = importlib.import_module(name)
    except ImportFailed:
        raise
    except (Exception, SystemExit) as error:
        if _is_missing(name, error):
            raise
        raise _explain(name, error) from error
    finally:
        sys.argv = argv
    return module


@contextmanager
def refusing_servers() -> Iterator[None]:
    """Raise `ImportFailed` if a module that is imported in this context listens on a port."""
    with _reject_listeners() as places:
        try:
            yield
        except (Exception, SystemExit, _ListenRejected):
            if places:
                raise _server_error(places) from None
            raise
    if places:  # the module caught the exception, or one of its greenlets raised it
        raise _server_error(places)


def shorten(path: str) -> str:
    """Return a path relative to the current folder or an import folder, if it is in one."""
    file = Path(path)
    for folder in (Path.cwd(), *map(Path, filter(None, sys.path)), Path(_PACKAGE).parent):
        if file.is_relative_to(folder):
            return str(file.relative_to(folder))
    return path


@contextmanager
def _reject_listeners() -> Iterator[list[str]]:
    """Make every TCP server of the process fail to listen; yields the places that tried to.

    gevent has replaced ``socket.socket``, so this covers the servers of every library.
    """
    places: list[str] = []
    kind: Any = socket.socket
    bind = kind.bind

    def refuse(sock: Any, frame: FrameType | None) -> None:
        places.append(_statement(frame))
        sock.close()
        raise _ListenRejected

    def bind_no_port(self: Any, address: Any) -> Any:
        tcp = self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM
        if tcp and address[1]:  # binding to port 0 finds a free port, and is no server
            refuse(self, sys._getframe(1))
        return bind(self, address)

    def listen(self: Any, *args: Any) -> Any:
        refuse(self, sys._getframe(1))

    kind.bind, kind.listen = bind_no_port, listen
    try:
        yield places
    finally:
        del kind.bind, kind.listen


class _ListenRejected(GreenletExit):
    """Raised by ``listen``: not caught by ``except Exception``, and not printed for a greenlet."""


def _server_error(places: list[str]) -> ImportFailed:
    return ImportFailed(
        f"{places[0]}: the module starts a server while it is imported; move that line, "
        'and everything else that only `python` should run, under `if __name__ == "__main__":`'
    )


def _statement(frame: FrameType | None) -> str:
    """Return the innermost module-level statement on the stack, or where the greenlet began."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" or frame.f_back is None:
            return f"{shorten(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _is_missing(name: str, error: BaseException) -> bool:
    """Return whether `name` itself is missing, rather than a module that it imports."""
    return isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")


def _explain(name: str, error: BaseException) -> ImportFailed:
    place = _place(error)
    if isinstance(error, SystemExit):
        return ImportFailed(f"{place or name}: the module exits the program during import")
    if isinstance(error, SyntaxError):
        place = f"{shorten(error.filename or name)}:{error.lineno}"
    if isinstance(error, ConfigurationError):  # its message already names the remedy
        return ImportFailed(f"{place}: {error}" if place else str(error))
    report = traceback.TracebackException.from_exception(error)
    _trim(report)
    message = str(error) or "no message"
    return ImportFailed(
        f"{place or name}: the module cannot be imported: {type(error).__name__}: "
        + " ".join(message.split()),
        "".join(report.format()),
    )


def _place(error: BaseException) -> str:
    """Return the last line of the application's own files that an exception passed through."""
    found = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*_IMPORTLIB, _PACKAGE, "<"))
        and "site-packages" not in Path(frame.filename).parts
    ]
    return f"{shorten(found[-1].filename)}:{found[-1].lineno}" if found else ""


def _trim(report: traceback.TracebackException) -> None:
    """Remove the frames of this package and of importlib from a traceback."""
    here = str(Path(__file__).parent)
    pending: list[traceback.TracebackException | None] = [report]
    while pending:
        one = pending.pop()
        if one is not None:
            one.stack[:] = [
                frame for frame in one.stack if not frame.filename.startswith((*_IMPORTLIB, here))
            ]
            pending += [one.__cause__, one.__context__]
