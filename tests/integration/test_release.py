"""Sessions that have ended are freed without the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import raw
from tests.conftest import Site, socket_of
from tests.engines import eventually
from webpy_socketio import Refused, on_connecting
from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.runtime import default_runtime
from webpy_socketio.socket import Socket


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Watched:
    """A socket and its session, without references to them."""

    def __init__(self, socket: Socket) -> None:
        self._socket = weakref.ref(socket)
        self._session_id = socket._connection.session.id

    def wait_freed(self) -> None:
        """Wait until both were freed."""
        eventually(lambda: self._socket() is None)
        eventually(
            lambda: (
                not any(
                    type(one) is Session and one.id == self._session_id for one in gc.get_objects()
                )
            )
        )


def close(client: raw.WebSocket) -> None:
    client.close()


def disconnect(client: raw.WebSocket) -> None:
    client.send("41")
    client.close()


def vanish(client: raw.WebSocket) -> None:
    client.vanish()


@pytest.mark.parametrize(
    ("end", "recovery_time"),
    [(close, 0), (disconnect, 0), (disconnect, 60), (vanish, 0), (vanish, 0.1)],
)
def test_websocket_session_is_freed(
    end: Callable[[raw.WebSocket], None], recovery_time: float, serve: Callable[..., Site]
) -> None:
    client = serve(recovery_time=recovery_time).connect()
    client.barrier()
    watched = Watched(socket_of(client))
    end(client)
    watched.wait_freed()


def test_polling_session_is_freed(site: Site) -> None:
    client = site.polling()
    client.connect()
    (connected,) = default_runtime.registry.namespace("/").sockets.values()
    watched = Watched(connected)
    del connected
    client.send("41", "1")
    client.poll()  # which ends with the session
    watched.wait_freed()


def test_polling_session_without_a_get_is_freed(serve: Callable[..., Site]) -> None:
    client = serve(ping_interval=0.1, ping_timeout=0.1).polling()
    client.connect()
    (connected,) = default_runtime.registry.namespace("/").sockets.values()
    watched = Watched(connected)
    del connected
    watched.wait_freed()


def test_rejected_client_is_freed(site: Site) -> None:
    rejected = []

    @on_connecting
    def reject(request: Any, socket: Any, context: Any) -> None:
        rejected.append(Watched(socket))
        raise Refused("no entry")

    client = site.websocket()
    client.send("40")
    assert str(client.receive()).startswith("44")
    client.close()
    rejected[0].wait_freed()
