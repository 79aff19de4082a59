"""``status``: what a running server, or all servers of a cluster, do at the moment."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import gevent
import web

from webpy_socketio.backplane.addresses import parse_address
from webpy_socketio.backplane.requests import Request
from webpy_socketio.cli.running_servers import TIMEOUT, RunningServer, Sample, find_server
from webpy_socketio.cli.status_report import add_rates, as_json, report
from webpy_socketio.cli.text_format import Families
from webpy_socketio.engine.socketio.packets import encode_ack
from webpy_socketio.exceptions import BackplaneError, ConfigurationError
from webpy_socketio.runtime import default_runtime

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "run"]

NAME = "status"
HELP = "show workers, sessions, message rates, backlog and Redis of a running server"
EXAMPLE = "status --watch"

#: Seconds between two samples.
INTERVAL = 1.0

#: Moves the cursor to the top, and erases the screen.
_CLEAR = "\x1b[H\x1b[2J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--folder", help="folder of the server, or its temporary folder (default: find it)"
    )
    parser.add_argument(
        "--backplane",
        metavar="URL",
        help="show all servers of the cluster with this SOCKETIO_BACKPLANE",
    )
    parser.add_argument(
        "--backplane-prefix", metavar="PREFIX", help="SOCKETIO_BACKPLANE_PREFIX of the cluster"
    )
    parser.add_argument(
        "--settings",
        metavar="MODULE",
        help="show all servers of the cluster with the SOCKETIO_BACKPLANE of this module",
    )
    parser.add_argument("--watch", action="store_true", help="repeat each second until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="write JSON, with --watch in lines")
    parser.add_argument(
        "--metrics", action="store_true", help="write the metrics of all processes for Prometheus"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show the status; Ctrl-C ends ``--watch`` with status 0."""
    is_cluster = arguments.backplane is not None or arguments.settings is not None
    if is_cluster and arguments.folder is not None:
        raise ConfigurationError(
            "--folder is for one server of this machine, --backplane and --settings for all "
            "servers of a cluster: remove one of them"
        )
    if arguments.metrics:
        if is_cluster or arguments.watch or arguments.json:
            raise ConfigurationError("--metrics can be combined with --folder only")
        return _write_metrics(find_server(arguments.folder))
    if is_cluster:
        address = _configure(arguments)
        read: Callable[[], Sample] = lambda: _ask_servers(address)  # noqa: E731
        title = f"all servers of {address}"
    else:
        server = find_server(arguments.folder)
        read, title = server.sample, str(server.folder)
    try:
        _show(arguments, title, read)
    except KeyboardInterrupt:
        if not arguments.watch:
            raise
    return 0


def _show(arguments: argparse.Namespace, title: str, read: Callable[[], Sample]) -> None:
    before = read()
    while True:
        gevent.sleep(INTERVAL)
        sample = read()
        add_rates(sample, before)
        before = sample
        is_terminal = sys.stdout.isatty()
        if arguments.json:
            indent = None if arguments.watch else 2
            sys.stdout.write(json.dumps(as_json(title, sample), indent=indent) + "\n")
        else:
            text = report(title, sample)
            if arguments.watch:
                text = f"{time.strftime('%H:%M:%S')}  {text}"
            sys.stdout.write((_CLEAR if arguments.watch and is_terminal else "") + text)
            if arguments.watch and not is_terminal:
                sys.stdout.write("\n")
        sys.stdout.flush()
        if not arguments.watch:
            return


def _write_metrics(server: RunningServer) -> int:
    families = Families()
    for label, text in server.metrics().items():
        families.add(text, "worker", label)
    sys.stdout.write(families.text().decode())
    return 0


# -- servers of a cluster


def _configure(arguments: argparse.Namespace) -> str:
    """Configure the backplane, and return the address of Redis without a password."""
    sources = default_runtime.sources
    if arguments.settings is not None:
        sources.configure(arguments.settings)
    url, prefix = sources.backplane(web.config)
    url = url if arguments.backplane is None else arguments.backplane
    if url is None:
        raise ConfigurationError(
            f"the settings of {arguments.settings} have no SOCKETIO_BACKPLANE: without it, use "
            "status without --settings"
        )
    if arguments.backplane_prefix is not None:
        prefix = arguments.backplane_prefix
    sources.configure({"SOCKETIO_BACKPLANE": url, "SOCKETIO_BACKPLANE_PREFIX": prefix})
    return str(parse_address(url))


def _ask_servers(address: str) -> Sample:
    try:
        answers = default_runtime.cluster.ask(
            encode_ack("/", 0, ()), Request("status", timeout=TIMEOUT)
        )
    except BackplaneError as error:
        raise ConfigurationError(f"{address} cannot be queried: {error}") from error
    if not answers.processes:
        raise ConfigurationError(
            f"no server is connected to {address} with this SOCKETIO_BACKPLANE_PREFIX: "
            "check both settings"
        )
    processes = sorted(
        (value for _, value in answers.values if isinstance(value, dict)),
        key=lambda each: (each["host"], each["pid"]),
    )
    reason = "no answer, or another version of webpy_socketio"
    silent = [{"worker": None, "pid": None, "error": reason}] * answers.silent
    return Sample(None, processes, silent)
