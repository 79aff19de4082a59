"""The private folder of the workers: its permissions, and its removal by others."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from webpy_socketio.engine.workers.runtime_folder import RuntimeFolder, make_runtime_folder


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for runtime folders, with a short path."""
    parent = Path("/tmp") / f"parent-{os.getpid()}-{abs(hash(tmp_path)) % 10_000}"
    parent.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(parent))
    yield parent
    shutil.rmtree(parent)


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Lock a folder as a process does that removes it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def remove(folder: RuntimeFolder) -> None:
    """Remove a folder while it is locked: other tests start servers, which remove unused ones."""
    folder.path.rmdir()
    folder.close()


class TestParentFolder:
    def test_folder_is_created_in_the_runtime_directory(self, parent: Path) -> None:
        folder = make_runtime_folder()
        assert folder.path.parent == parent
        assert folder.path.stat().st_mode & 0o777 == 0o700
        folder.close()

    @pytest.mark.parametrize("mode", [0o770, 0o777])
    def test_runtime_directory_that_others_may_write_to_is_not_used(
        self, parent: Path, mode: int
    ) -> None:
        parent.chmod(mode)
        folder = make_runtime_folder()
        assert folder.path.parent != parent
        remove(folder)

    @pytest.mark.parametrize("given", ["", "relative", "/nothing/there", "/" + "x" * 90])
    def test_unusable_runtime_directory_falls_back_to_temporary_files(
        self, given: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", given)
        remove(make_runtime_folder())


class TestPermissions:
    def test_symbolic_link_is_rejected(self, parent: Path) -> None:
        (parent / "real").mkdir(mode=0o700)
        (parent / "link").symlink_to(parent / "real")
        with pytest.raises(ValueError, match="not a link"):
            RuntimeFolder(parent / "link")

    def test_link_in_place_of_a_removed_folder_is_rejected(self, parent: Path) -> None:
        folder = make_runtime_folder()
        folder.path.rmdir()
        (parent / "real").mkdir(mode=0o700)
        folder.path.symlink_to(parent / "real")
        with pytest.raises(ValueError, match="not a link"):
            folder.ensure()

    def test_accessible_folder_in_place_of_a_removed_one_is_rejected(self, parent: Path) -> None:
        folder = make_runtime_folder()
        folder.path.rmdir()
        folder.path.mkdir()
        folder.path.chmod(0o755)
        with pytest.raises(ValueError, match="mode 700"):
            folder.ensure()


class TestEnsure:
    def test_removed_folder_is_recreated(self, parent: Path) -> None:
        folder = make_runtime_folder()
        assert not folder.ensure()
        folder.path.rmdir()
        assert folder.ensure()
        assert folder.path.stat().st_mode & 0o777 == 0o700
        assert not folder.ensure()
        folder.close()

    def test_folder_is_locked_against_other_processes(self, parent: Path) -> None:
        folder = make_runtime_folder()
        program = (
            "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY)\n"
            "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)"
        )

        def lock() -> int:
            command = [sys.executable, "-c", program, str(folder.path)]
            return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode

        assert lock() == 1
        folder.path.rmdir()
        folder.ensure()
        assert lock() == 1
        folder.close()
        assert lock() == 0


class TestRemovalByAnotherProcess:
    """A process that starts a server removes folders that it could lock exclusively."""

    def test_folder_that_is_removed_before_it_is_locked_is_not_used(
        self, parent: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[str] = []
        with contextlib.ExitStack() as locks:
            original: Any = tempfile.mkdtemp

            def mkdtemp(**keywords: Any) -> str:
                made.append(original(**keywords))
                if len(made) == 1:
                    locks.enter_context(locked(made[0]))
                return made[-1]

            monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
            folder = make_runtime_folder()
        assert [str(folder.path)] == made[1:]
        folder.close()

    def test_folder_that_is_removed_again_is_recreated_later(self, parent: Path) -> None:
        folder = make_runtime_folder()
        folder.path.rmdir()
        folder.path.mkdir(mode=0o700)
        with locked(folder.path), pytest.raises(BlockingIOError):
            folder.ensure()
        folder.path.rmdir()
        assert folder.ensure()
        assert not folder.ensure()
        folder.close()


class TestCleanup:
    def test_folder_of_a_killed_supervisor_is_removed(self, parent: Path) -> None:
        killed = make_runtime_folder()
        (killed.path / "load").touch()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(killed.path / "1"))
        killed.close()
        folder = make_runtime_folder()
        assert not killed.path.exists()
        folder.close()

    def test_folder_in_use_is_kept(self, parent: Path) -> None:
        one = make_runtime_folder()
        other = make_runtime_folder()
        assert one.path.exists()
        one.close()
        other.close()

    def test_folder_of_a_worker_without_lock_is_kept(self, parent: Path) -> None:
        """As a version made it that did not lock its folder."""
        used = make_runtime_folder()
        used.close()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(used.path / "1"))
            listener.listen()
            make_runtime_folder().close()
            assert used.path.exists()

    def test_folder_with_other_files_is_kept(self, parent: Path) -> None:
        other = parent / "webpy_socketio-mine"
        other.mkdir()
        (other / "notes").touch()
        make_runtime_folder().close()
        assert (other / "notes").exists()
