"""``webpy-socketio load``: clients of a real process against real servers."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.certificates import make_certificate
from tests.commands import Done, command, run
from tests.conftest import Site
from tests.servers import Process
from webpy_socketio import Refused, broadcast, on_connecting, on_event
from webpy_socketio.cli import main

pytestmark = pytest.mark.time_limit(60)

Serve = Callable[..., Site]

#: A Socket.IO server of another package; the event "load" has a handler.
OTHER_SERVER = """
from gevent import monkey; monkey.patch_all()
import socketio
from gevent.pywsgi import WSGIServer
server = socketio.Server(async_mode="gevent")
server.on("load", lambda sid, *args: "answer")
wsgi = WSGIServer(("127.0.0.1", 0), socketio.WSGIApp(server), log=None)
wsgi.start()
print("PORT", wsgi.server_port, flush=True)
wsgi.serve_forever()
"""


class Load:
    """The command in this process, which also runs the server: a new process takes seconds."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, site: Site | str, *words: str) -> Done:
        """Run the command until it ends."""
        try:
            status = main(["load", site if isinstance(site, str) else site.url, *words])
        except SystemExit as end:  # argparse
            status = int(str(end.code))
        out, err = self._capsys.readouterr()
        return Done(status, out, err)

    def measure(self, site: Site | str, *words: str) -> dict[str, Any]:
        """Run a short test, and return its JSON."""
        done = self(site, "--json", *words)
        assert done.err == ""
        result: dict[str, Any] = json.loads(done.out)
        assert done.status == (1 if result["errors"] else 0)
        return result


@pytest.fixture
def load(capsys: pytest.CaptureFixture[str]) -> Iterator[Load]:
    before = signal.getsignal(signal.SIGINT)
    yield Load(capsys)
    signal.signal(signal.SIGINT, before)  # the command has replaced the handler


def answer() -> None:
    @on_event("load")
    def load(request: Any, socket: Any, context: Any, *args: Any) -> Any:
        return args


