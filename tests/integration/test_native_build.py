"""The native core is optional: builds with and without it, and the tests with its twin."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.builds import ROOT, run
from webpy_socketio.engine import NATIVE

#: Tests of the modules that use the native core.
USERS = [
    *(f"tests/unit/engine/test_{name}.py" for name in ("outbox", "packets", "session", "streams")),
    *(f"tests/integration/engine/test_{name}.py" for name in ("multiplexer", "websocket")),
    "tests/unit/test_fuzz.py",
]

#: Tests that run with sanitizers. Those of parsers in Python would only take longer.
SANITIZED = [
    "tests/unit/test_message_log.py",
    *(f"tests/unit/engine/test_{name}.py" for name in ("native", "outbox", "packets", "streams")),
]

SOURCE = "webpy_socketio/engine/io/_native.c"
EXTENSION = "webpy_socketio/engine/io/_native.abi3.so"


@pytest.fixture
def tree(source: Path, tmp_path: Path) -> Path:
    """A copy of the source tree without the extension."""
    tree = tmp_path / "tree"
    shutil.copytree(source, tree)
    (tree / EXTENSION).unlink(missing_ok=True)
    return tree


def build(tree: Path, **env: str) -> tuple[str, set[str], list[str]]:
    """Build a wheel; return its name, its files, and the lines about the native core."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel"]
    done = run(*command, cwd=tree, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    lines = (done.stdout + done.stderr).splitlines()
    return wheel.name, files, [line for line in lines if "native core" in line]


@pytest.mark.time_limit(120)
class TestBuild:
    def test_build_without_a_compiler_logs_one_line(self, tree: Path) -> None:
        (tree / EXTENSION).write_text("of an older source")
        _, files, lines = build(tree, CC="no-such-compiler", WEBPY_SOCKETIO_PURE="")
        assert EXTENSION not in files
        (line,) = lines
        assert "the native core was not built" in line
        assert "no-such-compiler" in line
        assert "gcc python3-dev" in line

    def test_build_for_pure_python_is_platform_independent(self, tree: Path) -> None:
        name, files, lines = build(tree, WEBPY_SOCKETIO_PURE="1")
        assert name.endswith("-py3-none-any.whl")
        assert EXTENSION not in files
        assert lines == []


def run_tests(*files: str, cwd: Path, **env: str) -> None:
    """Run tests in another process; they must pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.skipif(not NATIVE, reason="the native core is not in use: all tests use its twin")
class TestTwin:
    @pytest.mark.time_limit(600)
    def test_tests_pass_in_pure_python(self) -> None:
        run_tests(*USERS, cwd=ROOT, WEBPY_SOCKETIO_PURE="1")

    @pytest.mark.time_limit(60)
    @pytest.mark.parametrize(("value", "native"), [("", True), ("0", True), ("1", False)])
    def test_variable_forces_pure_python(self, value: str, native: bool) -> None:
        program = "from webpy_socketio.engine import NATIVE; print(NATIVE)"
        done = run(sys.executable, "-c", program, cwd=ROOT, WEBPY_SOCKETIO_PURE=value)
        assert done.stdout == f"{native}\n", done.stderr


def library(name: str) -> str | None:
    """Return the path of a library of gcc, or None if it is not installed."""
    if shutil.which("gcc") is None:
        return None
    found = run("gcc", f"-print-file-name={name}", cwd=ROOT).stdout.strip()
    return found if Path(found).is_absolute() else None


@pytest.mark.torture
@pytest.mark.skipif("FULL_LOAD" not in os.environ, reason="takes a minute: runs in make torture")
class TestSanitizers:
    @pytest.mark.time_limit(900)
    def test_tests_pass_with_address_and_undefined_behaviour_sanitizers(self, tree: Path) -> None:
        runtimes = [library("libasan.so"), library("libubsan.so")]
        headers = sysconfig.get_path("include")
        if None in runtimes or not Path(headers, "Python.h").exists():
            pytest.skip("gcc, its sanitizers or the headers of Python are not installed")
        flags = "-O1 -g -fno-omit-frame-pointer -Wall -Wextra -Wconversion -Werror -shared -fPIC"
        checks = "-fsanitize=address,undefined -fno-sanitize-recover=all"
        command = ["gcc", *flags.split(), *checks.split(), f"-I{headers}", SOURCE, "-o", EXTENSION]
        compiled = run(*command, cwd=tree)
        assert compiled.returncode == 0, compiled.stderr
        run_tests(
            *SANITIZED,
            cwd=tree,
            LD_PRELOAD=" ".join(str(path) for path in runtimes),
            PYTHONMALLOC="malloc",  # otherwise small objects share blocks
            ASAN_OPTIONS="detect_leaks=0",  # the interpreter never frees some of its objects
            WEBPY_SOCKETIO_PURE="",
        )
