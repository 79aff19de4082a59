"""Fixtures of engines that are stopped after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engines import (  # noqa: F401 - fixtures
    Recorder,
    Running,
    _nothing_printed,
    certificate,
)


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """Start a server: ``run(receiver, application, **config)``; it is stopped after the test."""
    running: list[Running] = []

    def start(receiver: Any = None, application: Any = None, **config: Any) -> Running:
        running.append(Running(receiver, application, **config))
        return running[-1]

    yield start
    for one in running:
        one.server.stop()
        assert not one.engine.sessions


@pytest.fixture
def server(run: Callable[..., Running]) -> Running:
    """An engine with default limits, whose receiver records its calls."""
    return run()


@pytest.fixture
def echo(run: Callable[..., Running]) -> Running:
    """An engine with default limits, whose receiver echoes."""
    return run(Recorder(echo=True))
