"""The files for Prometheus and Grafana name only metrics and labels that are exported."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Site
from tests.integration.test_metrics import get
from tests.recovery_client import RecoveringClient
from tests.redis_server import RedisServer
from webpy_socketio import Refused, on_message, on_subscribing
from webpy_socketio.cli.worker_metrics import MetricsEndpoint, WorkerState
from webpy_socketio.engine.workers.runtime_folder import make_runtime_folder
from webpy_socketio.engine.workers.status_socket import StatusSocket
from webpy_socketio.runtime import default_runtime

yaml = pytest.importorskip("yaml", reason="the library PyYAML is missing")

FOLDER = Path(__file__).parents[2] / "docs" / "monitoring"

#: Labels that Prometheus adds, and its own metric.
ADDED = {"job", "instance"}

#: Functions, operators and keywords of PromQL that the files use.
WORDS = {
    *("sum", "min", "max", "by", "without", "rate", "increase", "histogram_quantile"),
    "label_values",
}

SELECTOR = re.compile(r"\b([a-zA-Z_:][\w:]*)\b(?!\s*\()(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"[^"]*"')
GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")


class Query:
    """Metrics, labels and groups of an expression."""

    def __init__(self, text: str) -> None:
        text = text.replace("$__rate_interval", "5m")
        self.groups = {
            label.strip() for found in GROUPING.findall(text) for label in found.split(",")
        }
        rest = re.sub(r"\[\w+\]", "", GROUPING.sub("", text))
        self.selected: dict[str, set[str]] = {}
        for name, matchers in SELECTOR.findall(rest):
            if name not in WORDS:
                assert MATCHER.sub("", matchers).strip(" ,") == "", text
                self.selected.setdefault(name, set()).update(MATCHER.findall(matchers))
        assert self.selected, text
        assert text.count("(") == text.count(")")

    def check(self, exported: dict[str, set[str]]) -> None:
        labels = set(ADDED)
        for name, used in self.selected.items():
            assert name in exported, f"no metric {name}"
            assert used <= exported[name] | ADDED, f"{name}: {used - exported[name]}"
            labels |= exported[name]
        assert self.groups <= labels


@pytest.fixture
def exported(serve: Callable[..., Site], redis: RedisServer) -> dict[str, set[str]]:
    """The labels of all metrics of a server, served as by the supervisor."""

    @on_message
    def message(request: Any, socket: Any, context: Any, message: Any) -> None:
        if message == "fail":
            raise ValueError("for the metrics")
        socket.send(message)

    @on_subscribing(channel="staff")
    def gate(request: Any, socket: Any, context: Any, channel: str) -> None:
        raise Refused("no")

    site = serve(
        plugins=["webpy_socketio.plugins.metrics"],
        backplane=redis.url,
        recovery_time=60,
        write_timeout=60,
    )
    client, lost = site.connect(), RecoveringClient(site)
    lost.raw.emit("message", "hello")
    assert lost.event() == ["message", "hello"]
    client.call("__subscribe__", "room")
    client.call("__subscribe__", "staff")
    client.call("__unsubscribe__", "room")
    client.emit("message", "fail")
    client.emit("message", "hello")
    assert client.event()[:2] == ["message", "hello"]
    client.send("41")
    lost.raw.vanish()
    while not any(socket.suspended for socket in default_runtime.sockets()):
        gevent.sleep(0.01)
    assert lost.resume(site)
    folder = make_runtime_folder()
    status = StatusSocket(folder.path, 1, default_runtime.answer)
    endpoint = MetricsEndpoint(
        {"host": "127.0.0.1", "port": 0, "limits": {}},
        str(folder.path),
        lambda: [WorkerState(0, 1, True)],
        {"ended": 0},
    )
    try:
        _, text = get(endpoint.address[1])
    finally:
        endpoint.close()
        status.close()
        folder.path.rmdir()  # before it is unlocked, as other tests remove unused folders
        folder.close()
    found: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    return found


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_queries_name_exported_metrics_and_labels(exported: dict[str, set[str]]) -> None:
    used: set[str] = set()
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            query = Query(target["expr"])
            query.check(exported)
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= query.groups, panel["title"]
            used |= set(query.selected)
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = variable["definition"].removeprefix("label_values(")[:-1].rsplit(", ")
            Query(selector).check(exported)
            assert label in ADDED | {"worker"}
    for rule in rules():
        query = Query(rule["expr"])
        query.check(exported)
        used |= set(query.selected)
    # Each metric of the package is used, and is in the reference.
    own = {re.sub("_(bucket|sum|count)$", "", name) for name in exported}
    own = {name for name in own if name.startswith("webpy_socketio_")}
    reference = (FOLDER.parent / "reference" / "metrics.rst").read_text(encoding="utf-8")
    listed = set(re.findall(r"^``([a-z_]+)``(?:, ``([a-z_]+)``)?", reference, re.MULTILINE))
    names = {name for names in listed for name in names if name} - {"send"}
    assert {f"webpy_socketio_{name}" for name in names} == own
    left_out = {"channels", "subscriptions_total", "unsubscriptions_total"}
    left_out.add("supervisor_start_time_seconds")
    missing = own - {re.sub("_(bucket|sum|count)$", "", name) for name in used}
    assert missing == {f"webpy_socketio_{name}" for name in left_out}


@pytest.mark.parametrize(
    "text",
    [
        "webpy_socketio_nonsense",
        'webpy_socketio_sessions{nonsense="1"}',
        "sum by (nonsense) (webpy_socketio_sessions)",
    ],
)
def test_query_with_a_wrong_name_is_found(text: str) -> None:
    with pytest.raises(AssertionError):
        Query(text).check({"webpy_socketio_sessions": {"transport"}})


class TestDashboard:
    def test_dashboard_has_the_parts_that_grafana_needs(self) -> None:
        found = dashboard()
        assert {"title", "uid", "tags", "time", "refresh", "annotations"} <= set(found)
        assert found["schemaVersion"] >= 36
        assert "id" not in found  # set by Grafana
        names = [variable["name"] for variable in found["templating"]["list"]]
        assert names == ["datasource", "job", "instance", "worker"]
        text = json.dumps(found)
        used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval"}
        assert used == set(names)

    def test_panels_have_ids_and_places_of_their_own(self) -> None:
        panels = dashboard()["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        places: set[tuple[int, int]] = set()
        for panel in panels:
            grid = panel["gridPos"]
            place = set(
                itertools.product(
                    range(grid["x"], grid["x"] + grid["w"]), range(grid["y"], grid["y"] + grid["h"])
                )
            )
            assert grid["x"] + grid["w"] <= 24
            assert not place & places, panel["title"]
            places |= place

    def test_panels_have_titles_types_and_targets(self) -> None:
        for panel in dashboard()["panels"]:
            assert panel["title"]
            assert panel["type"] in ("row", "stat", "timeseries")
            if panel["type"] == "row":
                continue
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            ids = [target["refId"] for target in panel["targets"]]
            assert ids == [chr(ord("A") + number) for number in range(len(ids))]
            for each in (panel, *panel["targets"]):
                assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}

    def test_rows_cover_all_areas(self) -> None:
        rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
        text = " ".join(rows)
        areas = ("Sessions", "Messages", "Latency", "Errors", "backlog", "Redis", "recovery")
        for area in (*areas, "Workers"):
            assert area in text


class TestPrometheus:
    def test_rules_have_names_labels_and_summaries(self) -> None:
        found = rules()
        names = [rule["alert"] for rule in found]
        assert len(set(names)) == len(names)
        for rule in found:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"\d+[sm]", rule.get("for", "1m"))
            assert rule["labels"]["severity"] in ("warning", "critical")
            labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            query = Query(rule["expr"])
            if query.groups and "without" not in rule["expr"]:
                assert labels <= query.groups, rule["alert"]

    def test_configuration_scrapes_the_port_of_the_guide(self) -> None:
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
        assert config["rule_files"] == ["alerts.yml"]
        (scrape,) = config["scrape_configs"]
        assert f'job="{scrape["job_name"]}"' in rules()[0]["expr"]
        ports = {
            target.rpartition(":")[2]
            for group in scrape["static_configs"]
            for target in group["targets"]
        }
        guide = (FOLDER.parent / "how-to" / "monitoring.rst").read_text(encoding="utf-8")
        assert [port for port in ports if f'METRICS_PORT", {port}' in guide] == list(ports)
