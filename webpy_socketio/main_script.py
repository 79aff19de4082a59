"""The main script: whether it is imported a second time, and what it must not do meanwhile."""

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
    """Whether this runs in the second import of the main script, which web.py's reloader makes.

    The script runs as ``__main__`` and, from within, once more under its own name; the first is
    the one that is to serve.
    """
    main = getattr(sys.modules["__main__"], "__file__", None)
    return main is not None and any(
        Path(frame.f_globals.get("__file__") or "").resolve() == Path(main).resolve()
        for frame in _importing()
    )


def _importing() -> Iterator[FrameType]:
    """Yield the frames of modules that are being imported here, the main script's left out."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__":
            yield frame
        frame = frame.f_back


def check_guards(is_ours: Callable[[Any], bool]) -> None:
    """Let web.py's server raise `SettingsError` where it would block an import.

    ``app.run()`` without a ``__main__`` guard serves inside the import that web.py's reloader,
    gunicorn or a test makes. That import never ends, and requests wait for it.

    Args:
        is_ours: Whether an application has Socket.IO in its urls. Only those are rejected in an
            import that is not the reloader's: another application may serve there on purpose.

    """
    run, runsimple = web.application.run, web.httpserver.runsimple

    @functools.wraps(run)
    def checked_run(application: Any, *middleware: Any) -> Any:
        _raise_unguarded("app.run()", is_ours(application))
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
