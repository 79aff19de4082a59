"""Programs of the tests: one that starts by a fork runs as in a new interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import commands
from tests.servers import Process

PROGRAM = """\
from gevent import monkey; monkey.patch_all()
import atexit, os, resource, signal, sys, warnings
import web
atexit.register(print, "atexit")
print(__name__, globals().get("__file__"), sys.argv, sys.orig_argv[1:], os.getcwd())
print(os.environ["WORD"], sys.path[0], "/of/ours" in sys.path, sys.warnoptions)
print(sys.modules["__main__"].web is web, signal.getsignal(signal.SIGINT), sys.stdin.readline())
print(resource.getrlimit(resource.RLIMIT_NOFILE), sorted(os.listdir("/proc/self/fd"))[:3])
print("a complaint", file=sys.stderr)
try:
    warnings.warn("an opinion")
except UserWarning:
    sys.exit(3)
"""

#: Arguments of the interpreter; "program.py" is a script.
COMMANDS = {
    "script": ["-W", "error", "program.py", "argument"],
    "code": ["-W", "error", "-c", PROGRAM, "argument"],
}


@pytest.mark.time_limit(30)
@pytest.mark.parametrize("kind", COMMANDS)
def test_forked_program_runs_as_in_a_new_interpreter(kind: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    seen = []
    for fork in (False, True):
        log = tmp_path / f"{fork}.log"
        env = {"WORD": "set", "PYTHONPATH": "/of/ours"}
        command = [sys.executable, *COMMANDS[kind]]
        program = Process(command, log, env, tmp_path, fork=fork)
        program.say("a line")
        lines = [program.next_line() for _ in range(6)]
        seen.append((lines, program.wait(), program.errors, program.popen.poll()))
    assert seen[0] == seen[1]
    assert seen[0][1:] == (3, "a complaint\n", 3)
    assert seen[0][0][-1] == "atexit"


#: A module that prints what a module of the application can see, and then cannot be imported.
MODULE = """\
import os, sys
print(__name__, sys.argv, sys.path[0], os.getcwd(), os.environ["WORD"], flush=True)
print(sys.orig_argv[1:3], len(sys.orig_argv), sys.stdin.read())
1 / 0
"""


@pytest.mark.time_limit(30)
def test_forked_command_line_runs_as_in_a_new_interpreter(tmp_path: Path) -> None:
    (tmp_path / "site_of_ours.py").write_text(MODULE)
    words = ("routes", "site_of_ours:app")
    new, forked = (
        commands.run(*words, cwd=tmp_path, fork=fork, WORD="set") for fork in (False, True)
    )
    assert new == forked
    assert new.status == 1
    assert "division by zero" in new.err
