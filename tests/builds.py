"""Build the package as for a release."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".git",
    ".venv",
    "node_modules",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "data",
    "*.so",
)


def run(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def copy_source(folder: Path) -> Path:
    """Copy the source tree, including the client that `make` has installed."""
    tree = folder / "webpy_socketio"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
    return tree


def build(source: Path, folder: Path) -> Path:
    """Build the sdist, and from it the wheel, without npm."""
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
