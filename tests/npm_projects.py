"""Front ends that use the npm package in ``client/``, as packed for npm."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from .builds import ROOT

PACKAGE = ROOT / "client"
MODULES = ROOT / "tests" / "js" / "node_modules"

#: The first Node.js on which Vite 7 runs.
MIN_NODE = (20, 19)


def _missing() -> str:
    """Return why front ends cannot be built on this machine, or an empty string."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "Node.js and npm are not installed"
    if not (MODULES / "vite").is_dir():
        return "TypeScript and Vite are not installed: run npm ci in tests/js (make test does)"
    text = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(part) for part in text.strip().lstrip("v").split(".")[:2])
    if version < MIN_NODE:
        return f"Vite needs Node.js {'.'.join(map(str, MIN_NODE))}, and this is {text.strip()}"
    return ""


requires_node = pytest.mark.skipif(bool(_missing()), reason=_missing() or "nothing is missing")


def pack(folder: Path, *options: str) -> dict[str, Any]:
    """Run ``npm pack``, and return its report on the package."""
    done = subprocess.run(
        ["npm", "pack", "--json", "--no-update-notifier", *options, str(PACKAGE)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: list[dict[str, Any]] = json.loads(done.stdout)
    return report[0]


class Project:
    """A folder in which the package and the modules of the tests are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        modules = folder / "node_modules"
        modules.mkdir()
        for module in MODULES.iterdir():
            if not module.name.startswith("."):
                (modules / module.name).symlink_to(module)
        with tarfile.open(folder / pack(folder)["filename"]) as archive:
            for member in archive.getmembers():
                member.name = member.name.replace("package/", "webpy-socketio-client/", 1)
                archive.extract(member, modules)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the modules, such as ``typescript/bin/tsc``."""
        return subprocess.run(
            self.command(program, *arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command that runs a program of the modules."""
        return ["node", str(MODULES / program), *arguments]

    def check_types(self) -> str:
        """Run the TypeScript compiler, and return its errors."""
        done = self.run("typescript/bin/tsc", "--strict")
        assert done.returncode in (0, 2), done.stderr
        return done.stdout

    def build(self) -> None:
        """Build the front end with Vite."""
        done = self.run("vite/bin/vite.js", "build", "--logLevel", "warn")
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
