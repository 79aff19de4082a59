"""Connection state recovery in headless Chromium, while a proxy drops and refuses connections."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

from tests.servers import ServerProcess, application_source

#: The proxy runs beside the server; pages of the server turn it off and on.
SERVER = application_source(
    """
import gevent
import gevent.server
import gevent.socket

OPTIONS = {"recovery_time": 60}
urls = ("/", "page", "/(off|on|say/.*)", "control")
opened = set()
state = {"online": True}

def forward(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for each in (source, target):
            each.close()

def handle(client, address):
    if not state["online"]:
        client.close()
        return
    upstream = gevent.socket.create_connection(("127.0.0.1", server.server_port))
    opened.add(client)
    opened.add(upstream)
    pairs = [(client, upstream), (upstream, client)]
    gevent.joinall([gevent.spawn(forward, *pair) for pair in pairs])

proxy = gevent.server.StreamServer(("127.0.0.1", 0), handle)
proxy.start()

class page:
    def GET(self):
        web.header("Content-Type", "text/html; charset=utf-8")
        return '''<!doctype html><title>recovery</title>
<script src="/socket.io/socket.io.min.js"></script>
<script>
  const received = [], recovered = [];
  const socket = io({ reconnectionDelay: 20, reconnectionDelayMax: 100 });
  socket.on("connect", () => recovered.push(socket.recovered));
  socket.on("n", (number) => received.push(number));
</script>'''

class control:
    def GET(self, what):
        if what.startswith("say/"):
            emit("n", int(what[4:]))
        else:
            state["online"] = what == "on"
        if what == "off":
            for each in list(opened):
                try:
                    each.shutdown(2)
                except OSError:
                    pass
            opened.clear()
        return proxy.server_port
"""
)


def test_page_that_was_offline_receives_each_message_once(chromium: Any, tmp_path: Path) -> None:
    server = ServerProcess(SERVER, tmp_path / "server")

    def control(what: str) -> str:
        with urllib.request.urlopen(f"{server.url}/{what}") as response:
            return str(response.read().decode())

    context = chromium.new_context()
    try:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{control('on')}/")
        page.wait_for_function("socket.connected && socket.io.engine.transport.name == 'websocket'")
        session_id = page.evaluate("socket.id")
        for round_ in range(3):
            control("off")
            page.wait_for_function("!socket.connected")
            for number in range(4):
                control(f"say/{10 * round_ + number}")
            control("on")
            page.wait_for_function("socket.connected")
            page.wait_for_function(f"received.length >= {4 * (round_ + 1)}")
        control("say/99")
        page.wait_for_function("received.at(-1) == 99")
        expected = [10 * round_ + number for round_ in range(3) for number in range(4)]
        assert page.evaluate("received") == [*expected, 99]
        assert page.evaluate("recovered") == [False, True, True, True]
        assert page.evaluate("socket.id") == session_id
    finally:
        context.close()
        server.close()
    assert "Traceback" not in server.errors
