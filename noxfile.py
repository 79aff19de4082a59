"""Run the tests on every supported Python version that this machine has.

``nox`` runs them all, ``nox --session "tests(3.13)"`` one of them. Each version has its own virtual
environment, made by the Makefile, so that a session runs exactly what ``make test`` runs.
"""

from __future__ import annotations

import shutil

import nox

VERSIONS = ("3.10", "3.11", "3.12", "3.13")


@nox.session(venv_backend="none")
@nox.parametrize("version", [nox.param(version, id=version) for version in VERSIONS])
def tests(session: nox.Session, version: str) -> None:
    """Run ``make test``; arguments behind ``--`` are passed to pytest."""
    interpreter = f"python{version}"
    if shutil.which(interpreter) is None:
        session.skip(f"{interpreter} is not installed")
    session.run(
        "make",
        "test",
        f"PYTHON={interpreter}",
        f"VENV=.nox/{version}",
        f"PYTEST_ARGS={' '.join(session.posargs)}",
        external=True,
    )
