"""Importing a module that somebody else wrote: it may fail in any way, and is not to serve yet."""

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

_OURS = str(Path(__file__).resolve().parent.parent)

#: Of files between us and the module that is imported: importlib's, written in Python and frozen.
_MACHINERY = ("<frozen importlib", str(Path(importlib.__file__).parent))


class ImportFailed(ConfigurationError):
    """A module raised while it was imported; `summary` is one line, `details` its traceback."""

    def __init__(self, summary: str, details: str = "") -> None:
        super().__init__(f"{summary}\n{details}".rstrip())
        self.summary = summary
        self.details = details


def import_module(name: str) -> ModuleType:
    """Import a module of the user's; raises `ImportFailed`, `ModuleNotFoundError` if it is not there.

    ``sys.argv`` is empty for it, as the words there are ours. A server that it starts is not started,
    as nothing would come after that.
    """
    words, sys.argv = sys.argv, [""]
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
        sys.argv = words
    return module


@contextmanager
def refusing_servers() -> Iterator[None]:
    """Let no module that is imported within listen on a port; raise `ImportFailed` if one tries to."""
    with _no_server() as places:
        try:
            yield
        except (Exception, SystemExit, _Listens):
            if places:
                raise _serves(places) from None
            raise
    if places:  # the module went on, or a greenlet of its own tried
        raise _serves(places)


def shorten(path: str) -> str:
    """A path as short as it is clear: from the current folder, or from the one of the packages."""
    file = Path(path)
    for folder in (Path.cwd(), *map(Path, filter(None, sys.path)), Path(_OURS).parent):
        if file.is_relative_to(folder):
            return str(file.relative_to(folder))
    return path


@contextmanager
def _no_server() -> Iterator[list[str]]:
    """Let nobody listen on a port, and note the places in the module where somebody tried to.

    gevent's class has taken the place of the library's, so every server of the process is meant: ours,
    web.py's, anybody's.
    """
    places: list[str] = []
    kind: Any = socket.socket
    bind = kind.bind

    def refuse(sock: Any, frame: FrameType | None) -> None:
        places.append(_statement(frame))
        sock.close()
        raise _Listens

    def bind_no_port(self: Any, address: Any) -> Any:
        tcp = self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM
        if tcp and address[1]:  # port 0: to find a free one
            refuse(self, sys._getframe(1))
        return bind(self, address)

    def listen(self: Any, *args: Any) -> Any:
        refuse(self, sys._getframe(1))

    kind.bind, kind.listen = bind_no_port, listen
    try:
        yield places
    finally:
        del kind.bind, kind.listen


class _Listens(GreenletExit):
    """Raised where a module would begin to listen: no error that it could handle, or that its greenlet
    would be printed for.
    """


def _serves(places: list[str]) -> ImportFailed:
    return ImportFailed(
        f"{places[0]}: the module starts a server while it is imported; put that line, and whatever "
        'else is only for `python` to run, under `if __name__ == "__main__":`'
    )


def _statement(frame: FrameType | None) -> str:
    """The innermost statement of a module under way: what led here, or where the greenlet began."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" or frame.f_back is None:
            return f"{shorten(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _is_missing(name: str, error: BaseException) -> bool:
    """Whether it is the module itself that is not there, and not one that it imports."""
    return isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")


def _explain(name: str, error: BaseException) -> ImportFailed:
    place = _place(error)
    if isinstance(error, SystemExit):
        return ImportFailed(f"{place or name}: the module ends the program while it is imported")
    if isinstance(error, SyntaxError):
        place = f"{shorten(error.filename or name)}:{error.lineno}"
    if isinstance(error, ConfigurationError):  # which tells what to do already
        return ImportFailed(f"{place}: {error}" if place else str(error))
    whole = traceback.TracebackException.from_exception(error)
    _trim(whole)
    said = str(error) or "no more is said"
    return ImportFailed(
        f"{place or name}: the module cannot be imported: {type(error).__name__}: "
        + " ".join(said.split()),
        "".join(whole.format()),
    )


def _place(error: BaseException) -> str:
    """Where in the user's own files an exception passed last."""
    found = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*_MACHINERY, _OURS, "<"))
        and "site-packages" not in Path(frame.filename).parts
    ]
    return f"{shorten(found[-1].filename)}:{found[-1].lineno}" if found else ""


def _trim(whole: traceback.TracebackException) -> None:
    """Take out the frames that say nothing about the user's module: ours, and importlib's."""
    here = str(Path(__file__).parent)
    seen: list[traceback.TracebackException | None] = [whole]
    while seen:
        one = seen.pop()
        if one is not None:
            one.stack[:] = [
                frame for frame in one.stack if not frame.filename.startswith((*_MACHINERY, here))
            ]
            seen += [one.__cause__, one.__context__]
