"""The client scripts, and the HTML that loads them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mako.lookup
import markupsafe
import pytest
import web

from webpy_socketio import assets
from webpy_socketio.exceptions import SettingsError


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    web.ctx.clear()
    yield
    web.ctx.clear()


@pytest.fixture
def uncached() -> Iterator[None]:
    assets._read.cache_clear()
    yield
    assets._read.cache_clear()


def script_tags(html: str) -> list[dict[str, str | None]]:
    tags: list[dict[str, str | None]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag == "script"
            tags.append(dict(attrs))

        def handle_data(self, data: str) -> None:
            assert not data.strip(), "no inline script: a strict policy would block it"

    Parser().feed(html)
    return tags


class TestAsset:
    def test_asset_returns_client_and_extension(self) -> None:
        client, extension = assets.asset("socket.io.min.js"), assets.asset("webpy_socketio.js")
        assert client is not None
        assert extension is not None
        assert b"Socket.IO v4" in client.body
        assert b"__subscribe__" in extension.body

    def test_asset_returns_extension_as_module(self) -> None:
        module = assets.asset("webpy_socketio.mjs")
        assert module is not None
        assert b"\nexport function withChannels(" in module.body
        assert module.content_type == "text/javascript; charset=utf-8"

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "..",
            "../version.py",
            "socket.io.LICENSE.txt",
            "SOCKET.IO.MIN.JS",
            "socket.io.esm.js",
            "socket.io.min.js.map.map",
            "webpy_socketio.js.map",
            "webpy_socketio.mjs.map",
            "webpy_socketio.cjs",
            "socket.io",
            "/etc/passwd",
        ],
    )
    def test_asset_of_another_name_is_none(self, name: str) -> None:
        assert assets.asset(name) is None

    def test_asset_is_read_once(self) -> None:
        assert assets.asset("webpy_socketio.js") is assets.asset("webpy_socketio.js")

    def test_asset_gzip_contains_the_body(self) -> None:
        client = assets.asset("socket.io.min.js")
        assert client is not None
        assert gzip.decompress(client.gzip) == client.body
        assert len(client.gzip) < len(client.body) / 2

    def test_asset_etag_and_version_depend_on_the_content(self) -> None:
        one, other = assets.Asset("a.js", b"one"), assets.Asset("a.js", b"other")
        assert one.version == hashlib.sha256(b"one").hexdigest()[:16]
        assert one.etag == f'W/"{one.version}"'
        assert one.etag != other.etag
        assert one == assets.Asset("a.js", b"one")

    def test_asset_has_content_type_javascript_in_utf8(self) -> None:
        assert assets.Asset("a.js", b"").content_type == "text/javascript; charset=utf-8"

    def test_asset_is_immutable(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            assets.Asset("a.js", b"").name = "b.js"  # type: ignore[misc]

    @pytest.mark.parametrize("name", assets.BUILDS)
    def test_asset_of_each_build_refers_to_a_served_source_map(self, name: str) -> None:
        script = assets.asset(name)
        assert script is not None
        assert script.content_type == "text/javascript; charset=utf-8"
        assert b"Socket.IO v4" in script.body[:200]
        (target,) = re.findall(rb"^//# sourceMappingURL=(.+)$", script.body, re.MULTILINE)
        source_map = assets.asset(target.decode())
        assert source_map is not None
        assert source_map.name == f"{name}.map"
        assert source_map.content_type == "application/json"
        assert json.loads(source_map.body)["version"] == 3

    def test_builds_have_conventional_names(self) -> None:
        assert set(assets.BUILDS) == {
            "socket.io.js",
            "socket.io.min.js",
            "socket.io.esm.min.js",
            "socket.io.msgpack.min.js",
        }

    def test_asset_missing_before_the_build_raises_error_with_remedy(
        self, uncached: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(assets, "_PACKAGE", tmp_path)
        with pytest.raises(
            SettingsError, match=r"socket\.io\.min\.js is missing.*pip install -e \."
        ):
            assets.asset("socket.io.min.js")


class TestScripts:
    def test_scripts_load_the_client_before_the_extension(self) -> None:
        client, extension = script_tags(assets.socketio_scripts())
        assert re.fullmatch(r"/socket\.io/socket\.io\.min\.js\?v=[0-9a-f]{16}", client["src"] or "")
        assert re.fullmatch(
            r"/socket\.io/webpy_socketio\.js\?v=[0-9a-f]{16}", extension["src"] or ""
        )

    def test_script_urls_contain_the_version(self) -> None:
        extension = assets.asset("webpy_socketio.js")
        assert extension is not None
        assert f"?v={extension.version}" in assets.socketio_scripts()

    def test_scripts_have_the_path_as_data_attribute(self) -> None:
        assert script_tags(assets.socketio_scripts())[1]["data-path"] == "/socket.io"

    @pytest.mark.parametrize("resource", ["chat/live", "/chat/live", "/chat/live/"])
    def test_scripts_with_resource_use_its_path(self, resource: str) -> None:
        client, extension = script_tags(assets.socketio_scripts(resource=resource))
        assert (client["src"] or "").startswith("/chat/live/socket.io.min.js?")
        assert extension["data-path"] == "/chat/live"

    def test_scripts_use_the_resource_of_the_current_request(self) -> None:
        web.ctx.env = {assets.RESOURCE_KEY: "live"}
        assert script_tags(assets.socketio_scripts())[1]["data-path"] == "/live"
        assert script_tags(assets.socketio_scripts(resource="mine"))[1]["data-path"] == "/mine"

    def test_scripts_use_the_build_for_the_parser_of_the_current_request(self) -> None:
        web.ctx.env = {assets.PARSER_KEY: "msgpack"}
        client, extension = script_tags(assets.socketio_scripts())
        assert (client["src"] or "").startswith("/socket.io/socket.io.msgpack.min.js?v=")
        assert (extension["src"] or "").startswith("/socket.io/webpy_socketio.js?v=")

    def test_scripts_of_a_mounted_application_include_its_path(self) -> None:
        web.ctx.env = {"SCRIPT_NAME": "/caf\xc3\xa9"}
        assert script_tags(assets.socketio_scripts())[1]["data-path"] == "/caf%C3%A9/socket.io"

    def test_scripts_with_nonce_have_the_attribute(self) -> None:
        assert [tag["nonce"] for tag in script_tags(assets.socketio_scripts("r4nd0m"))] == [
            "r4nd0m"
        ] * 2
        assert "nonce" not in assets.socketio_scripts()

    @pytest.mark.parametrize(
        "evil", ['"><script>alert(1)</script>', "' onload='x", "&quot;", "<>&"]
    )
    def test_scripts_escape_all_arguments(self, evil: str) -> None:
        for tag in script_tags(assets.socketio_scripts(nonce=evil, resource=evil)):
            assert tag.keys() == {"src", "data-path", "nonce"}
            assert tag["nonce"] == evil

    @pytest.mark.parametrize("filters", [[], ["h"]])
    def test_mako_include_contains_the_scripts(self, filters: list[str]) -> None:
        lookup = mako.lookup.TemplateLookup(
            directories=[assets.template_dir], default_filters=filters, strict_undefined=True
        )
        lookup.put_string("page.html", '<head><%include file="socketio_scripts.html"/></head>')
        html: Any = lookup.get_template("page.html").render()
        assert html == f"<head>{assets.socketio_scripts()}</head>"

    def test_mako_include_with_arguments_passes_them(self) -> None:
        lookup = mako.lookup.TemplateLookup(directories=[assets.template_dir])
        lookup.put_string(
            "page.html",
            """<%include file="socketio_scripts.html" """
            """args="nonce='n', socketio_resource='live'"/>""",
        )
        assert lookup.get_template("page.html").render() == assets.socketio_scripts("n", "live")

    def test_scripts_are_not_escaped_by_engines_with_html_protocol(self) -> None:
        scripts = assets.socketio_scripts()
        assert str(markupsafe.escape(scripts)) == str(scripts)

    def test_scripts_in_web_py_template_are_html(self) -> None:
        template = web.template.Template(
            "$:socketio_scripts()", globals={"socketio_scripts": assets.socketio_scripts}
        )
        assert str(template()).strip() == assets.socketio_scripts()


class TestImportMap:
    def imports(self, html: str) -> dict[str, str]:
        found = re.fullmatch(r'<script type="importmap"(?: nonce="[^"<>]*")?>(.*)</script>', html)
        assert found is not None, html
        imports: dict[str, str] = json.loads(found[1])["imports"]
        return imports

    def test_import_map_names_both_modules_with_version(self) -> None:
        client, module = assets.asset("socket.io.esm.min.js"), assets.asset("webpy_socketio.mjs")
        assert client is not None
        assert module is not None
        assert self.imports(assets.socketio_import_map()) == {
            "socket.io-client": f"/socket.io/socket.io.esm.min.js?v={client.version}",
            "webpy-socketio-client": f"/socket.io/webpy_socketio.mjs?v={module.version}",
        }

    def test_import_map_uses_the_module_for_the_parser_of_the_current_request(self) -> None:
        web.ctx.env = {assets.PARSER_KEY: "msgpack"}
        imports = self.imports(assets.socketio_import_map())
        module, script = (
            assets.asset(f"socket.io.msgpack.{suffix}") for suffix in ("mjs", "min.js")
        )
        assert module is not None
        assert script is not None
        assert imports["socket.io-client"] == (
            f"/socket.io/socket.io.msgpack.mjs?v={module.version}"
        )
        assert f'"./socket.io.msgpack.min.js?v={script.version}"'.encode() in module.body

    def test_import_map_uses_resource_and_mount_path(self) -> None:
        web.ctx.env = {assets.RESOURCE_KEY: "live", "SCRIPT_NAME": "/caf\xc3\xa9"}
        for url in self.imports(assets.socketio_import_map()).values():
            assert url.startswith("/caf%C3%A9/live/")
        for url in self.imports(assets.socketio_import_map(resource="mine")).values():
            assert url.startswith("/caf%C3%A9/mine/")

    def test_import_map_with_nonce_has_the_attribute(self) -> None:
        assert assets.socketio_import_map("r4nd0m").startswith(
            '<script type="importmap" nonce="r4nd0m">'
        )
        assert "nonce" not in assets.socketio_import_map()

    @pytest.mark.parametrize("evil", ["</script><script>alert(1)", "\"'><x y=", "&lt;"])
    def test_import_map_escapes_all_arguments(self, evil: str) -> None:
        html = assets.socketio_import_map(nonce=evil, resource=evil)
        assert html.count("<") == 2
        assert all(url.startswith("/") for url in self.imports(html).values())

    def test_import_map_is_not_escaped_by_engines_with_html_protocol(self) -> None:
        html = assets.socketio_import_map()
        assert str(markupsafe.escape(html)) == str(html)
