"""``doctor``: its findings, and that it has no side effects."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import webpy_socketio
from tests.certificates import make_certificate
from tests.commands import APP, run
from tests.conftest import Site
from tests.redis_cluster import RedisCluster
from tests.redis_server import RedisServer
from webpy_socketio.cli.checks import environment, external

pytestmark = pytest.mark.time_limit(90)


class Report(NamedTuple):
    """The report of doctor."""

    status: int
    findings: list[dict[str, str]]
    err: str

    def has(self, level: str, subject: str, text: str, remedy: str = "") -> bool:
        """Return whether there is a finding that contains these texts."""
        return any(
            (one["level"], one["subject"]) == (level, subject)
            and text in one["text"]
            and remedy in one["remedy"]
            for one in self.findings
        )

    def levels(self, subject: str) -> list[str]:
        return [one["level"] for one in self.findings if one["subject"] == subject]


def examine(
    folder: Path, *words: str, before: tuple[str, ...] = (), fork: bool = True, **env: str
) -> Report:
    """Run doctor on a folder's chat.py, if there is one, with a free port."""
    target = ["chat:app"] if (folder / "chat.py").exists() else []
    port = [] if "--port" in words else ["--port", "0"]
    words = ("doctor", *target, "--json", *port, *words)
    done = run(*words, cwd=folder, before=before, fork=fork, **env)
    assert done.out, done.err
    report = json.loads(done.out)
    counts = [
        sum(one["level"] == level for one in report["findings"]) for level in ("warning", "problem")
    ]
    assert [report["warnings"], report["problems"]] == counts
    assert done.status == bool(report["problems"])
    return Report(done.status, report["findings"], done.err)


def explain(folder: Path, source: str, *words: str) -> Report:
    (folder / "chat.py").write_text(source)
    return examine(folder, *words)


class TestReport:
    def test_correct_application_has_no_findings(self, tmp_path: Path) -> None:
        (tmp_path / "chat.py").write_text(APP)
        before = sorted(tmp_path.iterdir())
        enough = ("sh", "-c", 'ulimit -n 2000; exec "$@"', "sh")
        (tmp_path / "chat.py").write_text(APP + "web.config.SOCKETIO_MAX_SESSIONS = 1000\n")
        done = run("doctor", "chat.py", "--port", "0", cwd=tmp_path, before=enough)
        assert (done.status, done.err) == (0, "")
        *lines, empty, summary = done.out.splitlines()
        assert (empty, summary) == ("", "0 problems, 0 warnings")
        assert all(line.startswith("ok       ") for line in lines)
        assert {line[9:20].rstrip() for line in lines} == {
            *("application", "versions", "loop", "native core", "client", "patching", "urls"),
            "debug",
            *("settings", "origins", "plugins", "open files", "address"),
        }
        assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before

    def test_environment_is_checked_without_an_application(self, tmp_path: Path) -> None:
        done = run("doctor", "--port", "0", cwd=tmp_path)
        assert done.status == 0
        assert "To check an application: webpy-socketio doctor module:name" in done.out
        assert "urls" not in done.out


#: A program with as many faults as possible.
FAULTY = """\
import web
from gevent import monkey; monkey.patch_all()
from webpy_socketio import configure
urls = ("/", "index")
app = web.application(urls, {}, autoreload=False)
web.config.SOCKETIO_PROT = 1
web.config.SOCKETIO_PORT = "http"
web.config.SOCKETIO_HOST = "127.0.0.2"
web.config.SOCKETIO_PRESENCE_GRACE = 5
web.config.SOCKETIO_BACKPLANE = "redis://:secret@127.0.0.1:1"
configure({
    "SOCKETIO_HOST": "127.0.0.1",
    "SOCKETIO_ALLOWED_ORIGINS": ["*", "https://example.com"],
    "SOCKETIO_TRUSTED_PROXIES": ["0.0.0.0/0"],
    "SOCKETIO_OUTBOX_BYTES": 2000,
    "SOCKETIO_PLUGINS": ["webpy_socketio.plugins.mesage_logger", "shouting", "odd"],
    "SOCKETIO_MESSAGE_LOG_FORMAT": "%s",
})
if __name__ == "__main__":
    pass
"""

