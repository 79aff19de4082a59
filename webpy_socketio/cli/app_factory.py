"""The application and the server that the arguments of ``serve`` describe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import web

from webpy_socketio.addresses import is_wildcard, location
from webpy_socketio.cli import named_application
from webpy_socketio.cli.json_logs import JSONRequestHandler
from webpy_socketio.config.settings import Settings
from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.runtime import default_runtime
from webpy_socketio.server import SocketIOServer

__all__ = ["banner", "load", "make", "settings_of"]


def load(arguments: argparse.Namespace) -> Any:
    """Import the application with the settings module that the arguments name."""
    if arguments.settings:
        default_runtime.sources.configure(arguments.settings)
    application = named_application.load(arguments.application)
    if arguments.settings:
        default_runtime.sources.configure(
            arguments.settings
        )  # again: the command line overrides the application
    return application


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the settings that the server will have."""
    return default_runtime.sources.resolve(_keywords(arguments), web.config)


def make(
    arguments: argparse.Namespace, application: Any, listener: Any = None, **more: Any
) -> SocketIOServer:
    """Create the server without starting it."""
    for name in ("certfile", "keyfile"):
        if getattr(arguments, name) is not None:
            more[name] = getattr(arguments, name)
    if "keyfile" in more and "certfile" not in more:
        raise ConfigurationError("--keyfile needs a --certfile")
    if arguments.quiet:
        more["log"] = None
    if arguments.log_format == "json":
        more["handler_class"] = JSONRequestHandler
    server = SocketIOServer(
        listener, named_application.wsgi(application), **_keywords(arguments), **more
    )
    server.announces = False  # `banner` replaces its message
    return server


def banner(
    arguments: argparse.Namespace, address: Any, plugins: Sequence[str], metrics: Any = None
) -> str:
    """Return the text that is printed once the server accepts connections."""
    names = ", ".join(name.rpartition(".")[2] for name in plugins) or "none"
    lines = [
        f"Serving {arguments.application} on {location(address, bool(arguments.certfile))}",
        *(["  on all addresses of this machine"] if is_wildcard(address) else []),
        f"  plugins: {names}",
        f"  workers: {arguments.workers}" + (", reloading" if arguments.reload else ""),
        *([f"  metrics: {location(metrics)}metrics"] if metrics is not None else []),
        "  Ctrl-C stops it",
    ]
    return "\n".join(lines) + "\n"


def _keywords(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        name: value for name in ("host", "port") if (value := getattr(arguments, name)) is not None
    }
