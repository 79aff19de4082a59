"""``routes module:app``: who receives what, in which order, and where it is written."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import web
from blinker import ANY

from webpy_socketio import signals
from webpy_socketio.cli import target
from webpy_socketio.cli.importer import shorten
from webpy_socketio.cli.plugin_preview import preview_plugins
from webpy_socketio.cli.urls import hiding, routes
from webpy_socketio.config.settings import resolve
from webpy_socketio.events import Handler

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "run"]

NAME = "routes"
HELP = "show an application's urls, and who receives each stage of a connection, in order"
EXAMPLE = "routes chat:app"

#: Columns of what is written, and the most that a name, and what it takes, have of them.
WIDTH, NAME_WIDTH, TAKES_WIDTH = 80, 28, 32


Row = tuple[str, str, str]


class Receiver(NamedTuple):
    """Somebody who receives a stage."""

    stage: str
    name: str
    #: The custom event that it waits for; None for all, or for messages.
    event: str | None
    #: The channels that it is bound to.
    channel: str | None
    #: file:line
    place: str
    #: The plugin that it came with.
    plugin: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what it takes."""
    parser.add_argument("application", help="module:name of the web.py application, or its file")
    target.add_settings(parser)
    parser.add_argument("--json", action="store_true", help="write JSON, for machines")


def run(arguments: argparse.Namespace) -> int:
    """Import the application, switch its plugins on, and off again when all is seen."""
    found = target.find(arguments.application, arguments.settings)
    chosen = resolve({}, web.config)
    with preview_plugins(chosen, chosen.plugins):
        receivers = [one for stage in signals.STAGES for one in _receivers(stage, chosen.plugins)]
    write = _json if arguments.json else _text
    write(receivers, target.applications(found))
    return 0


def _receivers(stage: signals.Stage, plugins: list[str]) -> Iterator[Receiver]:
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
            _place(function),
            next((name for name in plugins if f"{module}.".startswith(f"{name}.")), None),
        )


def _place(function: Any) -> str:
    while not hasattr(function, "__code__"):
        # A method, a partial, a wrapper, or an object with __call__: to what is written somewhere.
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
            "gate": stage in signals.GATES,
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
        "hidden_by": hiding(applications[0]) if applications else None,
        "stages": stages,
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _text(receivers: list[Receiver], applications: list[Any]) -> None:
    rows = {
        stage: [(one.name, _takes(one), one.place) for one in receivers if one.stage == stage.name]
        for stage in signals.STAGES
    }
    lines = []
    if applications:
        pages = [(route.pattern, route.target, "") for route in routes(applications[0])]
        lines = ["urls", *_table(pages, _widths(pages))]
    widths = _widths([row for found in rows.values() for row in found])
    lines += _remarks(applications)
    for stage, found in rows.items():
        lines.append(stage.name + (" (gate)" if stage in signals.GATES else ""))
        lines += _table(found, widths) or ["  -"]
    sys.stdout.write("\n".join(lines) + "\n")


def _widths(rows: list[Row]) -> tuple[int, int]:
    name, takes = (
        max((len(row[column]) for row in rows if len(row[column]) <= most), default=0)
        for column, most in ((0, NAME_WIDTH), (1, TAKES_WIDTH))
    )
    return name, takes


def _table(rows: list[Row], widths: tuple[int, int]) -> list[str]:
    return [line for row in rows for line in _line(row, widths)]


def _line(row: Row, widths: tuple[int, int]) -> list[str]:
    """A row in its columns, or below each other what has no room there."""
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
        return ["urls", "  ! there is no web.application to look into"]
    if not any(route.socketio for route in routes(applications[0])):
        return ["  ! socketio_urls is not among them: no client finds Socket.IO"]
    first = hiding(applications[0])
    return [] if first is None else [f"  ! {first!r} comes first and takes what is Socket.IO's"]


def _takes(one: Receiver) -> str:
    words = [] if one.event is None else [f"event {one.event!r}"]
    if one.channel is not None:
        words.append(f"channel {one.channel!r}")
    if one.plugin is not None:
        words.append(f"plugin {one.plugin.rpartition('.')[2]}")
    return ", ".join(words)
