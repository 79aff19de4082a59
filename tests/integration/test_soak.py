"""A short run of the soak test, whose counts must return to their initial values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.load_clients import scaled

SOAK = Path(__file__).parents[1] / "soak.py"

#: Four rounds; those of make torture are longer, and wait longer for lost clients.
LOAD = [
    *("--seconds", str(scaled(30, 1)), "--round", str(scaled(10, 3))),
    *("--timeout", str(scaled(8, 5))),
]


@pytest.mark.torture
@pytest.mark.time_limit(180)
def test_short_soak_leaves_nothing_behind() -> None:
    run = subprocess.run(
        [sys.executable, str(SOAK), *LOAD],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert run.stdout.startswith("seed ")
    assert run.stdout.endswith("nothing is left behind\n")
