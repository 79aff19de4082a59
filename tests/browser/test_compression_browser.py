"""Compression in headless Chromium, which offers permessage-deflate with every WebSocket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ServerProcess, application_source

#: The handler ``wire`` returns the bytes of its connection, counted by the TCP of the kernel.
APPLICATION = application_source(
    """
import socket as sockets, struct

OPTIONS = {"compression": os.environ["COMPRESSION"] == "1", "message_log_format": None}

class page:
    def GET(self):
        web.header("Content-Type", "text/html; charset=utf-8")
        return "<!doctype html><title>a page</title>" + socketio_scripts()

urls = ("/", "page")

@on_message
def echo(request, socket, context, message):
    return message

@on_event("wire")
def wire(request, socket, context):
    sock = socket._connection.session.transport._stream._sock
    info = sock.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 136)
    acknowledged, received = struct.unpack("QQ", info[120:136])
    return {"sent": acknowledged, "received": received}
"""
)

#: Echoes a long text and returns what the handler ``wire`` then returns.
ECHO = """(transport) => new Promise((resolve, reject) => {
    const socket = io({ transports: [transport] });
    const text = "text of a message; ".repeat(10000);
    socket.emit("message", text, (echo) => {
        if (echo !== text) reject(new Error("changed"));
        if (transport === "polling") resolve();
        else socket.emit("wire", resolve);
    });
})"""

#: Sizes of the bodies that the page has received by long-polling: on the wire, and decoded.
BODIES = """() => performance.getEntriesByType("resource")
    .filter((entry) => entry.name.includes("transport=polling"))
    .map((entry) => [entry.encodedBodySize, entry.decodedBodySize])"""

SIZE = 190_000


@pytest.fixture
def page(chromium: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page whose server has compression on or off."""
    server = ServerProcess(APPLICATION, tmp_path, {"COMPRESSION": request.param})
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server.url)
    yield page
    context.close()
    server.close()
    assert "Traceback" not in server.errors


@pytest.mark.parametrize("page", ["0", "1"], indirect=True, ids=["off", "on"])
def test_websocket_frames_of_chromium_are_compressed_if_the_setting_is_on(
    page: Any, request: pytest.FixtureRequest
) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    handshakes: list[dict[str, str]] = []
    session.on(
        "Network.webSocketHandshakeResponseReceived",
        lambda event: handshakes.append(event["response"]["headers"]),
    )
    wire = page.evaluate(ECHO, "websocket")
    is_on = request.node.callspec.id == "on"
    assert ("Sec-WebSocket-Extensions" in handshakes[0]) == is_on
    for direction in ("sent", "received"):
        assert wire[direction] < SIZE / 10 if is_on else wire[direction] > SIZE


@pytest.mark.parametrize("page", ["0"], indirect=True, ids=["off"])
def test_polled_bodies_of_chromium_are_compressed_without_the_setting(page: Any) -> None:
    page.evaluate(ECHO, "polling")
    sizes = page.evaluate(BODIES)
    (long,) = [sizes for sizes in sizes if sizes[1] > SIZE]
    assert long[0] < SIZE / 10
