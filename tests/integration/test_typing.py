"""Type checkers report exactly the mistakes in users' handlers."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = Path("tests", "typing")
PYRIGHT = Path("tests", "js", "node_modules", "pyright", "index.js")

#: Line numbers with errors, by file name.
Errors = dict[str, set[int]]


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy() -> Errors:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    output = run(
        *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"),
        *("--follow-imports=silent", "--hide-error-context", str(SAMPLES)),
    )
    found: Errors = {}
    for line in output.splitlines():
        place = re.match(r"(.*?):(\d+): (error|note): ", line)
        assert place is not None, line
        if place[3] == "error":
            found.setdefault(Path(place[1]).name, set()).add(int(place[2]))
    return found


def pyright() -> Errors:
    node = shutil.which("node")
    if node is None or not (ROOT / PYRIGHT).is_file():
        pytest.skip("pyright is not installed: run npm ci in tests/js (make test does)")
    # pyrightconfig.json sets strictness and import paths.
    output = json.loads(
        run(
            *(node, str(PYRIGHT), "--project", str(SAMPLES), "--outputjson"),
            *("--pythonpath", sys.executable),
        )
    )
    # Without analyzed files there would be no errors either.
    assert output["summary"]["filesAnalyzed"] == len(list((ROOT / SAMPLES).glob("*.py")))
    found: Errors = {}
    for each in output["generalDiagnostics"]:
        lines = found.setdefault(Path(each["file"]).name, set())
        lines.add(each["range"]["start"]["line"] + 1)
    return found


@pytest.fixture(scope="module", params=[mypy, pyright], ids=["mypy", "pyright"])
def errors(request: pytest.FixtureRequest) -> Errors:
    """The errors of a checker in strict mode."""
    found: Errors = request.param()
    return found


@pytest.mark.time_limit(120)
class TestSamples:
    def test_correct_handlers_have_no_errors(self, errors: Errors) -> None:
        assert "good.py" not in errors

    def test_exactly_the_marked_mistakes_are_found(self, errors: Errors) -> None:
        lines = (ROOT / SAMPLES / "bad.py").read_text().splitlines()
        wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
        assert errors["bad.py"] == wrong


def test_installed_package_contains_py_typed() -> None:
    assert (ROOT / "webpy_socketio" / "py.typed").is_file()
