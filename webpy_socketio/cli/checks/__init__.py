"""What `doctor` looks at, and what it finds: one line each, with what to do about it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from webpy_socketio.cli.target import Target
from webpy_socketio.config.settings import Settings

__all__ = ["LEVELS", "Check", "CheckContext", "Finding", "ok", "problem", "warning"]

#: From good to bad. A problem keeps the application from working; a warning may be meant.
LEVELS = ("ok", "warning", "problem")


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: str
    subject: str
    text: str
    #: What to do; empty where nothing is to be done, or where the text says it.
    remedy: str = ""


@dataclass
class CheckContext:
    """What is looked at. Nothing of it is changed."""

    #: The words of the command line.
    arguments: argparse.Namespace
    #: What ``web.config`` has of settings that are wrong is left out.
    settings: Settings
    #: None if no application was named, or if it could not be imported.
    target: Target | None
    #: The application's own web.py applications.
    applications: list[Any]


Check = Callable[[CheckContext], Iterator[Finding]]


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", subject, text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    """It may be meant."""
    return Finding("warning", subject, text, remedy)


def problem(subject: str, text: str, remedy: str = "") -> Finding:
    """It will not work."""
    return Finding("problem", subject, text, remedy)
