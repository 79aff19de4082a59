"""Compression with the stock client in Node.js, against a real server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node_clients import JS, needs_stock_client
from tests.servers import ServerProcess, application_source

pytestmark = needs_stock_client

APPLICATION = application_source(
    """
OPTIONS = {"compression": os.environ["COMPRESSION"] == "1", "message_log_format": None}

@on_message
def echo(request, socket, context, message):
    socket.send(message)
"""
)

#: Bytes of the messages of ``js/compression.mjs``, in each direction; a fifth if compressed.
SIZE = 550_000


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    server = ServerProcess(APPLICATION, tmp_path / "server", {"COMPRESSION": request.param})
    yield server
    server.close()
    assert "Traceback" not in server.errors


def run(server: ServerProcess, options: Any) -> dict[str, Any]:
    """Exchange messages, and return what the client reports."""
    given = options if options == "default" else json.dumps(options)
    program = [str(JS / "compression.mjs"), server.url, given]
    done = subprocess.run(
        ["node", *program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["unchanged"]
    return report


@pytest.mark.parametrize("server", ["1"], indirect=True, ids=["on"])
@pytest.mark.parametrize(
    "options",
    [
        "default",
        {"threshold": 0},
        {"threshold": 1024, "clientNoContextTakeover": True, "serverNoContextTakeover": True},
        {"threshold": 1024, "clientMaxWindowBits": 9, "serverMaxWindowBits": 15},
    ],
    ids=["default", "all messages", "no context", "small window"],
)
def test_node_client_negotiates_compression_in_both_directions(
    server: ServerProcess, options: Any
) -> None:
    report = run(server, options)
    assert report["extensions"] == "permessage-deflate"
    assert report["bytesRead"] < SIZE / 4
    assert report["bytesWritten"] < SIZE / 4


@pytest.mark.parametrize(
    ("server", "options"),
    [
        ("0", "default"),
        ("1", False),
        ("1", {"threshold": 1024, "serverMaxWindowBits": 10}),
    ],
    indirect=["server"],
    ids=["setting off", "not offered", "window declined"],
)
def test_node_client_without_an_agreement_exchanges_plain_messages(
    server: ServerProcess, options: Any
) -> None:
    report = run(server, options)
    assert not report["extensions"]
    assert report["bytesRead"] > SIZE
    assert report["bytesWritten"] > SIZE