ODD = """\
def examine(settings):
    yield "problem", "the moon is full", "wait"
    yield "nonsense", "of a level", ""
    raise_here
"""

SHOUTING = """\
def install(settings):
    raise ValueError("too loud")
"""

EXPECTED = [
    ("problem", "patching", "chat.py:1 imports web before line 2 patches", "move this to the top"),
    ("problem", "urls", "socketio_urls is not in the application's urls", "urls += socketio_urls"),
    ("warning", "debug", "web.config.debug is on", "web.config.debug = False"),
    ("problem", "settings", "no setting SOCKETIO_PROT; did you mean SOCKETIO_PORT?", "web.config"),
    ("problem", "settings", "SOCKETIO_PORT is 'http', but must be an integer", "correct it"),
    ("warning", "settings", "SOCKETIO_HOST is '127.0.0.2' in web.config, but '127.0.0.1'", "once"),
    ("ok", "settings", "SOCKETIO_OUTBOX_BYTES = 2000, from configure()", ""),
    ("ok", "settings", "SOCKETIO_BACKPLANE = ..., from web.config", ""),
    ("warning", "settings", "SOCKETIO_MAX_MESSAGE_SIZE exceeds SOCKETIO_OUTBOX_BYTES", "raise"),
    ("warning", "settings", "SOCKETIO_PRESENCE_GRACE have no effect", "plugins.presence"),
    ("warning", "origins", "pages of every origin may connect", "SOCKETIO_ALLOWED_ORIGINS"),
    ("warning", "origins", "its other entries have no effect", "remove"),
    ("warning", "proxies", "trusts every address", "list the addresses"),
    ("problem", "plugins", "did you mean 'webpy_socketio.plugins.message_logger'?", "correct"),
    ("problem", "plugins", "'shouting' cannot be installed: ValueError('too loud')", "correct"),
    ("problem", "plugins", "odd: examine() failed: NameError", "correct the plugin"),
    ("problem", "redis", "Redis at 127.0.0.1:1 is unreachable", "correct SOCKETIO_BACKPLANE"),
]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "shouting.py").write_text(SHOUTING)
    (folder / "odd.py").write_text(ODD)
    return explain(folder, FAULTY)


class TestApplication:
    @pytest.mark.parametrize("finding", EXPECTED, ids=lambda finding: finding[2][:30])
    def test_fault_is_found_with_its_remedy(
        self, finding: tuple[str, str, str, str], faulty: Report
    ) -> None:
        assert faulty.status == 1
        assert faulty.has(*finding), faulty.findings

    def test_report_contains_no_secret(self, faulty: Report) -> None:
        assert "secret" not in json.dumps(faulty.findings) + faulty.err

    def test_faults_of_a_second_program_are_found(self, tmp_path: Path) -> None:
        source = (
            APP.partition("\n")[2]
            .replace("web.config.debug = False\n", "")
            .replace('("/", "index")', '("/(.*)", "index")')
        )
        (tmp_path / "odd.py").write_text(ODD.replace("    raise_here\n", ""))
        report = explain(
            tmp_path,
            source + "web.config.debug = False\n"
            "configure({'SOCKETIO_TRUSTED_PROXIES': ['10.0.0.0/8'], 'SOCKETIO_PLUGINS': ['odd'],\n"
            "    'SOCKETIO_ALLOWED_HOSTS': ['chat.example', '127.0.0.1'],\n"
            "    'SOCKETIO_ALLOWED_ORIGINS': ['null', 'capacitor://localhost']})\n",
        )
        assert report.has("problem", "patching", "`python chat.py` does not patch", "first line of")
        assert report.has("problem", "urls", "'/(.*)' comes before socketio_urls", "in front of")
        assert report.has("warning", "debug", "was on when the application was created", "before")
        assert report.has("warning", "proxies", "but SOCKETIO_HOST", '"127.0.0.1"')
        assert report.has("ok", "hosts", "chat.example, 127.0.0.1")
        assert report.has("warning", "origins", "pages without an origin", 'remove "null"')
        assert report.has("problem", "plugins", "odd: the moon is full", "wait")
        assert report.has("warning", "plugins", "odd: of a level")

    @pytest.mark.parametrize("trusted", ["['unix']", "['unix', '10.0.0.1']"])
    def test_proxy_on_a_unix_socket_is_accepted(self, trusted: str, tmp_path: Path) -> None:
        report = explain(tmp_path, APP + f"web.config.SOCKETIO_TRUSTED_PROXIES = {trusted}\n")
        assert report.has("ok", "proxies", "unix")
        assert not report.has("warning", "proxies", "")

    def test_failing_application_is_reported_with_one_traceback(self, tmp_path: Path) -> None:
        report = explain(tmp_path, "import web\n1 / 0\n")
        assert report.has("problem", "application", "chat.py:2", "fix this first")
        (tmp_path / "chat.py").write_text("1 / 0\n")
        done = run("doctor", "chat", "--port", "0", cwd=tmp_path)
        assert done.status == 1
        assert done.err.count("Traceback") == 1
        assert done.err.endswith("ZeroDivisionError: division by zero\n")

    @pytest.mark.parametrize(
        ("source", "finding"),
        [
            (
                "app = ()\n",
                (
                    "problem",
                    "application",
                    "expected a web.application, not an object of type tuple",
                    "",
                ),
            ),
            ("def app(environ, start): ...\n", ("warning", "urls", "app is not a web.application")),
            (
                APP.replace('__name__ == "__main__"', "True"),
                ("problem", "application", "starts a server while it is imported", "this first"),
            ),
        ],
        ids=["no application", "WSGI", "serves"],
    )
    def test_object_that_is_no_application_is_a_problem(
        self, source: str, finding: tuple[str, ...], tmp_path: Path
    ) -> None:
        assert explain(tmp_path, source).has(*finding)


