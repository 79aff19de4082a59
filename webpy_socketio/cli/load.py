"""``load URL``: a load test of a Socket.IO server, with latencies and errors."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import gevent

from webpy_socketio.engine.socketio.packets import RESERVED_EVENTS
from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.load.chart import chart
from webpy_socketio.load.open_files import raise_open_files_limit
from webpy_socketio.load.report import report
from webpy_socketio.load.run import LoadTest, Plan
from webpy_socketio.load.target import find_target

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "run"]

T = TypeVar("T")

NAME = "load"
HELP = "connect many clients to a server, send events, and measure latencies"
EXAMPLE = "load http://127.0.0.1:8000 --clients 500 --rate 1 --for 30"

#: Columns of the progress bar, and seconds between two updates.
_BAR, _UPDATE_INTERVAL = 30, 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("url", help="the server, such as http://127.0.0.1:8000")
    parser.add_argument(
        "--clients", type=_integer, default=100, metavar="N", help="number of clients (default 100)"
    )
    parser.add_argument(
        "--rate",
        type=_positive,
        default=1.0,
        metavar="N",
        help="events per second of each client (default 1)",
    )
    parser.add_argument(
        "--for",
        type=_positive,
        default=10.0,
        dest="seconds",
        metavar="SECONDS",
        help="how long events are sent (default 10)",
    )
    parser.add_argument(
        "--event",
        default="load",
        metavar="NAME",
        help="name of the event (default load); latency is that of its acknowledgement",
    )
    parser.add_argument(
        "--data", type=_json, metavar="JSON", help="argument of the event (default: none)"
    )
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=5.0,
        metavar="SECONDS",
        help="time for an answer, and for a client to connect (default 5)",
    )
    parser.add_argument(
        "--connect-rate",
        type=_positive,
        default=1000.0,
        metavar="N",
        help="clients that connect per second (default 1000)",
    )
    parser.add_argument(
        "--path", default="/socket.io/", help="path of Socket.IO (default /socket.io/)"
    )
    parser.add_argument(
        "--namespace", default="/", metavar="NAME", help="Socket.IO namespace (default /)"
    )
    parser.add_argument("--auth", type=_json, metavar="JSON", help="auth payload of each client")
    parser.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        dest="headers",
        metavar="'NAME: VALUE'",
        help="header of the handshake, such as a cookie; may be repeated",
    )
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="allow a server that is not on this machine; test only servers that you operate",
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a chart of the latencies")
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the test; the exit status is 1 after errors, and 130 after Ctrl-C."""
    if arguments.event in RESERVED_EVENTS:
        raise ConfigurationError(
            f"--event {arguments.event} is reserved by Socket.IO: choose another name"
        )
    if not arguments.namespace.startswith("/") or "," in arguments.namespace:
        raise ConfigurationError(
            f"--namespace {arguments.namespace} must start with a slash and contain no comma"
        )
    target = find_target(arguments.url, arguments.path, arguments.allow_remote)
    raise_open_files_limit(arguments.clients)
    if arguments.svg is not None:
        _write(arguments.svg, "")  # fail before the test, not after it
    plan = Plan(
        clients=arguments.clients,
        rate=arguments.rate,
        seconds=arguments.seconds,
        event=arguments.event,
        data=arguments.data,
        namespace=arguments.namespace,
        auth=arguments.auth,
        headers=arguments.headers,
        timeout=arguments.timeout,
        connect_rate=arguments.connect_rate,
    )
    progress = _Progress(sys.stderr.isatty())
    test = LoadTest(target, plan, progress)
    watcher = gevent.signal_handler(signal.SIGINT, test.stop)
    try:
        result = test.run()
    finally:
        watcher.cancel()
        progress.end()
    if arguments.json:
        sys.stdout.write(json.dumps(result.as_json(), indent=2) + "\n")
    else:
        sys.stdout.write(report(result))
    if arguments.svg is not None:
        _write(arguments.svg, chart(result))
    if result.is_interrupted:
        return 130
    return 1 if result.errors else 0


class _Progress:
    """A progress bar on standard error, if that is a terminal."""

    def __init__(self, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._updated = 0.0
        self._width = 0

    def __call__(self, phase: str, share: float) -> None:
        now = time.monotonic()
        if not self._is_shown or (share < 1 and now < self._updated + _UPDATE_INTERVAL):
            return
        self._updated = now
        bar = "#" * round(share * _BAR)
        self._show(f"{phase:<10} [{bar:<{_BAR}}] {share:>4.0%}")

    def end(self) -> None:
        """Erase the bar."""
        if self._is_shown:
            self._show("")
            sys.stderr.write("\r")
            sys.stderr.flush()

    def _show(self, text: str) -> None:
        sys.stderr.write(f"\r{text:<{self._width}}")
        sys.stderr.flush()
        self._width = len(text)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--svg {path} cannot be written: {error.strerror}") from error


def _integer(text: str) -> int:
    value = _parse(text.replace(",", ""), int, "must be a number of clients, such as 5000")
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError("must be from 1 to 1,000,000")
    return value


def _positive(text: str) -> float:
    value = _parse(text, float, "must be a number")
    if not 0 < value <= 1_000_000:  # nan neither
        raise argparse.ArgumentTypeError("must be more than 0, and at most 1,000,000")
    return value


def _json(text: str) -> Any:
    return _parse(text, json.loads, 'must be JSON, such as \'{"token": "abc"}\'')


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition(":")
    is_token = bool(name) and all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in name)
    if not separator or not (text.isascii() and text.isprintable() and is_token):
        raise argparse.ArgumentTypeError("must be like 'Cookie: session=abc', in ASCII")
    return name, value.strip()


def _parse(text: str, function: Callable[[str], T], wanted: str) -> T:
    try:
        return function(text)
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(wanted) from None
