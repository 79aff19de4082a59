"""A TCP proxy that does to connections what networks do: delays, splits, loses and cuts them.

Put it in front of a server, let clients connect to its port, and call the faults::

    proxy = Proxy(server_port)
    client = raw.WebSocket(proxy.port)
    proxy.link.black_hole()
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
from gevent import socket
from gevent.server import StreamServer

__all__ = ["Fault", "Link", "Proxy"]

#: Closing with this set resets the connection: on, for 0 seconds.
_RESET = struct.pack("ii", 1, 0)


class Link:
    """One connection through the proxy: two sockets, and a greenlet for each direction."""

    def __init__(self, proxy: Proxy, client: Any, server: Any) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._flowing = gevent.event.Event()
        self._flowing.set()
        self._closing = gevent.event.Event()
        self._closing.set()
        self._cut: tuple[int, Fault] | None = None
        #: Set when a fault of `cut_after` has happened.
        self.cut = gevent.event.Event()
        self._pumps = [
            gevent.spawn(self._pump, client, server),
            gevent.spawn(self._pump, server, client),
        ]

    # -- the faults

    def black_hole(self) -> None:
        """From now on nothing passes, not even an end, and nobody is told."""
        self._flowing.clear()

    def reset(self) -> None:
        """End both sides by RST."""
        for sock in (self._client, self._server):
            with contextlib.suppress(OSError):  # this side has ended by itself
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """End both sides, by FIN."""
        for sock in (self._client, self._server):
            sock.close()

    def hold_closes(self) -> None:
        """Bytes pass, but who closes its side is not heard by the other one: a close without end."""
        self._closing.clear()

    def cut_after(self, count: int, fault: Fault) -> None:
        """Let `count` more bytes of the client pass, and then do `fault`."""
        self._cut = (count, fault)

    # -- for the proxy

    def wait(self) -> None:
        """Wait until nothing can pass any more."""
        gevent.joinall(self._pumps)

    def end(self) -> None:
        """Give everything back."""
        gevent.killall(self._pumps)
        self.close()

    # -- how

    def _pump(self, source: Any, target: Any) -> None:
        try:
            while data := source.recv(65_536):
                if source is self._client and self._cut is not None:
                    data = data[: self._cut[0]]
                self._pass_on(data, target)
                if source is self._client and self._cut is not None:
                    left, fault = self._cut[0] - len(data), self._cut[1]
                    self._cut = (left, fault)
                    if not left:
                        fault(self)
                        self.cut.set()
                        return
            self._flowing.wait()
            self._closing.wait()
            target.shutdown(socket.SHUT_WR)
        except OSError:
            self._flowing.wait()
            self._closing.wait()
            self.reset()  # as one side was

    def _pass_on(self, data: bytes, target: Any) -> None:
        size = self._proxy.piece
        for start in range(0, len(data), size):
            if self._proxy.latency:
                gevent.sleep(self._proxy.latency)
            self._flowing.wait()
            target.sendall(data[start : start + size])


#: What can happen to a link: `Link.black_hole`, `Link.reset`, `Link.close`, `Link.hold_closes`.
Fault = Callable[[Link], None]


class Proxy:
    """Listens on `port`, and passes what comes on to `target`, a port of this machine."""

    def __init__(self, target: int) -> None:
        #: Seconds that every piece is held back.
        self.latency = 0.0
        #: Bytes that are passed on at once; 1: every byte is a segment of its own.
        self.piece = 65_536
        #: The connections, in the order they came.
        self.links: list[Link] = []
        self._target = target
        self._server = StreamServer(("127.0.0.1", 0), self._accept)
        self._server.start()
        self.port: int = self._server.server_port

    @property
    def link(self) -> Link:
        """The newest connection."""
        return self.links[-1]

    def everything(self, fault: Fault) -> None:
        """Do `fault` to every connection."""
        for link in self.links:
            fault(link)

    def close(self) -> None:
        """Stop listening, and end every connection."""
        self._server.stop()
        for link in self.links:
            link.end()

    def _accept(self, client: Any, address: Any) -> None:
        server = socket.create_connection(("127.0.0.1", self._target))
        for sock in (client, server):
            # Or the kernel would put the pieces together again.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(self, client, server)
        self.links.append(link)
        link.wait()  # the server closes the client's socket when this returns
