"""The network between browsers and a server, which a test switches off and on.

A proxy in a process of its own: Playwright and gevent cannot share a thread. Chromium's emulation
of an offline network closes WebSockets properly, and is no loss of the connection.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.servers import Process

__all__ = ["Network"]

ROOT = Path(__file__).resolve().parents[1]


class Network:
    """Forwards connections to a local port, until it is switched off."""

    def __init__(self, target: int, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.network", str(target)]
        self._process = Process(command, folder / "network.log", cwd=ROOT)
        self.port = int(self._process.wait_for("PORT "))

    @property
    def url(self) -> str:
        """The address of the server behind the network."""
        return f"http://127.0.0.1:{self.port}"

    def swallow(self) -> None:
        """Let all data of the current connections disappear; neither side notices it."""
        self._switch("swallow")

    def turn_off(self) -> None:
        """Reset the connections, without close frames, and those that are opened from now on."""
        self._switch("off")

    def turn_on(self) -> None:
        """Forward new connections."""
        self._switch("on")

    def close(self) -> None:
        self._process.kill()

    def _switch(self, state: str) -> None:
        self._process.say(state)
        self._process.wait_for(f"is {state}")


def main(target: int) -> None:
    import gevent

    from tests.faults import Link, Proxy

    class Switched(Proxy):
        is_on = True

        def _accept(self, client: Any, address: Any) -> None:
            if self.is_on:
                super()._accept(client, address)
            else:
                client.close()

    proxy = Switched(target)
    sys.stdout.write(f"PORT {proxy.port}\n")
    while line := gevent.get_hub().threadpool.apply(sys.stdin.readline):
        state = line.strip()
        if state == "swallow":
            proxy.everything(Link.black_hole)
        else:
            proxy.is_on = state == "on"
            proxy.everything(Link.reset)
            proxy.links.clear()
        sys.stdout.write(f"is {state}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