class TestMeasurement:
    def test_acknowledged_events_are_measured(self, site: Site, load: Load) -> None:
        answer()
        result = load.measure(site, "--clients", "20", "--rate", "5", "--for", "1")
        assert (result["clients"], result["connected"]) == (20, 20)
        assert (result["sent"], result["latency_ms"]["count"]) == (100, 100)
        assert result["measured_with"] == "acknowledgement"
        assert result["errors"] == {}
        assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["max"]
        assert sum(one["sent"] for one in result["intervals"]) == 100
        assert result["connecting_ms"]["count"] == 20

    def test_event_without_handler_is_measured_with_pings(self, site: Site, load: Load) -> None:
        done = load(site, "--clients", "2", "--for", "1")
        assert (done.status, done.err) == (0, "")
        assert re.search(r"of 2 pings$", done.out, re.MULTILINE)
        assert 'no handler acknowledges "load"' in done.out

    def test_event_data_namespace_auth_and_header_reach_the_server(
        self, serve: Serve, load: Load
    ) -> None:
        seen = []

        @on_connecting(namespace="/chat")
        def gate(request: Any, socket: Any, context: Any) -> None:
            seen.append((request["HTTP_COOKIE"], socket.auth))

        @on_event("say", namespace="/chat")
        def say(request: Any, socket: Any, context: Any, *args: Any) -> None:
            seen.append(args)

        words = ["--namespace", "/chat", "--event", "say", "--data", '{"text":"hi"}']
        words += ["--auth", '{"token":"t"}', "--header", "Cookie: a=b", "--clients", "1"]
        result = load.measure(serve(namespaces=["/chat"]), *words, "--for", "1")
        assert result["measured_with"] == "acknowledgement"
        assert seen[0] == ("a=b", {"token": "t"})
        assert seen[1:] == [({"text": "hi"},)] * 2  # the probe, and the event

    def test_received_events_are_counted(self, site: Site, load: Load) -> None:
        @on_event("load")
        def tell(request: Any, socket: Any, context: Any) -> None:
            broadcast("news")

        result = load.measure(site, "--clients", "3", "--for", "1")
        assert result["received"] == 9

    def test_server_of_another_package_is_measured(self, load: Load, tmp_path: Path) -> None:
        process = Process([sys.executable, "-c", OTHER_SERVER], tmp_path / "log")
        try:
            url = f"http://127.0.0.1:{process.wait_for('PORT ')}"
            result = load.measure(url, "--clients", "3", "--for", "1")
        finally:
            process.kill()
        assert result["measured_with"] == "acknowledgement"
        assert result["latency_ms"]["count"] == 3

    def test_tls_server_is_measured(
        self, serve: Serve, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer()
        certificate, key = make_certificate(tmp_path)
        site = serve(certfile=str(certificate), keyfile=str(key))
        words = ["--clients", "3", "--for", "1"]
        failed = load.measure(site, *words)
        (kind,) = failed["errors"]
        assert kind.startswith("cannot connect: ")
        assert "certificate" in kind.lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert load.measure(site, *words)["latency_ms"]["count"] == 3


class TestErrors:
    def test_refused_connections_are_counted(self, load: Load) -> None:
        done = load("http://127.0.0.1:9", "--clients", "3")
        assert done.status == 1
        assert "0 connected, 3 not" in done.out
        assert "3 × cannot connect: Connection refused" in done.out

    def test_rejections_are_counted_by_kind(self, serve: Serve, load: Load) -> None:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            raise Refused("members only")

        site = serve(max_sessions=2)
        site.websocket()
        result = load.measure(site, "--clients", "1", "--for", "1")
        assert result["errors"] == {"connection rejected: members only": 1}
        site.websocket()
        result = load.measure(site, "--clients", "2", "--for", "1")
        assert result["errors"] == {"handshake rejected: 503 Service Unavailable": 2}
        result = load.measure(site, "--clients", "1", "--path", "/elsewhere/")
        assert result["errors"] == {"handshake rejected: 404 Not Found": 1}

    def test_closed_connections_are_counted(self, site: Site, load: Load) -> None:
        @on_event("load")
        def leave(request: Any, socket: Any, context: Any) -> None:
            socket.disconnect()

        result = load.measure(site, "--clients", "1", "--for", "30")
        assert result["errors"] == {"disconnected by the server": 1}
        assert result["seconds"] < 30

    def test_missing_acknowledgements_are_counted(self, site: Site, load: Load) -> None:
        answers = iter([True])

        @on_event("load")
        def sometimes(request: Any, socket: Any, context: Any) -> None:
            if not next(answers, False):
                socket.withhold_acknowledgement()

        words = ["--clients", "1", "--rate", "2", "--for", "1", "--timeout", "0.5"]
        result = load.measure(site, *words)
        assert result["errors"] == {"no acknowledgement within 0.5 s": 2}

    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (["--clients", "0"], "must be from 1 to 1,000,000"),
            (["--clients", "x"], "must be a number of clients"),
            (["--rate", "0"], "must be more than 0"),
            (["--rate", "nan"], "must be more than 0"),
            (["--for", "-1"], "must be more than 0"),
            (["--data", "{"], "must be JSON"),
            (["--header", "Cookie"], "must be like 'Cookie: session=abc'"),
            (["--header", "a b: c"], "must be like 'Cookie: session=abc'"),
            (["--event", "disconnect"], "--event disconnect is reserved by Socket.IO"),
            (["--namespace", "chat"], "must start with a slash"),
            (["--path", "socket.io"], "must start and end with a slash"),
            (["--svg", "no folder/x.svg"], "cannot be written: No such file or directory"),
        ],
        ids=lambda value: "_".join(value) if isinstance(value, list) else "",
    )
    def test_invalid_argument_is_rejected(self, load: Load, words: list[str], error: str) -> None:
        done = load("http://127.0.0.1:9", *words)
        assert done.status in (1, 2)
        assert error in done.err
        assert "Traceback" not in done.err

    @pytest.mark.parametrize(
        ("url", "error"),
        [
            ("127.0.0.1:8000", "is not the URL of a server; use one like http://127.0.0.1:8000"),
            ("http://127.0.0.1:99999", "Port out of range"),
            ("http://127.0.0.1/app", "name the path of Socket.IO with --path"),
            ("http://192.0.2.1", "192.0.2.1 is not a loopback address"),
            ("http://ann:secret@127.0.0.1", "use --header"),
            ("http://no-such-host.invalid", "the host no-such-host.invalid cannot be found"),
            ("redis://127.0.0.1", "is not the URL of a server"),
        ],
    )
    def test_invalid_url_is_rejected(self, load: Load, url: str, error: str) -> None:
        done = load(url, "--clients", "1", "--for", "1")
        assert (done.status, done.out) == (1, "")
        assert error in done.err
        assert "Traceback" not in done.err

    def test_remote_server_is_allowed_by_option(self, load: Load) -> None:
        words = ["--allow-remote", "--clients", "1", "--timeout", "0.5"]
        done = load("http://192.0.2.1:9", *words)  # TEST-NET-1: no server, no route
        assert "0 connected, 1 not" in done.out

    def test_low_limit_of_open_files_is_rejected(self, tmp_path: Path) -> None:
        limited = ("sh", "-c", 'ulimit -n 300; exec "$@"', "sh")
        words = ["load", "http://127.0.0.1:9", "--clients", "201"]
        done = run(*words, cwd=tmp_path, before=limited)
        assert done.status == 1
        assert "201 clients need 301 open files, and this process may have 300" in done.err
        assert "start at most 200 clients" in done.err

    def test_soft_limit_of_open_files_is_raised(self, site: Site, tmp_path: Path) -> None:
        limited = ("sh", "-c", 'ulimit -Sn 110; exec "$@"', "sh")
        words = ["load", site.url, "--clients", "150", "--for", "1", "--rate", "0.1", "--json"]
        done = run(*words, cwd=tmp_path, before=limited)
        assert json.loads(done.out)["connected"] == 150