#: The call that starts the server of `APP`.
SERVER = "SocketIOServer(None, app.wsgifunc()"


class TestKeywords:
    """Keywords of ``SocketIOServer(...)`` in the application's file, which is only parsed."""

    def report(self, folder: Path, keywords: str, *words: str) -> Report:
        assert SERVER in APP
        return explain(folder, APP.replace(SERVER, f"{SERVER}, {keywords}"), *words)

    def test_settings_as_keywords_are_a_warning(self, tmp_path: Path) -> None:
        report = self.report(tmp_path, "ping_interval=10, backplane='redis://:secret@r', log=None")
        assert report.has(
            "warning",
            "settings",
            "chat.py:8: SocketIOServer is passed backplane, ping_interval: this applies to "
            "`python chat.py` only, not to `webpy-socketio serve`, gunicorn or these checks",
            "move SOCKETIO_BACKPLANE, SOCKETIO_PING_INTERVAL to web.config",
        )
        assert report.status == 0
        assert "secret" not in json.dumps(report.findings)

    def test_invalid_keywords_are_problems(self, tmp_path: Path) -> None:
        report = self.report(tmp_path, "ping_intervall=10, port='http', backplane='secret'")
        for text in (
            "SocketIOServer() takes no keyword 'ping_intervall'; did you mean ping_interval?",
            "SocketIOServer(): port is 'http', but must be an integer",
            "SocketIOServer(): backplane is <hidden>, but must be",
        ):
            assert report.has(
                "problem", "settings", f"chat.py:8: {text}", "correct it in chat.py:8"
            )
        assert "secret" not in json.dumps(report.findings)

    def test_keywords_known_only_at_run_time_are_skipped(self, tmp_path: Path) -> None:
        report = self.report(tmp_path, "namespaces=NAMES, max_channels=1 + x, **OPTIONS")
        assert report.status == 0
        assert report.has(
            "warning", "settings", "is passed max_channels, namespaces, **OPTIONS:", "MAX_CHANNELS"
        )

    def test_unchecked_certificate_is_a_warning(self, tmp_path: Path) -> None:
        keywords = "certfile='no.crt', keyfile='no.key'"
        report = self.report(tmp_path, keywords)
        assert report.has(
            "warning", "tls", "chat.py:8: the certificate is not checked", "--certfile"
        )
        assert report.levels("settings") == ["ok"]
        report = self.report(tmp_path, keywords, "--certfile", "no.crt")
        assert report.levels("tls") == ["problem"]

    def test_other_keywords_are_not_mentioned(self, tmp_path: Path) -> None:
        report = self.report(tmp_path, "resource='chat', log=None, backlog=5")
        assert report.levels("settings") == ["ok"]


