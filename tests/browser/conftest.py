"""Fixtures of the tests in headless Chromium: one browser, a time limit, and the demo."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import greenlet
import pytest

from tests.demo import Chat

#: Seconds after which the windows of a test are closed; see the marker ``time_limit``.
TIMEOUT = 180.0


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """The browser of all tests; each test opens contexts of its own, and closes them."""
    # Modules of this folder are skipped by windows.py if Chromium is missing.
    from tests.windows import ARGUMENTS, CHROMIUM, sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _time_limit(request: pytest.FixtureRequest, chromium: Any) -> Iterator[None]:
    """Close all windows at the time limit, so that a script that never resolves fails.

    gevent's timeout would interrupt Playwright's driver during a greenlet switch. Playwright runs
    its event loop in this thread, and its functions work in any greenlet of that loop.
    """
    marker = request.node.get_closest_marker("time_limit")
    seconds = marker.args[0] if marker else TIMEOUT
    loop = asyncio.get_running_loop()

    def close_contexts() -> None:
        nonlocal timer
        for context in chromium.contexts:
            closing = greenlet.greenlet(context.close)
            closing.switch(reason=f"nothing happened for {seconds} s")
        timer = loop.call_later(1, close_contexts)  # those that are opened from now on

    timer = loop.call_later(seconds, close_contexts)
    yield
    timer.cancel()
    for context in chromium.contexts:  # what the test left open
        with context.expect_event("close"):
            context.close()


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Chat]:
    chat = Chat(tmp_path)
    yield chat
    chat.stop()


@pytest.fixture
def windows(chromium: Any, chat: Chat) -> Iterator[Any]:
    """Windows of the demo."""
    from tests.windows import Windows

    windows = Windows(chromium, chat.url)
    yield windows
    windows.close()
