"""The private folder in which the workers of one machine meet."""

from __future__ import annotations

import _socket
import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows, where there are no workers
    fcntl = None

__all__ = ["RuntimeFolder", "make_runtime_folder"]

_PREFIX = "webpy_socketio-"

#: Bytes of a Unix socket's path, less than the 104 of macOS: a name comes behind the folder's.
_MAX_LENGTH = 90

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


class RuntimeFolder:
    """A folder that belongs to this user, that no other user may enter, and that is locked.

    systemd-tmpfiles leaves a folder alone while a process holds a lock on it; the lock also shows to
    `make_runtime_folder` that the folder is in use. Other cleaners do not look: `ensure` makes the
    folder again.

    Raises `ValueError` if the folder is another user's, or open to others, or no folder, or its path
    is too long for a Unix socket; `OSError` if it cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if len(os.fsencode(self.path)) > _MAX_LENGTH:
            raise ValueError(f"{path} is too long for a Unix socket: set TMPDIR to a shorter one")
        self._descriptor = -1
        self._open()

    def ensure(self) -> bool:
        """Make the folder again if it is missing; returns True if it had to be made.

        Raises as the class does.
        """
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(self.path), os.fstat(self._descriptor)):
                return False
        with contextlib.suppress(FileExistsError):  # another worker was faster, or an attacker
            self.path.mkdir(mode=0o700)
        self.close()
        self._open()
        return True

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):  # gevent's os.close may wait for the loop
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        try:
            descriptor = os.open(self.path, _FLAGS)  # not by a symbolic link
        except NotADirectoryError:
            raise ValueError(f"{self.path} has to be a folder, and no link to one") from None
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise ValueError(
                    f"{self.path} has to belong to this user, and no other user may enter it (mode 700)"
                )
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor


def make_runtime_folder(user: int | None = None, group: int = -1) -> RuntimeFolder:
    """Make a new folder in $XDG_RUNTIME_DIR, or where temporary files are; remove unused ones.

    `user` and `group` are those of the workers, if they are not this process's.
    """
    if user in (None, os.geteuid()):
        user = None
    place = _place() if user is None else Path(tempfile.gettempdir())
    _remove_unused(place)
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))  # of mode 700
        try:
            folder = RuntimeFolder(path)
        except FileNotFoundError:  # removed as unused, before it was locked
            continue
        if path.exists():
            if user is not None:
                os.chown(path, user, group)
            return folder
        folder.close()


def _place() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    with contextlib.suppress(OSError):
        found = os.lstat(given)
        if (
            Path(given).is_absolute()
            and stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.geteuid()
            and not found.st_mode & 0o022
            and os.access(given, os.W_OK | os.X_OK)
            and len(os.fsencode(given)) + len(_PREFIX) + 10 <= _MAX_LENGTH
        ):
            return Path(given)
    return Path(tempfile.gettempdir())


def _remove_unused(place: Path) -> None:
    """Remove folders of supervisors that were killed: ours, and locked by no process."""
    for path in place.glob(_PREFIX + "*"):
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError:
            continue
        try:
            found = os.fstat(descriptor)
            if found.st_uid == os.geteuid() and not _is_in_use(path):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # in use
            pass
        finally:
            os.close(descriptor)


def _is_in_use(path: Path) -> bool:
    """Return whether a worker listens there, or something is there that no worker has put there."""
    for each in path.iterdir():
        if each.name == "shares":
            continue
        if not each.name.isdecimal():
            return True
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect(str(each))
        except ConnectionRefusedError:
            continue
        except OSError:
            return True
        finally:
            sock.close()
        return True
    return False
