"""A TCP proxy that injects network faults: delays, fragmentation, loss and resets.

Clients connect to the port of the proxy, and tests call the faults::

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

#: Value of SO_LINGER (on, 0 seconds) with which closing resets the connection.
_RESET = struct.pack("ii", 1, 0)


class Link:
    """One connection through the proxy: two sockets, and a greenlet for each direction."""

    def __init__(self, proxy: Proxy, client: Any, server: Any) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._flowing = gevent.event.Event()
        self._flowing.set()
        self._replying = gevent.event.Event()
        self._replying.set()
        self._closing = gevent.event.Event()
        self._closing.set()
        self._cut: tuple[int, Fault] | None = None
        #: Set when a fault of `cut_after` has happened.
        self.cut = gevent.event.Event()
        self._pumps = [
            gevent.spawn(self._pump, client, server),
            gevent.spawn(self._pump, server, client),
        ]

    # -- faults

    def black_hole(self) -> None:
        """Stop forwarding data and FIN, and keep both sides open."""
        self._flowing.clear()

    def release(self) -> None:
        """Forward data again, also what has arrived meanwhile."""
        self._flowing.set()
        self._replying.set()

    def hold_replies(self) -> None:
        """Forward data of the client only."""
        self._replying.clear()

    def reset(self) -> None:
        """Close both sides with RST."""
        for sock in (self._client, self._server):
            with contextlib.suppress(OSError):  # this side is already closed
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """Close both sides with FIN."""
        for sock in (self._client, self._server):
            sock.close()

    def hold_closes(self) -> None:
        """Forward data but no FIN, so that a close of one side is not detected by the other."""
        self._closing.clear()

    def cut_after(self, count: int, fault: Fault) -> None:
        """Forward `count` more bytes of the client, and then apply `fault`."""
        self._cut = (count, fault)

    # -- called by the proxy

    def wait(self) -> None:
        """Wait until both directions are closed."""
        gevent.joinall(self._pumps)

    def end(self) -> None:
        """Stop forwarding and close both sides."""
        gevent.killall(self._pumps)
        self.close()

    def _pump(self, source: Any, target: Any) -> None:
        try:
            while data := source.recv(65_536):
                if source is self._client and self._cut is not None:
                    data = data[: self._cut[0]]
                self._forward(data, target)
                if source is self._client and self._cut is not None:
                    remaining, fault = self._cut[0] - len(data), self._cut[1]
                    self._cut = (remaining, fault)
                    if not remaining:
                        fault(self)
                        self.cut.set()
                        return
            self._flowing.wait()
            self._closing.wait()
            target.shutdown(socket.SHUT_WR)
        except OSError:
            self._flowing.wait()
            self._closing.wait()
            self.reset()  # forwards the reset of one side

    def _forward(self, data: bytes, target: Any) -> None:
        size = self._proxy.piece
        for start in range(0, len(data), size):
            if self._proxy.latency:
                gevent.sleep(self._proxy.latency)
            self._flowing.wait()
            if target is self._client:
                self._replying.wait()
            target.sendall(data[start : start + size])


#: A fault of a link: `Link.black_hole`, `Link.reset`, `Link.close` or `Link.hold_closes`.
Fault = Callable[[Link], None]


class Proxy:
    """Listens on `port` and forwards connections to `target`, a local port."""

    def __init__(self, target: int) -> None:
        #: Seconds by which every segment is delayed.
        self.latency = 0.0
        #: Maximum size of a segment in bytes; with 1, every byte is sent on its own.
        self.piece = 65_536
        #: Whether new connections are closed at once.
        self.is_refusing = False
        #: The connections, in the order of arrival.
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
        """Apply `fault` to every connection."""
        for link in self.links:
            fault(link)

    def close(self) -> None:
        """Stop listening and close all connections."""
        self._server.stop()
        for link in self.links:
            link.end()

    def _accept(self, client: Any, address: Any) -> None:
        if self.is_refusing:
            return
        server = socket.create_connection(("127.0.0.1", self._target))
        for sock in (client, server):
            # Otherwise, the kernel would join the segments.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(self, client, server)
        self.links.append(link)
        link.wait()  # the server closes the client's socket when this returns
