"""The application's source files, and the detection of changes in them."""

from __future__ import annotations

import sys
import sysconfig
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Sources", "involved", "loaded"]


def loaded() -> list[str]:
    """Return the files of all loaded modules outside the standard library and site-packages."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return _own(file for file in files if file is not None)


def involved(error: BaseException) -> list[str]:
    """Return the files that a failed import involves, and their folders.

    A missing module may be created in one of the folders.
    """
    files: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        files += [frame.filename for frame in traceback.extract_tb(seen.__traceback__)]
        if isinstance(seen, SyntaxError) and seen.filename:
            files.append(seen.filename)
        seen = seen.__cause__ or seen.__context__
    own = _own(files)
    return [*own, *{str(Path(file).parent) for file in own}, str(Path.cwd())]


def _own(files: Iterable[str]) -> list[str]:
    others = [
        Path(sysconfig.get_path(name)).resolve()
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ]
    paths = {Path(file).resolve() for file in files}
    return sorted(
        str(path)
        for path in paths
        if path.is_file() and not any(path.is_relative_to(other) for other in others)
    )


class Sources:
    """Source files that are polled for changes."""

    def __init__(self) -> None:
        self._times: dict[str, int | None] = {}

    def add(self, files: Iterable[str], since: int) -> None:
        """Add files; one modified after `since` (``time.time_ns``) counts as changed."""
        for file in files:
            if file not in self._times:
                now = _time(file)
                fresh = now is not None and since < now <= time.time_ns()
                self._times[file] = -1 if fresh else now

    def changed(self) -> str | None:
        """Return a changed file, or None. After a change, all files must be added again."""
        for file, before in self._times.items():
            if _time(file) != before:
                self._times.clear()
                return file
        return None


def _time(file: str) -> int | None:
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:
        return None
