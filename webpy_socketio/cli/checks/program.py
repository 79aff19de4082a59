"""Checks of the application: patching, URLs, debug mode and logging."""

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
from webpy_socketio.cli.urls import shadowing_pattern
from webpy_socketio.exceptions import PatchingError

__all__ = ["debug", "logging", "patching", "urls"]

_FIRST_LINES = "from gevent import monkey; monkey.patch_all()"


def patching(context: CheckContext) -> Iterator[Finding]:
    """Check that gevent patches before web.py is imported, also when the file is run."""
    try:
        check_patching()
    except PatchingError as error:  # the application has undone the patches
        yield problem("patching", str(error))
        return
    file = getattr(context.named.module, "__file__", None) if context.named else None
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
    """The imports and patches of a module in the order of execution; functions are skipped."""

    def __init__(self, tree: ast.Module) -> None:
        #: The line that calls ``patch_all``.
        self.patched: int | None = None
        #: Imports before that line: line numbers and module names.
        self.early: list[tuple[int, str]] = []
        #: Whether the module has an ``if __name__ == "__main__"`` block.
        self.runs = False
        self.visit(tree)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Skip the body, which is not run by the definition."""

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Skip the body."""

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
        # gevent patches the standard library in place; other modules may import web.py.
        root = name.partition(".")[0]
        if self.patched is None and root != "gevent" and root not in sys.stdlib_module_names:
            self.early.append((line, name))


def urls(context: CheckContext) -> Iterator[Finding]:
    """Check that Socket.IO's requests reach it."""
    if context.named is None:
        return
    if not context.applications:
        yield warning(
            "urls",
            f"{context.named.name} is not a web.application, and its module contains none",
            "name the module that contains the web.application",
        )
        return
    mounted = [
        application
        for application in context.applications
        if any(what is SocketIOView for _, what in application.mapping)
    ]
    if not mounted:
        yield problem(
            "urls",
            "socketio_urls is not in the application's urls: clients cannot reach Socket.IO",
            "urls += socketio_urls, before web.application(urls, globals())",
        )
        return
    pattern = shadowing_pattern(mounted[0])
    if pattern is None:
        yield ok("urls", "socketio_urls is in the application's urls")
    else:
        yield problem(
            "urls",
            f"the pattern {pattern!r} comes before socketio_urls and matches its requests",
            f"put socketio_urls in front of {pattern!r}",
        )


def debug(context: CheckContext) -> Iterator[Finding]:
    """Check that web.py's debug mode is off: it shows tracebacks and reloads modules."""
    remedy = "set web.config.debug = False before the application is created"
    if context.named is None:
        return
    if web.config.get("debug"):
        yield warning(
            "debug",
            "web.config.debug is on: modules are reloaded, and visitors see tracebacks",
            f"{remedy}, unless only you have access",
        )
    elif any(map(_reloads, context.applications)):
        yield warning(
            "debug",
            "web.config.debug was on when the application was created: its reloader is active",
            remedy,
        )
    else:
        yield ok("debug", "off")


def logging(context: CheckContext) -> Iterator[Finding]:
    """Check that the logging configuration has not disabled the package's loggers."""
    if context.named is not None and loggers.are_disabled():
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