class TestEnvironment:
    def test_outdated_versions_and_libuv_are_found(self, tmp_path: Path) -> None:
        for name in ("orjson-3.10.9", "gevent-24.1", "blinker-1.7"):
            folder = tmp_path / f"{name}.dist-info"
            folder.mkdir()
            project, _, version = name.partition("-")
            (folder / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
            )
        report = examine(tmp_path, PYTHONPATH=str(tmp_path), GEVENT_LOOP="libuv-cffi")
        assert report.has("warning", "versions", "orjson 3.10.9: sending deeply", "orjson>=3.11.6")
        assert report.has("problem", "versions", "gevent 24.1 is older than 25.4", "gevent>=25.4")
        assert report.has("ok", "versions", "blinker 1.7")
        assert report.has("ok", "versions", f"Python {sys.version_info.major}.")
        assert report.has("warning", "loop", "libuv", "GEVENT_LOOP")

    def test_every_dependency_is_checked(self, tmp_path: Path) -> None:
        names = {one["text"].partition(" ")[0] for one in examine(tmp_path).findings}
        assert {"web.py", "gevent", "blinker", "Mako", "websockets", "orjson"} <= names
        assert "redis" not in names

    def test_untested_python_is_a_warning(self) -> None:
        classifiers = [
            "Programming Language :: Python :: 3.8",
            "Programming Language :: Python :: 3",
        ]
        finding = environment._python(classifiers)
        assert (finding.level, finding.remedy) == ("warning", "use 3.8 to 3.8")

    def test_low_limit_of_open_files_is_a_warning(self, tmp_path: Path) -> None:
        few = ("sh", "-c", 'ulimit -Sn 300; exec "$@"', "sh")
        report = examine(tmp_path, before=few)
        assert report.has("warning", "open files", "the limit is 300", "LimitNOFILE=20100")
        assert report.status == 0

    @pytest.mark.parametrize("found", ["nothing", "an older one"])
    def test_missing_or_outdated_client_is_a_problem(self, found: str, tmp_path: Path) -> None:
        package = tmp_path / "webpy_socketio"
        shutil.copytree(Path(webpy_socketio.__file__).parent, package)
        client = package / "static" / "socket.io.min.js"
        client.unlink()
        if found == "nothing":
            expected = ("socket.io.min.js is missing", "")
        else:
            client.write_text("/*! Socket.IO v2.5.0 */")
            expected = ("socket.io.min.js 2.5.0 does not implement", "reinstall")
        report = examine(tmp_path, fork=False)  # imports the copy
        assert report.has("problem", "client", *expected)


