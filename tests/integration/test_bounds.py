"""Caches whose keys are chosen by clients are limited."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import raw
from tests.conftest import Site
from webpy_socketio import (
    Labels,
    default_runtime,
    on_event,
    on_message,
    on_receiving,
    on_subscribing,
    signals,
)
from webpy_socketio.engine.http import parser as http_parser
from webpy_socketio.plugins import rate_limit

#: Maximum growth of the process in bytes for events of 0.9 MB each: less than one event.
GROWTH = 500_000

PLUGINS = [
    "webpy_socketio.plugins.message_logger",
    "webpy_socketio.plugins.metrics",
]


def handler(*args: Any) -> None:
    pass


def barrier(client: raw.WebSocket, namespace: str) -> None:
    """Wait until all events of the client have been handled, the last one with a long name."""
    client.send(f'42{namespace}["{"x" * 900_000}"]')
    client.send(f'42{namespace}7["__unsubscribe__","barrier"]')
    assert client.receive() == f'43{namespace}7[{{"ok":true}}]'


@pytest.fixture
def growth() -> Iterator[Callable[[], int]]:
    """Return the growth of memory used by Python objects since the start of the test, in bytes."""
    tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]

    def read() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    yield read
    tracemalloc.stop()


@pytest.mark.time_limit(60)
@pytest.mark.parametrize("namespace", ["", "/chat,"])
def test_long_event_names_are_not_cached(
    namespace: str, serve: Callable[..., Site], growth: Callable[[], int]
) -> None:
    on_message(handler)
    on_message(channel="^room-")(handler)
    on_event("news", channel="^room-")(handler)
    on_receiving(handler)
    signals.message.connect(lambda sender, **keywords: None)
    site = serve(plugins=PLUGINS, namespaces=["/", "/chat"])
    client = site.connect()
    if namespace:
        client.connect(namespace=namespace)
    client.call("__subscribe__", "room-1")
    barrier(client, namespace)
    before = growth()
    for number in range(10):
        client.send(f'42{namespace}["{number:03}{"x" * 900_000}",1]')
    barrier(client, namespace)
    assert growth() - before < GROWTH
    assert len(signals.message._by_event) <= 4


@pytest.mark.time_limit(60)
def test_rejected_channel_names_are_not_cached(
    serve: Callable[..., Site], growth: Callable[[], int]
) -> None:
    on_subscribing(channel="^room-")(handler)
    on_message(channel="^room-")(handler)
    client = serve(plugins=[*PLUGINS, "webpy_socketio.plugins.presence"]).connect()
    client.call("__subscribe__", "x" * 900_000)
    before = growth()
    for number in range(8):
        name = f"{number:03}{'x' * 900_000}"
        client.call("__subscribe__", name)
        client.call("__unsubscribe__", name)
        client.call("__channel__", name, 1)
        client.call("presence_state", name)
        del name
    assert growth() - before < GROWTH


def test_metric_labels_are_limited_to_those_of_handlers(growth: Callable[[], int]) -> None:
    on_event("news")(handler)
    labels = Labels(default_runtime)
    assert labels.labels_of("news", None) == ("news", "")
    for number in range(100):
        assert labels.labels_of(f"{number}{'x' * 100_000}", f"channel-{number}") == (
            "other",
            "other",
        )
    assert growth() < GROWTH


def test_headers_are_cached_only_if_short(serve: Callable[..., Site]) -> None:
    site = serve()
    http_parser._parse_cached.cache_clear()
    for number in range(20):
        site.polling(**{f"x-{number}-{'y' * 2000}": "1"})
    site.polling(**{"x-short": "1"})
    assert 1 <= http_parser._parse_cached.cache_info().currsize < 10


def test_rate_limit_keys_are_short() -> None:
    long = "x" * 8000
    assert rate_limit._shorten("alice") == "alice"
    assert rate_limit._shorten(("alice", 1)) == ("alice", 1)
    assert len(rate_limit._shorten(long)) == 32
    assert rate_limit._shorten((long, "a")) != rate_limit._shorten((long + "y", "a"))
    assert rate_limit._shorten("\ud800" * 100) != rate_limit._shorten("\ud801" * 100)
    assert rate_limit._shorten(None) is None
