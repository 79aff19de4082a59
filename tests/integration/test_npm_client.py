"""The npm package in ``client/``: its contents, its type declarations, and its two scripts."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import webpy_socketio
from tests.builds import ROOT
from tests.node_clients import needs_stock_client
from tests.npm_projects import PACKAGE, Project, pack, requires_node
from tests.snippets import DOCS, Page

STATIC = ROOT / "webpy_socketio" / "static"
TYPES = ROOT / "tests" / "js" / "types"


class TestPackage:
    @pytest.fixture
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((PACKAGE / "package.json").read_text())
        return manifest

    def test_version_is_that_of_the_server(self, manifest: dict[str, Any]) -> None:
        assert manifest["version"] == webpy_socketio.__version__

    def test_package_can_be_published(self, manifest: dict[str, Any]) -> None:
        assert manifest["name"] == "webpy-socketio-client"
        assert "private" not in manifest
        assert manifest["type"] == "module"
        assert manifest["license"] == "BSD-2-Clause"
        assert manifest["peerDependencies"] == {"socket.io-client": "^4.7.0"}
        assert "dependencies" not in manifest
        assert "scripts" not in manifest, "publishing needs no build"

    def test_licence_is_that_of_the_repository(self) -> None:
        assert (PACKAGE / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()

    @requires_node
    @pytest.mark.time_limit(60)
    def test_npm_pack_contains_modules_declarations_readme_and_licence(
        self, manifest: dict[str, Any], tmp_path: Path
    ) -> None:
        report = pack(tmp_path, "--dry-run")
        names = {file["path"] for file in report["files"]}
        modules = {path.name for path in (PACKAGE / "src").iterdir()} - {"classic.js"}
        assert names == {
            "package.json",
            "README.md",
            "LICENSE",
            *(f"src/{name}" for name in modules),
        }
        exported = manifest["exports"]["."]
        assert {exported["types"][2:], exported["default"][2:]} <= names
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
    @pytest.mark.parametrize("argument", ["undefined", "null", "{}", "'socket'", "io"])
    @pytest.mark.time_limit(60)
    @pytest.mark.quoted("withChannels() needs a socket of socket.io-client 4")
    def test_with_channels_of_another_value_raises_error_with_remedy(
        self, argument: str, match_quote: Callable[[str], None]
    ) -> None:
        program = f"""
            import {{ withChannels }} from "./client/src/index.js";
            const io = () => {{}};
            try {{ withChannels({argument}) }} catch (error) {{ console.log(String(error)) }}
        """
        done = subprocess.run(
            ["node", "--input-type=module", "-e", textwrap.dedent(program)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        match_quote(done.stdout)
        assert done.stdout == (
            "TypeError: withChannels() needs a socket of socket.io-client 4: "
            "const socket = withChannels(io())\n"
        )

    @needs_stock_client
    @pytest.mark.time_limit(60)
    def test_with_channels_changes_only_its_socket_and_once(self) -> None:
        program = """
            import { createRequire } from "node:module";
            import { withChannels } from "./client/src/index.js";
            const { io, Socket } = createRequire(process.cwd() + "/tests/js/")("socket.io-client");
            const before = Reflect.ownKeys(Socket.prototype).length;
            const [socket, other] = [1, 2].map(() => io({ autoConnect: false, forceNew: true }));
            const same = withChannels(socket) === socket;
            const { off, subscribe } = socket;
            withChannels(socket);
            console.log(JSON.stringify([
                same,
                socket.off === off && socket.subscribe === subscribe,
                other.subscribe === undefined,
                Reflect.ownKeys(Socket.prototype).length === before,
            ]));
        """
        done = subprocess.run(
            ["node", "--input-type=module", "-e", textwrap.dedent(program)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == [True] * 4


@requires_node
@pytest.mark.time_limit(240)
class TestTypes:
    @pytest.fixture
    def project(self, tmp_path: Path) -> Project:
        return Project(tmp_path)

    def test_program_with_all_methods_passes_tsc_strict(self, project: Project) -> None:
        shutil.copytree(TYPES, project.folder, dirs_exist_ok=True)
        # Module resolution as in Node.js depends on the type of the package.
        (project.folder / "package.json").write_text('{"type": "module"}')
        assert project.check_types() == ""

    def test_front_end_of_the_guide_passes_tsc_strict(self, project: Project) -> None:
        Page.read(DOCS / "how-to" / "front-ends.rst").write_files(project.folder)
        # An error in a copy shows that the compiler checks the files of the guide.
        hook = project.folder / "src" / "Room.tsx"
        text = hook.read_text()
        wrong = text.replace("result.error", "result.reason")
        assert wrong != text
        hook.with_name("Wrong.tsx").write_text(wrong)
        errors = [line for line in project.check_types().splitlines() if line[:1].strip()]
        assert errors
        assert all(line.startswith("src/Wrong.tsx(") for line in errors), errors


class TestScripts:
    @pytest.fixture
    def extension(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.syspath_prepend(str(ROOT / "build_tools"))
        return importlib.import_module("extension")

    @pytest.mark.parametrize("name", ["webpy_socketio.js", "webpy_socketio.mjs"])
    def test_scripts_are_those_of_the_source(self, name: str, extension: Any) -> None:
        assert (STATIC / name).read_text() == extension.build(name), (
            "the source has changed: run python build_tools/extension.py (make does)"
        )

    def test_module_exports_with_channels_and_imports_nothing(self, extension: Any) -> None:
        lines = extension.build("webpy_socketio.mjs").splitlines()
        exports = [line for line in lines if line.startswith("export")]
        assert exports == ["export function withChannels(socket) {"]
        assert not [line for line in lines if line.startswith("import")]

    def test_classic_script_has_no_module_syntax_and_no_global_names(self, extension: Any) -> None:
        text = extension.build("webpy_socketio.js")
        lines = text.splitlines()
        assert not [line for line in lines if line.startswith(("import", "export"))]
        code = text[text.index("*/") :].split("\n\n", 1)[1]
        assert code.startswith('(function () {\n"use strict";\n')
        assert code.endswith("})();\n")

    @pytest.mark.parametrize(
        ("modules", "error"),
        [
            (
                {"index.js": 'import * as a from "./a.js";\n', "a.js": ""},
                "does not support 'import",
            ),
            ({"index.js": 'import "./a.js";\n', "a.js": ""}, "does not support 'import"),
            ({"index.js": 'import { io } from "socket.io-client";\n'}, "does not support 'import"),
            ({"index.js": "export default 1;\n"}, "does not support 'export default"),
            ({"index.js": "// import\nexport default 1;\n"}, "does not support 'export default"),
            ({"index.js": "const a = 1;\nexport { a };\n"}, "does not support 'export { a"),
            ({"index.js": "const a = import('./a.js');\n"}, "const a = import('./a.js')"),
            (
                {
                    "index.js": 'import { a } from "./a.js";\nconst b = a;\n',
                    "a.js": "export const a = 1;\nconst b = 2;\n",
                },
                "index.js: a.js declares b too",
            ),
            (
                {
                    "index.js": 'import { a } from "./a.js";\n',
                    "a.js": 'import { b } from "./index.js";\nexport const a = 1;\n',
                },
                "import each other in a circle",
            ),
        ],
    )
    def test_source_that_the_build_does_not_support_raises_error(
        self, modules: dict[str, str], error: str, extension: Any, tmp_path: Path
    ) -> None:
        for name, text in modules.items():
            header = "/* About. */\n" if name == "index.js" else ""
            (tmp_path / name).write_text(header + text)
        with pytest.raises(extension.SourceError) as caught:
            extension.build("webpy_socketio.mjs", tmp_path)
        assert error in str(caught.value)

    def test_source_without_header_raises_error(self, extension: Any, tmp_path: Path) -> None:
        (tmp_path / "index.js").write_text("export const a = 1;\n")
        with pytest.raises(extension.SourceError, match=r"index\.js: .* begin with a comment"):
            extension.build("webpy_socketio.mjs", tmp_path)

    def test_modules_are_joined_in_the_order_of_their_imports(
        self, extension: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "index.js").write_text(
            '/* About. */\nimport { b } from "./b.js";\nimport { a } from "./a.js";\n'
            "export const c = a + b;\n"
        )
        (tmp_path / "b.js").write_text('import { a } from "./a.js";\nexport const b = a;\n')
        (tmp_path / "a.js").write_text("export const a = 1;\n")
        text = extension.build("webpy_socketio.mjs", tmp_path)
        assert text.startswith("/* About. */\n// Built by ")
        assert text.endswith("\nconst a = 1;\n\nconst b = a;\n\nexport const c = a + b;\n")
