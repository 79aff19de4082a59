"""The private folder of a server, which its workers share."""

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
except ImportError:  # Windows, which has no workers
    fcntl = None

__all__ = ["PREFIX", "STATUS_PREFIX", "RuntimeFolder", "make_runtime_folder", "parent_folder"]

#: Beginning of the name of a folder.
PREFIX = "webpy_socketio-"

#: Beginning of the name of a status socket.
STATUS_PREFIX = "status-"

#: Bytes of the longest folder path. macOS limits socket paths to 104, including the file name.
_MAX_LENGTH = 90

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


class RuntimeFolder:
    """A folder of this user with mode 700, locked while it is in use.

    systemd-tmpfiles does not remove a folder while a process holds a lock on it. The lock also
    shows `make_runtime_folder` that the folder is in use. Other cleaners ignore the lock; `ensure`
    recreates the folder.

    Args:
        path: An existing folder.

    Raises:
        ValueError: The folder belongs to another user, is accessible to others or is not a folder,
            or its path is too long for a Unix socket.
        BlockingIOError: Another process is about to remove the folder.
        OSError: The folder cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if len(os.fsencode(self.path)) > _MAX_LENGTH:
            raise ValueError(f"{path} is too long for a Unix socket: set TMPDIR to a shorter one")
        self._descriptor = -1
        self._open()

    def ensure(self) -> bool:
        """Recreate the folder if it is missing, and return whether that was necessary.

        Raises the exceptions of the class.
        """
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self.path)
            if self._descriptor >= 0 and os.path.samestat(found, os.fstat(self._descriptor)):
                return False
        with contextlib.suppress(FileExistsError):  # made by another worker, or by an attacker
            self.path.mkdir(mode=0o700)
        self.close()
        self._open()
        return True

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):  # unlock first: gevent may defer os.close
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        try:
            descriptor = os.open(self.path, _FLAGS)  # does not follow symbolic links
        except NotADirectoryError:
            raise ValueError(f"{self.path} must be a folder, not a link to one") from None
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise ValueError(
                    f"{self.path} must belong to this user and be accessible to no other (mode 700)"
                )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:  # locked by `_remove_unused`, which removes it
                raise
            except OSError:  # the file system has no locks
                pass
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor


def make_runtime_folder(user: int | None = None, group: int = -1) -> RuntimeFolder:
    """Make a new folder in $XDG_RUNTIME_DIR or the temporary folder, and remove unused ones.

    Args:
        user: User id of the workers; None for that of this process.
        group: Group id of the workers, if `user` differs from that of this process.
    """
    if user in (None, os.geteuid()):
        user = None
    parent = parent_folder() if user is None else Path(tempfile.gettempdir())
    _remove_unused(parent)
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # of mode 700
        try:
            folder = RuntimeFolder(path)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process removes a folder that is not locked yet
        if path.exists():
            if user is not None:
                os.chown(path, user, group)
            return folder
        folder.close()


def parent_folder() -> Path:
    """Return the folder in which `make_runtime_folder` makes folders of this user."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    with contextlib.suppress(OSError):
        found = os.lstat(given)
        if (
            Path(given).is_absolute()
            and stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.geteuid()
            and not found.st_mode & 0o022
            and os.access(given, os.W_OK | os.X_OK)
            and len(os.fsencode(given)) + len(PREFIX) + 10 <= _MAX_LENGTH
        ):
            return Path(given)
    return Path(tempfile.gettempdir())


def _remove_unused(parent: Path) -> None:
    """Remove folders of this user that no process has locked (of supervisors that were killed)."""
    for path in parent.glob(PREFIX + "*"):
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
    """Return whether a process listens there, or a file is not one of a process."""
    for each in path.iterdir():
        if each.name == "load":
            continue
        if not each.name.isdecimal() and not each.name.startswith(STATUS_PREFIX):
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
