"""Check of the keywords of ``SocketIOServer(...)`` in the application's file, by parsing it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from webpy_socketio.cli.checks import CheckContext, Finding, problem, warning
from webpy_socketio.cli.importer import shorten
from webpy_socketio.config.settings import PREFIX
from webpy_socketio.config.validation import is_setting, suggest
from webpy_socketio.exceptions import SettingsError
from webpy_socketio.runtime import default_runtime
from webpy_socketio.server import KEYWORDS, SocketIOServer

__all__ = ["keywords"]

#: Parameters that `SocketIOServer` names; its other keywords are settings or pywsgi's.
_OWN = frozenset(inspect.signature(SocketIOServer).parameters) - {"keywords"}


def keywords(context: CheckContext) -> Iterator[Finding]:
    """Check the keywords, and report settings that only the program itself uses."""
    file = getattr(context.named.module, "__file__", None) if context.named else None
    if file is None or not file.endswith(".py"):
        return
    for call in ast.walk(ast.parse(Path(file).read_bytes())):
        if not isinstance(call, ast.Call) or _last_name(call.func) != SocketIOServer.__name__:
            continue
        where = f"{shorten(file)}:{call.lineno}"
        for one in call.keywords:
            wrong = _wrong(one)
            if wrong is not None:
                yield problem("settings", f"{where}: {wrong}", f"correct it in {where}")
        yield from _local_settings(call, where, shorten(file))
        names = {one.arg for one in call.keywords}
        if {"certfile", "ssl_context"} & names and context.arguments.certfile is None:
            yield warning(
                "tls",
                f"{where}: the certificate is not checked",
                "pass it as --certfile, and its key as --keyfile",
            )


def _local_settings(call: ast.Call, where: str, file: str) -> Iterator[Finding]:
    """Report settings that `serve`, gunicorn and the other checks do not see."""
    names = sorted(one.arg for one in call.keywords if one.arg and is_setting(one.arg))
    found = names + [f"**{ast.unparse(one.value)}" for one in call.keywords if one.arg is None]
    if found:
        yield warning(
            "settings",
            f"{where}: SocketIOServer is passed {', '.join(found)}: this applies to "
            f"`python {file}` only, not to `webpy-socketio serve`, gunicorn or these checks",
            "unless this is intended, move "
            + (", ".join(PREFIX + name.upper() for name in names) or "them")
            + " to web.config or a settings module",
        )


def _wrong(keyword: ast.keyword) -> str | None:
    name = keyword.arg
    if name is None or name in KEYWORDS or name in _OWN:
        return None
    if not is_setting(name):
        return f"SocketIOServer() takes no keyword {name!r}{suggest(name, list(KEYWORDS))}"
    try:
        value: Any = ast.literal_eval(keyword.value)
    except (ValueError, TypeError):  # not a literal
        return None
    try:
        default_runtime.sources.resolve({name: value}, {})
    except SettingsError as error:
        return str(error)
    return None


def _last_name(function: ast.expr) -> str:
    return ast.unparse(function).rpartition(".")[2]
