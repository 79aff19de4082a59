"""The application: what its own program imports first, its urls, and web.py's debug mode."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import web

from webpy_socketio import loggers
from webpy_socketio.application import SocketIOView, check_patching
from webpy_socketio.cli.checks import CheckContext, Finding, ok, problem, warning
from webpy_socketio.cli.importer import shorten
from webpy_socketio.cli.urls import hiding
from webpy_socketio.exceptions import PatchingError

__all__ = ["debug", "logging", "patching", "urls"]

_FIRST_LINES = "from gevent import monkey; monkey.patch_all()"


def patching(patient: CheckContext) -> Iterator[Finding]:
    """Does gevent patch before web.py is imported, when the module runs as a program too?"""
    try:
        check_patching()
    except PatchingError as error:  # the application has undone what the command line did
        yield problem("patching", str(error))
        return
    file = getattr(patient.target.module, "__file__", None) if patient.target else None
    if file is None or not file.endswith(".py"):
        yield ok("patching", "the command line patches first")
        return
    name = shorten(file)
    program = _Program(ast.parse(Path(file).read_bytes()))
    if not program.runs:
        yield ok("patching", f"{name} is not a program: `webpy-socketio serve` patches first")
    elif program.patched is None:
        yield problem(
            "patching",
            f"`python {name}` does not patch at all",
            f"make this the first line of {name}: {_FIRST_LINES}",
        )
    elif program.early:
        line, imported = program.early[0]
        yield problem(
            "patching",
            f"{name}:{line} imports {imported} before line {program.patched} patches",
            f"move this to the top of {name}: {_FIRST_LINES}",
        )
    else:
        yield ok("patching", f"{name}:{program.patched} patches first")


class _Program(ast.NodeVisitor):
    """What a module does in which order when it runs; functions are not entered."""

    def __init__(self, tree: ast.Module) -> None:
        #: The line that patches.
        self.patched: int | None = None
        #: What was imported before, and should not have been: lines and names.
        self.early: list[tuple[int, str]] = []
        #: Whether it is made to be run, and not only to be imported.
        self.runs = False
        self.visit(tree)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A function is not run by being defined."""

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Nor is this."""

    def visit_If(self, node: ast.If) -> None:
        if not ast.unparse(node.test).endswith("TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._imports(node.lineno, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._imports(node.lineno, node.module or ".")

    def visit_Compare(self, node: ast.Compare) -> None:
        if "__name__" in ast.unparse(node) and "__main__" in ast.unparse(node):
            self.runs = True

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func).endswith("patch_all") and self.patched is None:
            self.patched = node.lineno
        self.generic_visit(node)

    def _imports(self, line: int, name: str) -> None:
        # The library's own are patched wherever they are; what is somebody's may import web.py.
        root = name.partition(".")[0]
        if self.patched is None and root != "gevent" and root not in sys.stdlib_module_names:
            self.early.append((line, name))


def urls(patient: CheckContext) -> Iterator[Finding]:
    """Does a request for Socket.IO come to where it is answered?"""
    if patient.target is None:
        return
    if not patient.applications:
        yield warning(
            "urls",
            f"{patient.target.name} is no web.application, and there is none beside it to look into",
            "name the module that has the web.application",
        )
        return
    mounted = [
        application
        for application in patient.applications
        if any(what is SocketIOView for _, what in application.mapping)
    ]
    if not mounted:
        yield problem(
            "urls",
            "socketio_urls is not in the application's urls: no client finds Socket.IO",
            "urls += socketio_urls, before web.application(urls, globals())",
        )
        return
    pattern = hiding(mounted[0])
    if pattern is None:
        yield ok("urls", "socketio_urls is among them")
    else:
        yield problem(
            "urls",
            f"the pattern {pattern!r} comes before socketio_urls and takes its requests",
            f"put socketio_urls in front of {pattern!r}",
        )


def debug(patient: CheckContext) -> Iterator[Finding]:
    """Is web.py's debug mode off, which shows visitors tracebacks, and reloads modules?"""
    remedy = "web.config.debug = False, before the application is made"
    if patient.target is None:
        return
    if web.config.get("debug"):
        yield warning(
            "debug",
            "web.config.debug is on: modules reload, and visitors are shown tracebacks and variables",
            f"{remedy}, unless this is only for you",
        )
    elif any(map(_reloads, patient.applications)):
        yield warning(
            "debug",
            "web.config.debug was still on when the application was made: its reloader is in it",
            remedy,
        )
    else:
        yield ok("debug", "off")


def logging(patient: CheckContext) -> Iterator[Finding]:
    """Has the application's logging configuration disabled our loggers, and with them tracebacks?"""
    if patient.target is not None and loggers.are_disabled():
        yield warning(
            "logging",
            "the logging configuration disables the logger webpy_socketio, which logs tracebacks",
            'set "disable_existing_loggers": False in it',
        )


def _reloads(application: Any) -> bool:
    reloader = sys.modules[web.application.__module__].Reloader
    return any(
        isinstance(cell.cell_contents, reloader)
        for processor in application.processors
        for cell in getattr(processor, "__closure__", None) or ()
    )
