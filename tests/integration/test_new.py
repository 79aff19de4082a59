"""``new``: the created application works without changes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands import PYTEST, Done, run
from tests.conftest import Journal
from tests.python_clients import python_client
from tests.servers import free_port
from webpy_socketio.cli import main
from webpy_socketio.cli.new import STARTER

pytestmark = pytest.mark.time_limit(90)

FILES = {
    *("README.md", "app.py", "conftest.py", "settings.py", "test_app.py"),
    *("static/chat.js", "templates/index.html"),
}


def files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


class TestStarter:
    @pytest.fixture
    def made(self, tmp_path: Path, monkeypatch: Any, capsys: Any) -> tuple[Path, Done]:
        monkeypatch.chdir(tmp_path)
        status = main(["new", "my-chat"])
        output = capsys.readouterr()
        return tmp_path / "my-chat", Done(status, output.out, output.err)

    def test_new_lists_files_and_next_steps(self, made: tuple[Path, Done]) -> None:
        folder, done = made
        assert (done.status, done.err) == (0, "")
        assert files(folder) == FILES
        assert all(f"  my-chat/{name}\n" in done.out for name in FILES)
        assert "  cd my-chat\n  python app.py " in done.out
        assert "my-chat" in (folder / "templates" / "index.html").read_text()
        for name in FILES:
            assert "{{" not in (folder / name).read_text()

    def test_tests_of_the_starter_pass(self, made: tuple[Path, Done]) -> None:
        done = python(made[0], *PYTEST)
        assert "4 passed" in done.stdout, done.stdout + done.stderr

    def test_doctor_has_no_findings(self, made: tuple[Path, Done]) -> None:
        enough = ("sh", "-c", 'ulimit -Sn 20200 2>/dev/null; exec "$@"', "sh")
        done = run("doctor", "app:app", "--port", "0", cwd=made[0], before=enough)
        assert done.status == 0
        bad = [line for line in done.out.splitlines() if line.startswith(("warning", "problem"))]
        assert [line for line in bad if "open files" not in line] == []

    def test_routes_lists_handlers_of_the_starter(self, made: tuple[Path, Done]) -> None:
        done = run("routes", "app.py", cwd=made[0])
        assert re.search(r"message\n  talk +channel '\^room-' +app\.py:\d+\n", done.out)
        assert re.search(r"subscribing \(gate\)\n  rooms_only +app\.py:\d+\n", done.out)

    @pytest.mark.parametrize("program", [["app.py"], ["-m", "webpy_socketio", "serve", "app:app"]])
    def test_python_client_exchanges_messages_with_the_starter(
        self, program: list[str], made: tuple[Path, Done], tmp_path: Path, journal: Journal
    ) -> None:
        port = free_port()
        with python_client(program, made[0], port, {"PORT": str(port)}) as client:
            client.on("message", journal.append)
            assert client.call("__subscribe__", "room-1") == {"ok": True}
            assert client.call("__subscribe__", "kitchen")["ok"] is False
            client.send("hello")
            journal.wait_for("hello")


class TestTarget:
    @pytest.mark.parametrize("name", ["", "1st", "a b", "a/b", "../x", "-x", "ünder", "x" * 65])
    def test_invalid_name_is_rejected(
        self, name: str, tmp_path: Path, monkeypatch: Any, capsys: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["new", "--", name]) == 1
        assert "is not a valid application name: use a letter" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_folder_that_is_not_empty_is_rejected(self, tmp_path: Path) -> None:
        (tmp_path / ".hidden").write_text("mine")
        done = run("new", "chat", "--dir", ".", cwd=tmp_path)
        assert (done.status, done.out) == (1, "")
        assert (
            "the folder . is not empty (it contains .hidden), and nothing is overwritten"
            in done.err
        )
        assert files(tmp_path) == {".hidden"}

    def test_path_that_is_no_folder_is_rejected(
        self, tmp_path: Path, monkeypatch: Any, capsys: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").write_text("")
        (tmp_path / "link").symlink_to("nowhere")
        assert main(["new", "chat", "--dir", "file"]) == 1
        assert "file is a file: choose another name" in capsys.readouterr().err
        assert main(["new", "chat", "--dir", "link"]) == 1
        assert "link is a broken symbolic link" in capsys.readouterr().err
        assert main(["new", "chat", "--dir", "file/below"]) == 1
        assert "file/below cannot be written" in capsys.readouterr().err
        assert files(tmp_path) == {"file"}

    def test_new_and_empty_folders_are_accepted(
        self, tmp_path: Path, monkeypatch: Any, capsys: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["new", "chat", "--dir", "a/b/c"]) == 0
        assert files(tmp_path / "a" / "b" / "c") == FILES
        assert "  cd a/b/c\n" in capsys.readouterr().out
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        assert main(["new", "chat", "--dir", "."]) == 0
        assert files(tmp_path / "empty") == FILES
        assert "  cd " not in capsys.readouterr().out

    def test_failure_leaves_no_files(self, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
        starter = tmp_path / "starter"
        (starter / "static").mkdir(parents=True)
        (starter / "a.py-tpl").write_text("")
        (starter / "static" / "b.js-tpl").symlink_to("nowhere")  # cannot be read
        monkeypatch.setattr("webpy_socketio.cli.new.STARTER", starter)
        monkeypatch.chdir(tmp_path)
        assert main(["new", "chat", "--dir", "x/y"]) == 1
        assert "x/y cannot be written" in capsys.readouterr().err
        assert not (tmp_path / "x").exists()


def test_starter_folder_contains_the_written_files() -> None:
    assert {name.removesuffix("-tpl") for name in files(STARTER)} == FILES
