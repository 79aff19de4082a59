"""The checks of `doctor`, and their findings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from webpy_socketio.cli.named_application import NamedApplication
from webpy_socketio.config.settings import Settings

__all__ = ["LEVELS", "Check", "CheckContext", "Finding", "ok", "problem", "warning"]

#: In order of severity. A problem keeps the application from working; a warning may be intended.
LEVELS = ("ok", "warning", "problem")


class Finding(NamedTuple):
    """The result of one check."""

    level: str
    subject: str
    text: str
    #: What to do; empty if there is nothing to do, or if `text` names it.
    remedy: str = ""


@dataclass
class CheckContext:
    """The input of the checks, which must not change it."""

    #: The arguments of the command line.
    arguments: argparse.Namespace
    #: Without the invalid settings of ``web.config``.
    settings: Settings
    #: None if no application was named, or if it cannot be imported.
    named: NamedApplication | None
    #: The ``web.application`` objects of its module.
    applications: list[Any]


Check = Callable[[CheckContext], Iterator[Finding]]


def ok(subject: str, text: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding("ok", subject, text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding that may be intended."""
    return Finding("warning", subject, text, remedy)


def problem(subject: str, text: str, remedy: str = "") -> Finding:
    """Return a finding that keeps the application from working."""
    return Finding("problem", subject, text, remedy)
