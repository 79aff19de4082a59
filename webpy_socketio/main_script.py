"""The main script: detect its second import, and servers that would block an import."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import web
import web.httpserver

from webpy_socketio.exceptions import SettingsError

__all__ = ["check_guards", "imported_again"]

_GUARD = 'if __name__ == "__main__":'


def imported_again() -> bool:
    """Return whether the reloader of web.py is importing the main script a second time.

    The script runs as ``__main__`` and is imported under its own name from there. Only the first
    run must start a server.
    """
    main = getattr(sys.modules["__main__"], "__file__", None)
    return main is not None and any(
        Path(frame.f_globals.get("__file__") or "").resolve() == Path(main).resolve()
        for frame in _importing()
    )


def _importing() -> Iterator[FrameType]:
    """Yield the frames of modules being imported in this thread, except the main script."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__":
            yield frame
        frame = frame.f_back


def check_guards(uses_socketio: Callable[[Any], bool]) -> None:
    """Make web.py's server raise `SettingsError` where it would block an import.

    ``app.run()`` without a ``__main__`` guard serves during an import by web.py's reloader,
    gunicorn or a test. That import never ends, and requests wait for it.

    Args:
        uses_socketio: Return whether the URLs of an application include Socket.IO. Other
            applications
            may serve during an import on purpose, except one by the reloader.
    """
    run, runsimple = web.application.run, web.httpserver.runsimple

    @functools.wraps(run)
    def checked_run(application: Any, *middleware: Any) -> Any:
        _raise_unguarded("app.run()", uses_socketio(application))
        return run(application, *middleware)

    @functools.wraps(runsimple)
    def checked_runsimple(*args: Any, **keywords: Any) -> Any:
        _raise_unguarded("web.httpserver.runsimple()", False)
        return runsimple(*args, **keywords)

    web.application.run = checked_run
    web.httpserver.runsimple = checked_runsimple


def _raise_unguarded(call: str, everywhere: bool) -> None:
    frame = next(_importing(), None)
    if frame is None or not (everywhere or imported_again()):
        return
    raise SettingsError(
        f"the module starts a server while it is imported: {call} has no `__main__` guard, and the "
        f"import would never end. Replace it by two lines: `{_GUARD}` and, indented, "
        '`SocketIOServer(("127.0.0.1", 8000), app.wsgifunc()).serve_forever()`'
    )
