"""The parser msgpack in headless Chromium: the script and the module that pages load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import ServerProcess, application_source

APPLICATION = application_source(
    """
OPTIONS = {"parser": "msgpack", "message_log_format": None}

class classic:
    def GET(self):
        web.header("Content-Type", "text/html; charset=utf-8")
        return "<!doctype html><title>a page</title>" + socketio_scripts()

class module:
    def GET(self):
        web.header("Content-Type", "text/html; charset=utf-8")
        return "<!doctype html><title>a page</title>" + socketio_import_map() + '''
<script type="module">
import io, { Manager, Socket, connect, protocol, io as named } from "socket.io-client";
import { withChannels } from "webpy-socketio-client";
window.make = (options) => withChannels(io(options));
window.exported = [io === named, connect === io, typeof Manager, typeof Socket, protocol];
window.ready = true;
</script>'''

urls = ("/classic", "classic", "/module", "module")

@on_connecting
def gate(request, socket, context):
    if socket.auth == {"name": "refused"}:
        raise Refused("no entry", data=[1])

@on_event("echo")
def echo(request, socket, context, value):
    broadcast_channel(value, "room")
    return value

@on_event("types")
def types(request, socket, context, *values):
    return [repr(value) for value in values]
"""
)

#: Exchanges text and binary data, and returns what arrives.
EXCHANGE = """async (transport) => {
    const make = window.make ?? ((options) => new io.Socket(options));
    const bytes = (data) => [...new Uint8Array(data)];
    const refused = make({ transports: [transport], auth: { name: "refused" }, forceNew: true });
    refused.connect();
    const error = await new Promise((resolve) => refused.on("connect_error", resolve));
    refused.disconnect();
    const socket = make({ transports: [transport], forceNew: true });
    socket.connect();
    await new Promise((resolve) => socket.on("connect", resolve));
    const subscribed = await socket.subscribe("room");
    const message = new Promise((resolve) => socket.on("message", resolve));
    const value = { text: "שלום 🙂", data: [Uint8Array.from([0, 255]).buffer] };
    const answer = await socket.emitWithAck("echo", value);
    const received = await message;
    const types = await socket.emitWithAck(
        "types", new Date(0), undefined, Uint8Array.from([1, 2]).buffer, new Uint8Array(8).buffer,
        NaN, -5, 2 ** 40, 1.5, [[]]
    );
    socket.disconnect();
    return {
        error: [error.message, error.data],
        subscribed,
        answer: [answer.text, bytes(answer.data[0])],
        received: [received.text, bytes(received.data[0])],
        types,
    };
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(APPLICATION, tmp_path_factory.mktemp("server"))
    yield server
    server.close()
    assert "Traceback" not in server.errors


@pytest.fixture
def page(chromium: Any, server: ServerProcess) -> Iterator[Any]:
    context = chromium.new_context()
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    yield page
    context.close()


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize("form", ["classic", "module"])
def test_page_of_server_with_msgpack_exchanges_messages(
    page: Any, server: ServerProcess, form: str, transport: str
) -> None:
    page.goto(f"{server.url}/{form}")
    if form == "module":
        page.wait_for_function("window.ready")
        assert page.evaluate("exported") == [True, True, "function", "function", 5]
    value = ["שלום 🙂", [0, 255]]
    assert page.evaluate(EXCHANGE, transport) == {
        "error": ["no entry", [1]],
        "subscribed": {"ok": True},
        "answer": value,
        "received": value,
        "types": [
            *("'1970-01-01T00:00:00.000Z'", "None", "b'\\x01\\x02'", f"{bytes(8)!r}"),
            *("None", "-5", str(2**40), "1.5", "[[]]"),
        ],
    }