class TestAddress:
    def test_address_of_another_program_is_a_problem(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            server.close()
        with socket.socket() as bound:  # bound, but not listening: connections are refused
            bound.bind(("127.0.0.1", port))
            report = examine(tmp_path, "--port", str(port))
        assert report.has("problem", "address", "another program is listening there: stop it")

    def test_address_of_a_running_server_is_a_warning(self, site: Site, tmp_path: Path) -> None:
        report = examine(tmp_path, "--port", str(site.port))
        assert report.has(
            "warning", "address", "a webpy_socketio server already runs", "stop it first"
        )
        assert not site.server.engine.sessions

    def test_address_of_another_machine_is_a_problem(self, tmp_path: Path) -> None:
        report = examine(tmp_path, "--host", "192.0.2.1")
        assert report.has(
            "problem", "address", "does not belong to this machine: change SOCKETIO_HOST"
        )


class TestTLS:
    """The check of the certificate, called in this process."""

    def look(self, certificate: Path | None, key: Path | None) -> list[tuple[str, str, str]]:
        arguments = type("Arguments", (), {})()
        arguments.certfile = certificate and str(certificate)
        arguments.keyfile = key and str(key)
        context: Any = type("Context", (), {"arguments": arguments})()
        return [(one.level, one.text, one.remedy) for one in external.tls(context)]

    def test_valid_certificate_is_ok(self, tmp_path: Path) -> None:
        certificate, key = make_certificate(tmp_path, days=40)
        key.chmod(0o600)
        assert self.look(certificate, key) == [("ok", f"{certificate}, valid for 40 days", "")]
        assert self.look(None, None) == []

    def test_readable_key_and_expiring_certificate_are_warnings(self, tmp_path: Path) -> None:
        certificate, key = make_certificate(tmp_path, days=3)
        key.chmod(0o644)
        assert self.look(certificate, key) == [
            ("warning", f"every user of this machine can read {key}", f"chmod 640 {key}"),
            ("warning", f"{certificate} expires in 3 days", "renew it"),
        ]

    def test_expired_certificate_is_a_problem(self, tmp_path: Path) -> None:
        certificate, key = make_certificate(tmp_path, days=-1)
        key.chmod(0o600)
        ((level, text, remedy),) = self.look(certificate, key)
        assert (level, remedy) == ("problem", "renew it")
        assert "expired" in text

    def test_mismatched_or_missing_files_are_problems(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        certificate, _ = make_certificate(tmp_path)
        _, key = make_certificate(tmp_path / "other")
        ((level, text, remedy),) = self.look(certificate, key)
        assert (level, "cannot be used" in text, "private key" in remedy) == (
            "problem",
            True,
            True,
        )
        missing = tmp_path / "nothing"
        assert self.look(certificate, missing) == [
            ("problem", f"there is no file {missing}", "correct the path")
        ]
        assert self.look(None, key)[0][2] == "add --certfile"

    def test_certificate_options_are_checked(self, tmp_path: Path) -> None:
        certificate, key = make_certificate(tmp_path, days=40)
        report = examine(tmp_path, "--certfile", str(certificate), "--keyfile", str(key))
        assert report.has("ok", "tls", "valid for 40 days")


class TestRedis:
    @pytest.fixture
    def redis(self, tmp_path: Path) -> Iterator[RedisServer]:
        folder = tmp_path / "redis"
        folder.mkdir()
        server = RedisServer(folder).start()
        yield server
        server.stop()

    def source(self, redis: RedisServer) -> str:
        plugins = ["webpy_socketio.plugins.presence"]
        more = {"SOCKETIO_BACKPLANE": redis.url, "SOCKETIO_PLUGINS": plugins}
        return f"{APP}configure({more})\n"

    def test_suitable_redis_is_ok(self, redis: RedisServer, tmp_path: Path) -> None:
        report = explain(tmp_path, self.source(redis))
        assert report.levels("redis") == ["ok", "ok"]
        assert report.has(
            "ok", "plugins", "presence: Redis does not evict keys (maxmemory-policy noeviction)"
        )
        assert report.has("ok", "versions", "redis ")
        assert redis.ask("DBSIZE") == 0  # the check leaves no keys
        assert redis.topics() == set()

    def test_full_or_evicting_redis_is_found(self, redis: RedisServer, tmp_path: Path) -> None:
        redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        redis.ask("CONFIG", "SET", "maxmemory", "1")
        report = explain(tmp_path, self.source(redis))
        assert report.has(
            "warning", "redis", "Redis rejects writes that exceed the limit", "maxmemory"
        )
        policy = "maxmemory-policy is allkeys-lru"
        assert report.has("problem", "plugins", policy, "CONFIG SET maxmemory-policy noeviction")

    def test_redis_user_without_info_is_a_warning(self, redis: RedisServer, tmp_path: Path) -> None:
        redis.ask("ACL", "SETUSER", "default", "-info")
        report = explain(tmp_path, self.source(redis))
        assert report.has("warning", "redis", "reachable, but", "+info")

    def test_redis_before_version_5_is_a_problem(self) -> None:
        def look(version: str, oldest: int = external.VERSION) -> str:
            return next(external._version("Redis", {"redis_version": version}, oldest)).level

        assert [look(version) for version in ("4.0.14", "5.0.0", "10.1", "")] == [
            *("problem", "ok", "ok", "ok")
        ]
        assert look("6.2.14", external.CLUSTER_VERSION) == "problem"
        assert look("7.2.4", external.CLUSTER_VERSION) == "ok"

    def test_version_of_a_cluster_is_checked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = RedisCluster(tmp_path)
        try:
            settings = SimpleNamespace(backplane=cluster.start().url)
            context: Any = SimpleNamespace(settings=settings)
            assert [found.level for found in external.redis(context)] == ["ok", "ok"]
            monkeypatch.setattr(external, "CLUSTER_VERSION", 99)
            assert [found.level for found in external.redis(context)] == ["problem", "ok"]
        finally:
            cluster.stop()

    def test_single_redis_in_place_of_a_cluster_is_a_problem(
        self, redis: RedisServer, tmp_path: Path
    ) -> None:
        source = self.source(redis).replace("redis://", "redis+cluster://")
        report = explain(tmp_path, source)
        assert report.has("problem", "redis", "needs nodes of a Redis Cluster", "")


#: An application whose page is a Mako template; `LOOKUP` is replaced.
MAKO = APP.replace("import web\n", "import web\nfrom mako.lookup import TemplateLookup\n") + "{}\n"

ADD_FOLDER = "add webpy_socketio.template_dir to the directories"


class TestTemplates:
    """``<%include file="socketio_scripts.html"/>`` in the templates of an application."""

    def examine(self, folder: Path, source: str, **templates: str) -> Report:
        (folder / "templates" / "deep").mkdir(parents=True)
        for name, text in templates.items():
            path = folder / "templates" / (name.replace("__", "/") + ".html")
            path.write_text(text)
        return explain(folder, MAKO.format(source))

    INCLUDE = '<%include file="socketio_scripts.html"/>'

    @pytest.mark.parametrize(
        "source",
        [
            'lookup = TemplateLookup(["templates"])',
            "from web.contrib.template import render_mako\n"
            "class View:\n"
            '    render = staticmethod(render_mako(directories=["templates"]).__getattr__)',
            'def page():\n    return TemplateLookup(["templates"])',
        ],
        ids=["module", "class", "function"],
    )
    def test_lookup_without_template_dir_is_a_problem(self, source: str, tmp_path: Path) -> None:
        report = self.examine(tmp_path, source, index=self.INCLUDE, other="<p></p>")
        assert report.levels("templates") == ["problem"]
        assert report.has(
            "problem", "templates", "templates/index.html includes socketio_scripts", ADD_FOLDER
        )

    @pytest.mark.parametrize(
        "source",
        [
            'lookup = TemplateLookup(["templates", template_dir])',
            'def page():\n    return TemplateLookup(["templates", template_dir])',
        ],
        ids=["module", "function"],
    )
    def test_lookup_with_template_dir_is_ok(self, source: str, tmp_path: Path) -> None:
        report = self.examine(tmp_path, source, index=self.INCLUDE)
        assert report.levels("templates") == ["ok"]

    def test_relative_include_in_a_subfolder_is_a_problem(self, tmp_path: Path) -> None:
        source = 'lookup = TemplateLookup(["templates", template_dir])'
        absolute = self.INCLUDE.replace("socketio", "/socketio")
        report = self.examine(tmp_path, source, deep__index=self.INCLUDE, deep__other=absolute)
        assert report.levels("templates") == ["problem"]
        assert report.has("problem", "templates", "deep/index.html", '"/socketio_scripts.html"')

    def test_templates_that_do_not_include_the_scripts_are_not_mentioned(
        self, tmp_path: Path
    ) -> None:
        source = 'lookup = TemplateLookup(["templates"])'
        report = self.examine(tmp_path, source, index=f"## {self.INCLUDE}\n<p></p>")
        assert report.levels("templates") == []


class TestLogging:
    CONFIGURE = "import logging.config\nlogging.config.dictConfig({'version': 1%s})\n"

    def test_configuration_that_disables_loggers_is_a_warning(self, tmp_path: Path) -> None:
        report = explain(tmp_path, APP + self.CONFIGURE % "")
        assert report.has("warning", "logging", "disables the logger", '"disable_existing_loggers"')

    @pytest.mark.parametrize(
        "more", [", 'disable_existing_loggers': False", ", 'loggers': {'webpy_socketio': {}}"]
    )
    def test_configuration_that_keeps_loggers_is_not_mentioned(
        self, more: str, tmp_path: Path
    ) -> None:
        assert explain(tmp_path, APP + self.CONFIGURE % more).levels("logging") == []
