"""A type checker finds in a user's handlers what is wrong with them, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = Path("tests", "typing")

pytest.importorskip("mypy", reason="mypy is not installed")


@pytest.fixture(scope="module")
def complaints() -> dict[str, set[int]]:
    """The lines of each sample that mypy complains about, in its strict mode."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"),
            *("--follow-imports=silent", "--hide-error-context", str(SAMPLES)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[str, set[int]] = {}
    for line in done.stdout.splitlines():
        place = re.match(r"(.*?):(\d+): (error|note): ", line)
        assert place is not None, line
        if place[3] == "error":
            found.setdefault(Path(place[1]).name, set()).add(int(place[2]))
    return found


@pytest.mark.patience(120)
class TestSamples:
    def test_good_handlers_pass(self, complaints: dict[str, set[int]]) -> None:
        assert "good.py" not in complaints

    def test_each_mistake_is_found_and_nothing_else(self, complaints: dict[str, set[int]]) -> None:
        lines = (ROOT / SAMPLES / "bad.py").read_text().splitlines()
        wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
        assert complaints["bad.py"] == wrong

    def test_what_is_installed_says_that_it_is_typed(self) -> None:
        assert (ROOT / "webpy_socketio" / "py.typed").is_file()
