"""The engine's server with a certificate."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from tests.engines import Recorder, Running, trust_all


class TestServerWithTLS:
    def test_polling_and_websocket_work(
        self, certificate: Path, run: Callable[..., Running]
    ) -> None:
        from websockets.sync.client import connect

        files = {"certfile": str(certificate), "keyfile": str(certificate)}
        running = run(Recorder(echo=True), pywsgi=files)
        url = f"wss://127.0.0.1:{running.port}/engine.io/?EIO=4&transport=websocket"
        big = "ü" * 400_000
        with connect(url, ssl=trust_all(), proxy=None, compression=None, max_size=None) as client:
            assert str(client.recv()).startswith('0{"sid":')
            for _ in range(3):
                client.send("4" + big)
                assert client.recv() == "4" + big
        assert running.receiver.wait_closed() == "transport close"
        assert running.receiver.messages == [big] * 3
        context = trust_all()
        with (
            socket.create_connection(("127.0.0.1", running.port)) as tcp,
            context.wrap_socket(tcp) as client,
        ):
            client.sendall(b"GET /engine.io/?EIO=4&transport=polling HTTP/1.0\r\n\r\n")
            assert b'\r\n\r\n0{"sid":' in b"".join(iter(lambda: client.recv(65_536), b""))
