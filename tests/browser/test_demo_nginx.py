"""The demo in headless Chromium, behind nginx with the configuration of the deployment guide."""

import pytest

from tests.nginx import running_nginx
from tests.snippets import DOCS, Page
from tests.windows import (
    Windows,
    expect,
    join,
    messages,
    people,
    say,
    state,
)

DIRECTIVES = Page.read(DOCS / "how-to" / "deployment.rst").blocks("nginx")[0]


@pytest.fixture
def site(chromium, chat, tmp_path):
    """Windows on the demo behind nginx with TLS."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    with running_nginx(DIRECTIVES, {"127.0.0.1:8000": chat.port}, folder) as nginx:
        windows = Windows(chromium, f"https://localhost:{nginx.port}")
        yield windows
        windows.close()


def test_users_exchange_messages_over_websocket(site):
    ann = site.open("/", ignore_https_errors=True)
    with ann.expect_websocket() as opened:
        ann.goto("/room/lobby")
    assert opened.value.url.startswith("wss://localhost:")
    join(ann, "Ann")
    bob = site.open(name="Bob", ignore_https_errors=True)
    expect(people(ann)).to_have_text(["Ann", "Bob"])
    with opened.value.expect_event("framereceived", lambda frame: "Hello" in str(frame)):
        say(bob, "Hello")
    expect(messages(ann)).to_have_text(["Hello"])


def test_forms_of_the_demo_work(site):
    page = site.open("/", ignore_https_errors=True)
    page.get_by_label("Name").fill("Tea")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("heading", name="Tea")).to_be_visible()
    assert page.url == f"{site.url}/room/tea"
    expect(state(page)).to_have_attribute("data-state", "online")
