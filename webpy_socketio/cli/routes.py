"""``routes module:app``: lists the URLs and the receivers of each stage, in order."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import web
from blinker import ANY

from webpy_socketio import signals
from webpy_socketio.bus.patterns import NamePattern
from webpy_socketio.cli import named_application
from webpy_socketio.cli.importer import shorten
from webpy_socketio.cli.plugin_preview import preview_plugins
from webpy_socketio.cli.urls import routes, shadowing_pattern
from webpy_socketio.handlers import Handler
from webpy_socketio.runtime import default_runtime

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "run"]

NAME = "routes"
HELP = "show an application's URLs, and the receivers of each stage of a connection, in order"
EXAMPLE = "routes chat:app"

#: Width of the output, and the widest name and arguments that get a column of their own.
WIDTH, NAME_WIDTH, FILTER_WIDTH = 80, 28, 32


Row = tuple[str, str, str]


class Receiver(NamedTuple):
    """A receiver of a stage."""

    stage: str
    name: str
    #: The custom event that it handles; None for messages, and for stages without events.
    event: str | None
    #: The channel pattern that it is limited to.
    channel: str | None
    #: The namespace that it is limited to, a name or the text of a pattern.
    namespace: str | None
    #: file:line
    place: str
    #: The plugin that connected it.
    plugin: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("application", help="module:name of the web.py application, or its file")
    named_application.add_settings(parser)
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Import the application, and list its receivers with the plugins installed."""
    found = named_application.find(arguments.application, arguments.settings)
    chosen = default_runtime.sources.resolve({}, web.config)
    with preview_plugins(chosen, chosen.plugins):
        receivers = [one for stage in signals.STAGES for one in _receivers(stage, chosen.plugins)]
    write = _json if arguments.json else _text
    write(receivers, named_application.applications(found))
    return 0


def _receivers(stage: signals.Stage, plugins: Sequence[str]) -> Iterator[Receiver]:
    for receiver in stage.receivers_for(ANY):
        handler = receiver if isinstance(receiver, Handler) else None
        function = receiver if handler is None else handler.function
        event = None if handler is None or handler.event == "message" else handler.event
        pattern = None if handler is None or handler.pattern is None else handler.pattern
        module = getattr(function, "__module__", None) or type(function).__module__
        yield Receiver(
            stage.name,
            getattr(function, "__qualname__", None) or type(function).__qualname__,
            event,
            None if pattern is None else pattern.regex.pattern,
            None if handler is None else _text_of(handler.namespace),
            _place(function),
            next((name for name in plugins if f"{module}.".startswith(f"{name}.")), None),
        )


def _text_of(namespace: str | NamePattern | None) -> str | None:
    return namespace.regex.pattern if isinstance(namespace, NamePattern) else namespace


def _place(function: Any) -> str:
    while not hasattr(function, "__code__"):
        # Unwrap methods, partials, decorated functions and callable objects down to a code object.
        inner = getattr(function, "__func__", None) or getattr(function, "__wrapped__", None)
        if isinstance(function, partial):
            inner = function.func
        if inner is None:
            inner = getattr(type(function).__call__, "__func__", type(function).__call__)
            if not hasattr(inner, "__code__"):
                return "?"
        function = inner
    code = getattr(function, "__wrapped__", function).__code__
    return f"{shorten(code.co_filename)}:{code.co_firstlineno}"


def _json(receivers: list[Receiver], applications: list[Any]) -> None:
    stages = [
        {
            "stage": stage.name,
            "gate": stage.is_gate,
            "receivers": [
                {key: value for key, value in one._asdict().items() if key != "stage"}
                for one in receivers
                if one.stage == stage.name
            ],
        }
        for stage in signals.STAGES
    ]
    urls = [[route._asdict() for route in routes(one)] for one in applications]
    report = {
        "urls": urls[0] if urls else [],
        "hidden_by": shadowing_pattern(applications[0]) if applications else None,
        "stages": stages,
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _text(receivers: list[Receiver], applications: list[Any]) -> None:
    rows = {
        stage: [(one.name, _filter(one), one.place) for one in receivers if one.stage == stage.name]
        for stage in signals.STAGES
    }
    lines = []
    if applications:
        pages = [(route.pattern, route.target, "") for route in routes(applications[0])]
        lines = ["URLs", *_table(pages, _widths(pages))]
    widths = _widths([row for found in rows.values() for row in found])
    lines += _remarks(applications)
    for stage, found in rows.items():
        lines.append(stage.name + (" (gate)" if stage.is_gate else ""))
        lines += _table(found, widths) or ["  -"]
    sys.stdout.write("\n".join(lines) + "\n")


def _widths(rows: list[Row]) -> tuple[int, int]:
    name, filters = (
        max((len(row[column]) for row in rows if len(row[column]) <= most), default=0)
        for column, most in ((0, NAME_WIDTH), (1, FILTER_WIDTH))
    )
    return name, filters


def _table(rows: list[Row], widths: tuple[int, int]) -> list[str]:
    return [line for row in rows for line in _line(row, widths)]


def _line(row: Row, widths: tuple[int, int]) -> list[str]:
    """Return a row in columns, or on several lines if it is too wide."""
    line = f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip()
    if len(line) <= WIDTH and len(row[0]) <= widths[0] and len(row[1]) <= widths[1]:
        return [line]
    rest = [cell for cell in row[1:] if cell]
    below = f"      {'  '.join(rest)}"
    return [
        f"  {row[0]}",
        *([below] if len(below) <= WIDTH else (f"      {cell}" for cell in rest)),
    ]


def _remarks(applications: list[Any]) -> list[str]:
    if not applications:
        return ["URLs", "  ! no web.application was found"]
    if not any(route.socketio for route in routes(applications[0])):
        return ["  ! socketio_urls is missing: clients cannot reach Socket.IO"]
    first = shadowing_pattern(applications[0])
    return (
        [] if first is None else [f"  ! {first!r} comes before socketio_urls and matches its path"]
    )


def _filter(one: Receiver) -> str:
    words = [] if one.event is None else [f"event {one.event!r}"]
    if one.channel is not None:
        words.append(f"channel {one.channel!r}")
    if one.namespace is not None:
        words.append(f"namespace {one.namespace!r}")
    if one.plugin is not None:
        words.append(f"plugin {one.plugin.rpartition('.')[2]}")
    return ", ".join(words)
