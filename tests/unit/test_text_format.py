"""The text format of Prometheus: labels that are added, and metrics that are joined."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from webpy_socketio.cli.text_format import Families, Family


def join(*texts: str) -> str:
    families = Families()
    for number, text in enumerate(texts, 1):
        families.add(text, "worker", str(number))
    return families.text().decode()


def samples(text: str) -> list[tuple[str, dict[str, str], float]]:
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def exposition(value: float) -> str:
    registry = CollectorRegistry()
    odd = 'a "quoted" \\ back\nline }, {x="y"} \u2028 ü'
    Counter("hits", "Help with \\ and\nline", ["page"], registry=registry).labels(odd).inc(value)
    Gauge("temperature", "Degrees", registry=registry).set(value)
    Histogram("wait", "Seconds", ["page"], registry=registry, buckets=(1,)).labels(odd).observe(2)
    Info("build", "Version", registry=registry).info({"version": "1"})
    return generate_latest(registry).decode()


class TestFamilies:
    def test_every_sample_has_the_label_and_its_own_value_and_labels(self) -> None:
        joined = samples(join(exposition(1), exposition(2)))
        for number in (1, 2):
            label = {"worker": str(number)}
            expected = [
                (name, {**labels, **label}, value)
                for name, labels, value in samples(exposition(number))
            ]
            own = [each for each in joined if each[1]["worker"] == str(number)]
            for lists in (own, expected):  # the times of creation differ
                lists[:] = sorted(
                    (each for each in lists if not each[0].endswith("_created")), key=repr
                )
            assert own == expected

    def test_help_and_type_are_written_once_before_all_samples(self) -> None:
        lines = join(exposition(1), exposition(2), exposition(3)).splitlines()
        heads = [line for line in lines if line.startswith("#")]
        assert len(heads) == len(set(heads))
        types = [line.split()[2] for line in heads if line.startswith("# TYPE")]
        order = []
        for line in join(exposition(1), exposition(2)).split("\n"):
            if line and not line.startswith("#"):
                name = line.partition("{")[0]
                for suffix in ("_bucket", "_count", "_sum"):
                    name = name.removesuffix(suffix)
                if not order or order[-1] != name:
                    order.append(name)
        assert order == types

    def test_label_of_the_same_name_is_renamed(self) -> None:
        text = '# TYPE jobs gauge\njobs{worker="mine",kind="a"} 3\n'
        assert samples(join(text)) == [
            ("jobs", {"worker": "1", "exported_worker": "mine", "kind": "a"}, 3)
        ]

    def test_metric_of_another_type_is_left_out(self) -> None:
        joined = join("# TYPE jobs gauge\njobs 1\n", "# TYPE jobs counter\njobs 2\n")
        assert joined == '# TYPE jobs gauge\njobs{worker="1"} 1\n'

    def test_sample_without_type_and_timestamp_are_kept(self) -> None:
        assert join("a 1 1700000000000\nb{} 2\n") == (
            'a{worker="1"} 1 1700000000000\nb{worker="1"} 2\n'
        )

    @pytest.mark.parametrize("line", ["{", 'a{b="c} 1', "a{b=c} 1", "\x00", "a{,} 1"])
    def test_invalid_line_is_left_out(self, line: str) -> None:
        assert join(f"{line}\nb 2\n") == 'b{worker="1"} 2\n'

    def test_own_family_escapes_labels(self) -> None:
        families = Families()
        families.append(Family.of("x", "gauge", "Text.", {(("a", 'q"\\\n'),): 1}))
        assert samples(families.text().decode()) == [("x", {"a": 'q"\\\n'}, 1)]
