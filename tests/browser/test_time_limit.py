"""The time limit of the tests in headless Chromium."""

from __future__ import annotations

from typing import Any

import pytest

from tests.windows import sync_api


@pytest.mark.time_limit(2)
def test_script_that_never_resolves_fails_at_the_time_limit(chromium: Any) -> None:
    page = chromium.new_context().new_page()
    with pytest.raises(sync_api.Error, match="nothing happened for 2 s"):
        page.evaluate("new Promise(() => {})")
