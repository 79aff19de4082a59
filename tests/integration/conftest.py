"""Fixtures of the built documentation."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.parallel import build_once
from tests.snippets import DOCS, ROOT


@pytest.fixture(scope="session")
def built_docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the documentation as ``make docs`` does, and return the folder."""
    return build_once(tmp_path_factory, "docs", build_docs)


def build_docs(folder: Path) -> None:
    command = ["-m", "sphinx", "-E", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [sys.executable, *command, "-d", str(folder / "trees"), str(DOCS), str(folder / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.fixture(scope="session")
def described(built_docs: Path) -> set[str]:
    """Return the qualified names that the reference describes."""
    inventory = (built_docs / "html" / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(inventory).decode().splitlines()
    return {
        line.split(" ")[0] for line in lines if line.split(" ")[1].startswith(("py:", "std:se"))
    }
