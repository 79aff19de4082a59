"""A short run of the soak test, whose counts must return to their initial values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")


@pytest.mark.torture
@pytest.mark.time_limit(180)
def test_short_soak_leaves_nothing_behind() -> None:
    run = subprocess.run(
        [sys.executable, str(SOAK), "--seconds", "30"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert run.stdout.startswith("seed ")
    assert run.stdout.endswith("nothing is left behind\n")