class TestOutput:
    def test_text_has_percentiles_and_plot(self, site: Site, load: Load) -> None:
        answer()
        done = load(site, "--clients", "4", "--rate", "10", "--for", "1")
        assert (done.status, done.err) == (0, "")
        lines = done.out.splitlines()
        assert lines[0] == f"{site.url}/socket.io/"
        assert "clients     4 connected" in lines
        assert "events      40 sent in 1 s (40 per second), 0 received" in lines
        (latency,) = (line for line in lines if line.startswith("latency "))
        assert re.findall(r"(p[\d.]+|max) [\d.]+ (?:µs|ms|s)", latency) == [
            *("p50", "p90", "p95", "p99", "p99.9", "max")
        ]
        assert '            of 40 acknowledgements of "load"' in lines
        assert "errors      0" in lines
        bars = re.findall(r"^  up to .{6}  (#*) +([\d.]+)%$", done.out, re.MULTILINE)
        assert max(len(bar) for bar, _ in bars) == 50
        assert sum(float(share) for _, share in bars) == pytest.approx(100, abs=1)

    def test_svg_has_line_for_each_percentile(self, site: Site, load: Load, tmp_path: Path) -> None:
        answer()
        file = tmp_path / "chart.svg"
        done = load(site, "--clients", "2", "--for", "3", "--svg", str(file))
        assert done.status == 0
        tree = ElementTree.parse(file)
        space = "{http://www.w3.org/2000/svg}"
        lines = tree.findall(f"{space}polyline")
        assert [len(line.attrib["points"].split()) for line in lines] == [3, 3, 3]
        texts = {text.text for text in tree.iter(f"{space}text")}
        assert {"p50", "p95", "p99", f"{site.url}/socket.io/"} <= texts

    def test_svg_without_latency_says_so(self, load: Load, tmp_path: Path) -> None:
        file = tmp_path / "chart.svg"
        load("http://127.0.0.1:9", "--clients", "1", "--svg", str(file))
        assert "no latency was measured" in file.read_text()

    def test_interrupt_prints_result_so_far(self, site: Site, tmp_path: Path) -> None:
        sent = gevent.event.Event()

        @on_event("load")
        def note(request: Any, socket: Any, context: Any, *args: Any) -> None:
            if args:
                sent.set()

        words = command("load", site.url, "--for", "600", "--clients", "2", "--rate", "20")
        words += ["--data", "1", "--json"]
        process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        sent.wait()
        gevent.sleep(0.5)  # the probe is answered, and the signal arrives while events are sent
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
        result = json.loads(out)
        assert process.returncode == 130
        assert result["interrupted"] is True
        assert result["connected"] == 2

    def test_terminal_shows_progress_bar(self, site: Site, tmp_path: Path) -> None:
        answer()
        main, other = pty.openpty()
        words = command("load", site.url, "--clients", "2", "--for", "1")
        with os.fdopen(other, "wb") as terminal:
            process = subprocess.Popen(
                words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=terminal
            )
        shown = b""
        while True:
            try:
                data = gevent.get_hub().threadpool.apply(os.read, (main, 4096))
            except OSError:  # the other end is closed
                break
            if not data:
                break
            shown += data
        os.close(main)
        assert process.wait() == 0
        assert re.search(rb"connecting +\[#+\] 100%", shown)
        assert re.search(rb"sending +\[#* *\] +\d+%", shown)
        assert shown.endswith(b"\r")
