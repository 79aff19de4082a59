"""The text format of Prometheus: adding a label, and joining the metrics of several processes.

https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["Families", "Family"]

#: A label with its value, in which a backslash escapes the next character.
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"\s*,?')

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")

#: Endings of the samples of a histogram or a summary, after the name of the metric.
_SUFFIXES = ("_bucket", "_count", "_sum")


class Family:
    """One metric: its ``HELP`` and ``TYPE``, and its samples as lines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = ""
        self.help = ""
        self.samples: list[str] = []

    @classmethod
    def of(
        cls,
        name: str,
        kind: str,
        text: str,
        values: Mapping[tuple[tuple[str, str], ...], float],
    ) -> Family:
        """Return a family with a value for each set of labels."""
        family = cls(name)
        family.kind = f"# TYPE {name} {kind}"
        family.help = f"# HELP {name} {text}"
        for labels, value in values.items():
            shown = ",".join(f'{label}="{_escape(content)}"' for label, content in labels)
            family.samples.append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")
        return family

    def lines(self) -> list[str]:
        """Return the lines of the family."""
        return [*filter(None, (self.help, self.kind)), *self.samples]


class Families:
    """The metrics of several processes."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def append(self, family: Family) -> None:
        """Add a whole family; it replaces one of the same name."""
        self._families[family.name] = family

    def add(self, text: str, label: str, value: str) -> None:
        """Add the metrics of one process, with a label for each sample.

        A label of that name that a sample has already is renamed, as Prometheus does:
        ``exported_`` is put in front. Samples of a metric that another process reports with another
        type are left out.
        """
        own = Families()
        current = Family("")
        for line in text.split("\n"):  # not splitlines: values may contain other separators
            if line.startswith(("# HELP ", "# TYPE ")):
                words = line.split(" ", 3)
                if words[2] != current.name:
                    current = own._families.setdefault(words[2], Family(words[2]))
                if words[1] == "HELP":
                    current.help = line
                else:
                    current.kind = line
            elif line and not line.startswith("#"):
                match = _NAME.match(line)
                if match is None:
                    continue
                name = match.group()
                if not _belongs(name, current.name):
                    current = own._families.setdefault(name, Family(name))
                sample = _add_label(line, match.end(), label, value)
                if sample is not None:
                    current.samples.append(sample)
        for found in own._families.values():
            family = self._families.setdefault(found.name, found)
            if family is not found and family.kind == found.kind:
                family.samples += found.samples

    def text(self) -> bytes:
        """Return all metrics."""
        lines = [line for family in self._families.values() for line in family.lines()]
        return "".join(f"{line}\n" for line in lines).encode()


def _belongs(name: str, family: str) -> bool:
    return name == family or (
        name.startswith(family) and name.removeprefix(family) in _SUFFIXES and family != ""
    )


def _add_label(line: str, at: int, label: str, value: str) -> str | None:
    """Return a sample with one more label, or None if the line is not a sample."""
    name, rest = line[:at], line[at:].lstrip()
    first = f'{label}="{_escape(value)}"'
    if not rest.startswith("{"):
        return f"{name}{{{first}}} {rest}"
    labels = [first]
    position = 1
    while (found := _LABEL.match(rest, position)) is not None:
        key = found.group(1)
        labels.append(f'{f"exported_{key}" if key == label else key}="{found.group(2)}"')
        position = found.end()
    end = rest.find("}", position)
    if end < 0 or rest[position:end].strip():
        return None
    return f"{name}{{{','.join(labels)}}}{rest[end + 1 :]}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
